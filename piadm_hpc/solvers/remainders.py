"""Remainders of the flow at the nodes of a collocation, evaluated in batches over samples and nodes alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .evaluate import Evaluator
from .nodes import node_rows
from .pieces import Slot
from .whitening import Whitening


def remainders(whitening: Whitening, evaluator: Evaluator, own: Sequence[tuple[Slot, int]], samples: Sequence[int]) -> Tensor:
    """Compute g = sigma^2 (s / sqrt(v) + y / v) at pairs of slot and node, [pairs, n]; `samples` are the ids of the batch.

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
        found[start : start + size] = whitened.mul_(rows.sigma.to(y)[:, None] ** 2)
    return found
