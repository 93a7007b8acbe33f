"""Gradients through a collocated flow, by backward sweeps over its nodes.

With the gradient v of an objective in the whitened end state, remainders g_j with Jacobians G_j = dg_j/dy_j and the tables of
integrals W and w of the collocation, the adjoint is the solution of

    mu_j = w_j v + sum_i W_ij G_i^T mu_i,        d objective / dy_start = v + sum_i G_i^T mu_i

All vector-Jacobian products of a sweep are one batch, shared by the ranks. This is the exact gradient of the collocation
equations (discretise, then differentiate), whatever path the sweeps took to their solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator, SerialCommunicator
from ..schema.conditions import Condition, apply_to_leaves, leaves, matched
from ..theory.grid import Partition
from .arguments import check_arguments
from .collocate import CollocationSolver
from .collocation import Collocation
from .evaluate import Conditions, Evaluator, Score
from .options import Options
from .pieces import Visited
from .solve import Projection
from .traces import differentiable_score
from .whitening import Whitening

Objective = Callable[[Tensor], Tensor]
MOST_SWEEPS = 200


@dataclass(frozen=True)
class Gradient:
    """Gradients of an objective of the end states of a flow, per sample.

    Attributes:
        x: the end states, [samples, *event].
        first: gradient in the first states, [samples, *event].
        condition: gradient in the condition, a tree of its form; None without one, zero for its integers.
        sweeps: number of backward sweeps, [samples].
        residual: last change of the gradient relative to its norm, [samples].
    """

    x: Tensor
    first: Tensor
    condition: Condition | None
    sweeps: Tensor
    residual: Tensor


def gradient(
    chain: Collocation,
    score: Score,
    x0: Tensor,
    objective: Objective,
    options: Options | None = None,
    *,
    condition: Condition | None = None,
    comm: Communicator | None = None,
    samples: Sequence[int] | None = None,
    project: Projection | None = None,
) -> Gradient:
    """Differentiate an objective of the end states of a flow in its first states and its condition; collective over `comm`.

    Args:
        chain: the flow.
        score: as in `solve`; torch must be able to differentiate it.
        x0: first states [samples, *event], float32 or float64.
        objective: maps end states [samples, *event] to one number for each sample, or to their sum.
        options: how to solve the flow; backward sweeps end when the gradient changes by less than `tol` of its norm.
        condition: as in `solve`.
        comm: the ranks that share the nodes; default: this process alone.
        samples: ids of the samples; default 0, 1, ...
        project: as in `solve`.

    Raises:
        ValueError: for a chain that is no collocation, and for arguments that do not fit together.
        ScoreError: on every rank, when the score fails on any or cannot be differentiated.
    """
    comm, options = comm or SerialCommunicator(), options or Options()
    if not isinstance(chain, Collocation):
        raise ValueError("gradient: backward sweeps go over the nodes of a collocation, and this is a chain of steps")
    if options.tol is None:
        raise ValueError("gradient: backward sweeps end at a tolerance; give `tol`")
    names = list(range(len(x0))) if samples is None else list(samples)
    check_arguments(
        chain, x0, names, options, momentum=None, condition=condition, noise=None, reference=chain.reference, comm=comm
    )
    given = None if condition is None else apply_to_leaves(matched(condition, x0), _leaf)
    conditions = None if given is None else Conditions(given, {name: k for k, name in enumerate(names)})
    evaluator = Evaluator(score, tuple(x0.shape[1:]), project, options.model_batch, comm.world_rank, 1, conditions)
    with torch.no_grad():
        first = evaluator.project(x0.flatten(1))
        solver = CollocationSolver(chain, evaluator, first, names, replace(options, traces="exact"), comm, None)
        end = solver.run().end[:, 0].reshape(x0.shape)
    backward = _Backward(solver.whitening, evaluator, names, solver.visited, comm, options.tol, given)
    starts = backward.run(_at_end(evaluator, solver.whitening, objective, end))
    in_first = evaluator.project(_transposed(solver.whitening.enter, first, starts)).reshape(x0.shape)
    in_condition = None if given is None else apply_to_leaves(given, backward.gradient_of)
    return Gradient(end, in_first, in_condition, backward.sweeps, backward.residual)


def _leaf(values: Tensor) -> Tensor:
    return values.detach().clone().requires_grad_() if values.is_floating_point() else values


def _at_end(evaluator: Evaluator, whitening: Whitening, objective: Objective, end: Tensor) -> Tensor:
    """Return the gradient of the objective in the whitened end states, [samples, n]."""
    with torch.enable_grad():
        x = end.detach().clone().requires_grad_()
        value = objective(x)
        if not isinstance(value, Tensor) or not value.requires_grad or value.shape not in ((), (len(end),)):
            raise ValueError("gradient: the objective must return one number a sample, or one, that depends on the states")
        (slope,) = torch.autograd.grad(value.sum(), x)
    y = torch.zeros(len(end), whitening.reference.basis.num_coords, dtype=end.dtype, device=end.device)
    return _transposed(whitening.leave, y, evaluator.project(slope.flatten(1)))


def _transposed(function: Callable[[Tensor], Tensor], at: Tensor, slope: Tensor) -> Tensor:
    """Return J^T slope for the Jacobian J of an affine function."""
    with torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(function(leaf), leaf, slope)
    return found


class _Backward:
    """Backward sweeps of several samples, each through its own pieces from the last to the first."""

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
            # ranks on different processors may round differently, and must not decide differently
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
        """Return the products G_i^T mu_i [M, n] of some samples, and what they add to the gradient in the condition."""
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
        """Compute g = sigma^2 (s / sqrt(v) + y / v) [rows, n] at whitened states y [rows, n], with its graph."""
        reference = self.whitening.reference
        alpha, sigma, t = (
            torch.stack([getattr(piece.tables.piece, name)[node] for piece, (_, node) in zip(pieces, part, strict=True)]).to(y)
            for name in ("alpha", "sigma", "t")
        )
        root = torch.stack([piece.tables.root[node] for piece, (_, node) in zip(pieces, part, strict=True)])
        x = self.evaluator.project(reference.basis.synthesise(root * y) + alpha[:, None] * reference.mean)
        score = differentiable_score(self.evaluator, x, t, [self.names[k] for k, _ in part])
        return sigma[:, None] ** 2 * (reference.basis.analyse(self.evaluator.project(score)) / root + y / root**2)
