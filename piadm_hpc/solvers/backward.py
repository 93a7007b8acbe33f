"""Backward sweeps over the nodes of converged flows: the gradients of their first states from those of their end states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..schema.conditions import Condition, leaves
from ..theory.grid import Partition
from .evaluate import Evaluator
from .nodes import node_rows
from .slot import Visited
from .traces import differentiable_score
from .whitening import Whitening

MOST_SWEEPS = 200


class Backward:
    """Backward sweeps of several samples, each through its own pieces, from the last to the first."""

    def __init__(
        self, whitening: Whitening, evaluator: Evaluator, names: Sequence[int], visited: Sequence[Sequence[Visited]],
        comm: Communicator, tol: float, condition: Condition | None,
    ):  # fmt: skip
        self.whitening, self.evaluator, self.names, self.comm, self.tol = whitening, evaluator, names, comm, tol
        self.left = [list(pieces) for pieces in visited]
        inputs = [] if condition is None else [values for _, values in leaves(condition) if values.requires_grad]
        self.inputs, self.found = inputs, [torch.zeros_like(values) for values in inputs]
        self.sweeps = torch.zeros(len(names), dtype=torch.long)
        self.residual = torch.zeros(len(names), dtype=torch.float64)

    def gradient_of(self, values: Tensor) -> Tensor:
        """Return the gradient in a leaf of the condition."""
        places = [k for k, one in enumerate(self.inputs) if one is values]
        return self.found[places[0]] if places else torch.zeros_like(values)

    def run(self, ends: Tensor) -> Tensor:
        """Return the gradients [samples, n] in the whitened first states from those in the whitened end states."""
        slopes = list(ends)
        products = [torch.zeros_like(pieces[-1].path[:-1]) for pieces in self.left]
        tried = [0] * len(slopes)
        while open_samples := [k for k, pieces in enumerate(self.left) if pieces]:
            found, in_condition = self._sweep(open_samples, slopes, products)
            changes = [self._change(slopes[k], products[k], new) for k, new in zip(open_samples, found, strict=True)]
            # ranks on different processors may round differently, but must take the same decision
            shared = self.comm.max(torch.tensor(changes, dtype=torch.float64)).tolist()
            for k, new, residual in zip(open_samples, found, shared, strict=True):
                products[k], tried[k] = new, tried[k] + 1
                self.sweeps[k] += 1
                if residual > self.tol and tried[k] < MOST_SWEEPS:
                    continue
                self.residual[k] = max(float(self.residual[k]), residual)
                slopes[k] = slopes[k] + new.sum(0)
                for total, part in zip(self.found, in_condition, strict=True):
                    total[k] += part[k]
                self.left[k].pop()
                tried[k] = 0
                products[k] = torch.zeros_like(self.left[k][-1].path[:-1]) if self.left[k] else products[k]
        return torch.stack(slopes)

    @staticmethod
    def _change(slope: Tensor, old: Tensor, new: Tensor) -> float:
        """Return how much a sweep has changed the gradient at the start of a piece, relative to its norm."""
        size = torch.linalg.vector_norm(slope + new.sum(0)).clamp(min=torch.finfo(slope.dtype).tiny)
        return float(torch.linalg.vector_norm((new - old).sum(0)) / size)

    def _sweep(self, samples: list[int], slopes: list[Tensor], products: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the products G_i^T mu_i [M, n] of some samples, and their contribution to the gradient in the condition."""
        multipliers = []
        for k in samples:
            weights = self.left[k][-1].tables.weights
            multipliers.append(weights[-1, :, None] * slopes[k] + weights[:-1].T @ products[k])
        nodes = [(k, node) for k in samples for node in range(len(products[k]))]
        cut = Partition(len(nodes), self.comm.size)
        own, flat = cut.slice(self.comm.rank), torch.cat(multipliers)
        work = partial(self._products, nodes[own], flat[own])
        mine, in_condition = self.evaluator.together(self.comm, work)
        everyone = self.comm.allgather(mine, [cut.length(rank) for rank in range(self.comm.size)])
        shared = [self.comm.sum(part) for part in in_condition]
        return list(torch.split(everyone, [len(products[k]) for k in samples])), shared

    def _products(self, nodes: Sequence[tuple[int, int]], multipliers: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return G_i^T mu_i [nodes, n] at some nodes, and the sums of (dg_i/dc)^T mu_i for the leaves c of the condition."""
        found, sums = torch.zeros_like(multipliers), [torch.zeros_like(values) for values in self.inputs]
        rows = self.evaluator.max_rows or max(1, len(nodes))
        for start in range(0, len(nodes), rows):
            part = nodes[start : start + rows]
            pieces = [self.left[k][-1] for k, _ in part]
            with torch.enable_grad():
                y = torch.stack([piece.path[node] for piece, (_, node) in zip(pieces, part, strict=True)]).requires_grad_()
                g = self._remainder(y, part, pieces)
                slopes = torch.autograd.grad(g, [y, *self.inputs], multipliers[start : start + rows], allow_unused=True)
            found[start : start + rows] = slopes[0]
            for total, slope in zip(sums, slopes[1:], strict=True):
                if slope is not None:
                    total += slope
        return found, sums

    def _remainder(self, y: Tensor, part: Sequence[tuple[int, int]], pieces: Sequence[Visited]) -> Tensor:
        """Compute g = sigma^2 dl/du (s / sqrt(v) + y / v) [rows, n] at whitened states y [rows, n], with its graph."""
        basis = self.whitening.reference.basis
        at = [(piece.tables, node) for piece, (_, node) in zip(pieces, part, strict=True)]
        rows = node_rows(self.whitening, self.evaluator, at, y)
        score = self.evaluator.project(differentiable_score(self.evaluator, rows.x, rows.t, [self.names[k] for k, _ in part]))
        return rows.factor.to(y)[:, None] * (basis.analyse(score) / rows.root + y / rows.root**2)
