"""Remainders of the flow at the nodes of a collocation, evaluated in batches over samples and nodes alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .evaluate import Evaluator
from .pieces import Slot
from .whitening import Whitening


def remainders(whitening: Whitening, evaluator: Evaluator, own: Sequence[tuple[Slot, int]], samples: Sequence[int]) -> Tensor:
    """Compute g = sigma^2 (s / sqrt(v) + y / v) at pairs of slot and node, [pairs, n]; `samples` are the ids of the batch.

    Raises ScoreError for scores that are not finite.
    """
    reference = whitening.reference
    basis, mean = reference.basis, reference.mean
    found = mean.new_empty(len(own), basis.num_coords)
    rows = evaluator.max_rows or max(1, len(own))
    for start in range(0, len(own), rows):
        pairs = own[start : start + rows]
        signal, sigma, times = _levels_at(pairs, mean)
        y = torch.stack([slot.path[node] for slot, node in pairs])
        root = torch.stack([slot.tables.root[node] for slot, node in pairs])
        x = evaluator.project(basis.synthesise(root * y) + signal[:, None] * mean)
        ids = [samples[slot.index] for slot, _ in pairs]
        score = evaluator(x[:, None], times, ids)
        evaluator.check(score, times, ids)
        whitened = basis.analyse(score[:, 0]).div_(root).add_(y / root**2)
        found[start : start + rows] = whitened.mul_(sigma[:, None] ** 2)
    return found


def _levels_at(pairs: Sequence[tuple[Slot, int]], like: Tensor) -> tuple[Tensor, ...]:
    """Signal, noise and time [pairs] at some nodes."""
    at = [(slot.tables.piece, node) for slot, node in pairs]
    levels = [torch.stack([getattr(piece, name)[node] for piece, node in at]) for name in ("alpha", "sigma", "t")]
    return tuple(level.to(like) for level in levels)
