"""Gradients through a collocated flow, by backward sweeps over its nodes.

With the gradient v of an objective in the whitened end state, remainders g_j with Jacobians G_j = dg_j/dy_j and the tables of
integrals W and w of the collocation, the adjoint is the solution of

    mu_j = w_j v + sum_i W_ij G_i^T mu_i,        d objective / dy_start = v + sum_i G_i^T mu_i

All vector-Jacobian products of a sweep are one batch, shared by the ranks. This is the exact gradient of the collocation
equations (discretise, then differentiate), whatever sweeps led to their solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..comm.communicator import Communicator, SerialCommunicator
from ..schema.conditions import Condition, apply_to_leaves, matched
from .arguments import check_arguments
from .backward import Backward
from .collocate import CollocationSolver
from .collocation import Collocation
from .evaluate import Conditions, Evaluator, Score
from .options import Options
from .solve import Projection
from .steady import checked
from .whitening import Whitening

Objective = Callable[[Tensor], Tensor]


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
    """Differentiate an objective of a flow's end states with respect to first states and condition; collective over `comm`.

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
        raise ValueError("gradient: backward sweeps need the nodes of a collocation, and this is a chain of steps")
    if options.tol is None:
        raise ValueError("gradient: backward sweeps end at a tolerance; give `tol`")
    names = list(range(len(x0))) if samples is None else list(samples)
    check_arguments(
        chain, x0, names, options, momentum=None, condition=condition, noise=None, reference=chain.reference, comm=comm
    )
    given = None if condition is None else apply_to_leaves(matched(condition, x0), _leaf)
    conditions = None if given is None else Conditions(given, {name: k for k, name in enumerate(names)})
    tried = checked(score, options)
    evaluator = Evaluator(tried, tuple(x0.shape[1:]), project, options.model_batch, comm.world_rank, 1, conditions)
    with torch.no_grad():
        first = evaluator.project(x0.flatten(1))
        solver = CollocationSolver(chain, evaluator, first, names, replace(options, traces="exact"), comm, None)
        end = solver.run().end[:, 0].reshape(x0.shape)
    backward = Backward(solver.whitening, evaluator, names, solver.visited, comm, options.tol, given)
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
