"""Arguments of `solve` that do not go together, told all at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..gaussian.reference import GaussianReference
from ..theory.bases import Identity, compatible
from ..theory.chain import Chain
from .collocation import Collocation, Scheme
from .tolerance import Tolerance

Linear = Literal["auto", "identity", "process", "denoised", "reference", "response"]
SolverName = Literal["picard", "sequential", "paradigms", "anderson", "newton", "parareal", "chords"]
Corrector = Callable[[float], Chain]


def check_arguments(
    chain: Scheme,
    x0: Tensor,
    names: list[int],
    reference: GaussianReference | None,
    linear: str,
    start: str,
    solver: str,
    momentum: Tensor | None,
    comm: Communicator,
) -> None:
    """ValueError, with all mistakes at once, for arguments of `solve` that do not go together."""
    size = math.prod(x0.shape[1:])
    mistakes = [
        message
        for bad, message in [
            (x0.dtype not in (torch.float32, torch.float64), f"x0 is {x0.dtype}; states are float32 or float64"),
            (not bool(torch.isfinite(x0).all()), "x0 contains numbers that are not finite"),
            (len(names) != len(x0), f"{len(names)} sample ids for {len(x0)} states"),
            (len(set(names)) != len(names), "sample ids must differ"),
            (
                linear not in get_args(Linear),
                f"linear = {linear!r}; use one of {', '.join(get_args(Linear))}",
            ),
            (start not in ("auto", "constant", "reference"), f"start = {start!r}; use auto, constant or reference"),
            (solver not in get_args(SolverName), f"solver = {solver!r}; use one of {', '.join(get_args(SolverName))}"),
            (
                reference is None and (linear in ("reference", "response") or start == "reference"),
                f"linear = {linear!r}, start = {start!r} need a reference",
            ),
            (
                reference is not None and len(reference.mean) != size,
                f"the reference has size {0 if reference is None else len(reference.mean)}, states {size}",
            ),
            (
                chain.basis is not None and math.prod(chain.basis.event_shape) != size,
                f"the chain's basis is for states {list(chain.basis.event_shape) if chain.basis else []}, x0 has {size} entries",
            ),
            (
                _belongs_to_a_reference(chain) and (reference is None or chain.basis is not reference.basis),
                "a chain with tables per shell of a basis, or about a mean, needs the reference it was built from",
            ),
            (
                reference is not None and not compatible(chain.basis, reference.basis),
                "the chain's tables and the reference must share one basis: build the chain from this reference, or beside "
                "tables per entry give one that is diagonal in the entries (isotropic, Pixelwise)",
            ),
            (
                momentum is not None and momentum.numel() != x0.numel() * (chain.channels - 1),
                f"momentum must hold the {chain.channels - 1} other channel(s) of the chain, each of x0's shape",
            ),
            (
                isinstance(chain, Collocation) and (solver != "picard" or linear != "auto"),
                f"solver = {solver!r}, linear = {linear!r}: collocation has its own sweeps; leave picard and auto",
            ),
            (solver == "sequential" and comm.size > 1, "the sequential solver has nothing to share: use one time rank"),
        ]
        if bad
    ]
    if mistakes:
        raise ValueError("solve: " + "; ".join(mistakes))


def _belongs_to_a_reference(chain: Scheme) -> bool:
    """Whether a chain's tables mean something in the basis, or about the mean, of one reference alone."""
    about_a_mean = isinstance(chain, Chain) and bool((chain.shift != 0).any())
    return about_a_mean or not isinstance(chain.basis, Identity | None)


def check_moving(
    chain: Scheme,
    window: int | None,
    pipelined: bool,
    in_flight: int | None,
    stop: Tolerance,
    corrector: Corrector | None,
) -> None:
    """The same for open points that move, and samples in flight."""
    moves, nodes = window is not None or pipelined, isinstance(chain, Collocation)
    mistakes = [
        message
        for bad, message in [
            (window is not None and stop.tol is None, "a window moves when points meet `tol`: give a tolerance"),
            (moves and corrector is not None, "a corrector follows blocks that end one after the other: no window, no pipeline"),
            (
                nodes and (moves or corrector is not None),
                "collocation solves all its points at once: no window, pipeline or corrector",
            ),
            (
                moves and not isinstance(chain, Collocation) and chain.sigma is None,
                "points outside a window hold the denoised estimate: give alpha and sigma",
            ),
            (in_flight is not None and in_flight < 1, f"in_flight must be at least 1 sample, got {in_flight}"),
        ]
        if bad
    ]
    if mistakes:
        raise ValueError("solve: " + "; ".join(mistakes))
