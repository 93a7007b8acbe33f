"""Checks of the arguments of `solve`; all mistakes are reported at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..gaussian.reference import GaussianReference
from ..schema.conditions import Condition, mistakes_of_condition
from ..theory.bases import compatible
from ..theory.noise import NoiseSource
from .options import Linear, Options, SolverName, Start
from .scheme import Scheme


def check_arguments(
    chain: Scheme,
    x0: Tensor,
    samples: list[int],
    options: Options,
    *,
    momentum: Tensor | None,
    condition: Condition | None,
    noise: NoiseSource | Tensor | None,
    reference: GaussianReference | None,
    comm: Communicator,
) -> None:
    """Raise ValueError, with all mistakes at once, for arguments of `solve` that do not fit together."""
    mistakes = [
        *_of_states(chain, x0, samples, momentum),
        *([] if condition is None else mistakes_of_condition(condition, len(x0))),
        *_of_noise(chain, x0, noise),
        *_of_reference(chain, math.prod(x0.shape[1:]), options, reference),
        *_of_options(chain, options, comm),
    ]
    if mistakes:
        raise ValueError("solve: " + "; ".join(mistakes))


def _of_states(chain: Scheme, x0: Tensor, samples: list[int], momentum: Tensor | None) -> Iterator[str]:
    if x0.dtype not in (torch.float32, torch.float64):
        yield f"x0 is {x0.dtype}; states are float32 or float64"
    if not bool(torch.isfinite(x0).all()):
        yield "x0 contains numbers that are not finite"
    if len(samples) != len(x0):
        yield f"{len(samples)} sample ids for {len(x0)} states"
    if len(set(samples)) != len(samples):
        yield "sample ids must differ"
    if momentum is not None and momentum.numel() != x0.numel() * (chain.channels - 1):
        yield f"the momentum beside x0 must hold the {chain.channels - 1} other channel(s) of the chain, each of x0's shape"


def _of_noise(chain: Scheme, x0: Tensor, noise: NoiseSource | Tensor | None) -> Iterator[str]:
    size = math.prod(x0.shape[1:])
    if noise is None and chain.stochastic:
        yield "this chain is stochastic: give `noise`, a Noise(seed, size) or a tensor [steps, samples, *event]"
    if isinstance(noise, Tensor):
        if noise.ndim < 2 or noise.shape[1] != len(x0):
            yield f"noise is {list(noise.shape)} for {len(x0)} samples; give [steps, samples, *event]"
        elif len(noise) < chain.num_steps or noise[0, 0].numel() != chain.drawn * size:
            event = list(x0.shape[1:]) if chain.drawn == 1 else [chain.drawn, *x0.shape[1:]]
            yield f"noise is {list(noise.shape)}; this chain draws [{chain.num_steps}, {len(x0)}, {', '.join(map(str, event))}]"
    elif noise is not None and getattr(noise, "size", size) != size:
        yield f"noise draws fields of {noise.size} entries, but states have {size}; give Noise(seed, {size})"  # type: ignore[attr-defined]


def _of_reference(chain: Scheme, size: int, options: Options, reference: GaussianReference | None) -> Iterator[str]:
    if reference is None and (options.linear in ("reference", "response") or options.start == "reference"):
        yield f"linear = {options.linear!r}, start = {options.start!r} need a reference; give one, or use other values"
    if reference is not None and len(reference.mean) != size:
        yield f"the reference has size {len(reference.mean)}, states {size}"
    if options.linear == "denoised" and not chain.knows_levels:
        yield "linear = 'denoised' keeps the denoised estimate constant: give the chain its alpha and sigma"
    if chain.basis is not None and math.prod(chain.basis.event_shape) != size:
        yield f"the chain's basis is for states {list(chain.basis.event_shape)}, x0 has {size} entries"
    if chain.needs_reference and (reference is None or chain.basis is not reference.basis):
        yield "a chain with tables per shell or about a mean needs the reference it was built from: give that reference"
    if reference is not None and not compatible(chain.basis, reference.basis):
        yield (
            "the chain's tables and the reference must share one basis: build the chain from this reference, or beside "
            "tables per entry give one that is diagonal in the entries (isotropic, Pixelwise)"
        )


def _of_options(chain: Scheme, options: Options, comm: Communicator) -> Iterator[str]:
    for name, value, known in (
        ("linear", options.linear, get_args(Linear)),
        ("start", options.start, get_args(Start)),
        ("solver", options.solver, get_args(SolverName)),
    ):
        if value not in known:
            yield f"{name} = {value!r}; use one of {', '.join(known)}"
    if options.tol is None and options.sweeps is None:
        yield "give a tolerance `tol`, a fixed depth `sweeps`, or both"
    if options.tol is not None and not options.tol > 0:
        yield f"tol must be positive, got {options.tol}"
    for name, number in (("sweeps", options.sweeps), ("window", options.window), ("in_flight", options.in_flight)):
        if number is not None and number < 1:
            yield f"{name} must be at least 1, got {number}"
    yield from _of_traces(chain, options)
    if options.student is not None and options.operator is not None:
        yield "operator and student both give the first path: use one of them"
    moves = options.window is not None or options.pipelined
    if options.window is not None and options.tol is None:
        yield "a window moves when points meet `tol`: give a tolerance"
    if options.alternate and (moves or options.tol is None or options.solver not in ("picard", "sequential")):
        yield (
            "alternate: every second point of a whole block is evaluated, by turns, until `tol` is met: use solver = 'picard' "
            "with a tolerance, and no window or pipeline"
        )
    if moves and options.corrector is not None:
        yield "a corrector follows blocks that end one after the other: use no window and no pipeline with it"
    if moves and not chain.knows_levels:
        yield "the path ahead of a window is predicted from the denoised estimate: give alpha and sigma to the chain"
    if chain.sequential_rounds is None:
        if options.solver != "picard" or options.linear != "auto":
            yield f"solver = {options.solver!r}, linear = {options.linear!r}: collocation has its own sweeps; use the defaults"
        if moves or options.alternate or options.corrector is not None:
            yield "collocation solves all its points at once: use no window, pipeline, alternate or corrector with it"
        if comm.size > chain.num_steps:
            yield f"{comm.size} time ranks for {chain.num_steps} collocation points; use fewer ranks or more points"
    if options.solver == "sequential" and comm.size > 1:
        yield "the sequential solver computes one step after the other: use one time rank"


def _of_traces(chain: Scheme, options: Options) -> Iterator[str]:
    given = options.traces
    if given in ("none", "exact"):
        known = True
    else:
        known = isinstance(given, int) and not isinstance(given, bool) and given >= 2
    if not known:
        yield f"traces = {given!r}; use 'none', 'exact', or a number of probes, at least 2"
    if known and given != "none" and chain.sequential_rounds is not None:
        yield "traces: densities come from the nodes of a collocation, and this is a chain of steps; use a Collocation"
