"""Remainders of the flow at the nodes of a collocation, evaluated in batches over samples and nodes alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.chebyshev import chebyshev_nodes
from ..theory.grid import Partition
from .evaluate import Evaluator, Score
from .nodes import node_rows
from .slot import Slot
from .whitening import Whitening


def remainders(whitening: Whitening, evaluator: Evaluator, own: Sequence[tuple[Slot, int]], samples: Sequence[int]) -> Tensor:
    """Compute g = sigma^2 dl/du (s / sqrt(v) + y / v) at pairs of slot and node, [pairs, n]; `samples` are the ids of the batch.

    Raises ScoreError for scores that are not finite.
    """
    basis = whitening.reference.basis
    found = whitening.reference.mean.new_empty(len(own), basis.num_coords)
    size = evaluator.max_rows or max(1, len(own))
    for start in range(0, len(own), size):
        pairs = own[start : start + size]
        y = torch.stack([slot.path[node] for slot, node in pairs])
        rows = node_rows(whitening, evaluator, [(slot.tables, node) for slot, node in pairs], y)
        ids = [samples[slot.index] for slot, _ in pairs]
        score = evaluator(rows.x[:, None], rows.t, ids)
        evaluator.check(score, rows.t, ids)
        whitened = basis.analyse(score[:, 0]).div_(rows.root).add_(y / rows.root**2)
        found[start : start + size] = whitened.mul_(rows.factor.to(y)[:, None])
    return found


def follow_student(
    whitening: Whitening, score: Score, evaluator: Evaluator, slots: Sequence[Slot], samples: Sequence[int], comm: Communicator
) -> None:
    """Start slots that are new to a piece on the flow of a cheaper `score`, whose remainders become their prediction.

    Its states follow from node to node by the two-step method of Adams and Bashforth, its path from the integrals of all its
    remainders. Each rank predicts for an equal share of the slots. Raises ScoreError on all ranks if the score fails on any.
    """
    if not slots:
        return
    nodes, cut = slots[0].tables.nodes, Partition(len(slots), comm.size)
    own, student = slots[cut.slice(comm.rank)], replace(evaluator, score=score)
    mine = student.together(comm, partial(_steps_of_student, whitening, student, own, samples, nodes))
    everyone = comm.allgather(mine.flatten(0, 1), [nodes * cut.length(rank) for rank in range(comm.size)])
    for slot, predicted in zip(slots, torch.split(everyone, nodes), strict=True):
        slot.todo[-1] = replace(slot.todo[-1], predicted=predicted)
        slot.start(slot.tables)


def _steps_of_student(
    whitening: Whitening, student: Evaluator, own: Sequence[Slot], samples: Sequence[int], nodes: int
) -> Tensor:
    """Return the remainders [slots, nodes, n] of a student's own flow; the slots' paths are overwritten by its states."""
    found = whitening.reference.mean.new_zeros(len(own), nodes, whitening.reference.basis.num_coords)
    steps = [] if not own else (np.diff(chebyshev_nodes(nodes)) * own[0].tables.piece.length / 2).tolist()
    for node in range(nodes if own else 0):
        found[:, node] = remainders(whitening, student, [(slot, node) for slot in own], samples)
        if node + 1 < nodes:
            change = found[:, node] - found[:, max(node - 1, 0)]
            slopes = found[:, node] + change * (steps[node] / (2 * steps[max(node - 1, 0)]))
            for slot, slope in zip(own, slopes, strict=True):
                slot.path[node + 1] = slot.path[node] + slope * (steps[node] / 2)
    return found
