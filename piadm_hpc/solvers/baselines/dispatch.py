"""The baselines as solvers of a block: which there are, their few settings, and what each is built on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...comm.communicator import Communicator
from ...gaussian.reference import GaussianReference
from ...theory.grid import Block
from ..guess import Guess
from ..linear import LinearPart, denoised_part, identity_part, reference_part
from ..problem import Problem
from ..tolerance import BlockSolution
from ..trajectory import Method
from .anderson import Anderson
from .chords import Chords
from .newton import Newton
from .paradigms import ParaDiGMS
from .parareal import Parareal

BASELINES = ("paradigms", "anderson", "newton", "parareal", "chords")


@dataclass(frozen=True)
class BaselineSettings:
    """`memory` of Anderson acceleration; `parts` of parareal (default: the root of the steps) or cores of CHORDS (default 8).

    `coarse`: parareal's coarse solver, one network call a part, or the Gaussian reference, which costs none.
    """

    memory: int = 2
    parts: int | None = None
    coarse: Literal["network", "reference"] = "network"


@torch.no_grad()
def solve_with(
    kind: str,
    problem: Problem,
    block: Block,
    first: Tensor,
    samples: Sequence[int],
    *,
    method: Method,
    reference: GaussianReference | None,
    settings: BaselineSettings,
    comm: Communicator,
) -> BlockSolution:
    """Solve a block from coordinates `first` [samples, c, n] by one of BASELINES; collective.

    Raises ValueError for settings a baseline cannot have, and ScoreError on every rank when the score fails on any.
    """
    if kind == "paradigms":
        plain = replace(method, linear=identity_part(problem.chain), guess=None, start=False)
        return ParaDiGMS(problem, block, first, list(samples), plain, comm).run()
    if kind == "anderson":
        return Anderson(problem, block, first, samples, method, comm, memory=settings.memory).run()
    if kind == "newton":
        return Newton(problem, block, first, samples, replace(method, keep_scores=True), comm).run()
    guess = Guess(problem, _coarse_part(problem, reference, settings))
    if kind == "parareal":
        calls = settings.coarse == "network"
        return Parareal(problem, block, guess, method.stop, comm, parts=settings.parts, calls=calls).solve(first, samples)
    return Chords(problem, block, guess, method.stop, comm, cores=settings.parts).solve(first, samples)


def _coarse_part(problem: Problem, reference: GaussianReference | None, settings: BaselineSettings) -> LinearPart:
    """What coarse steps follow: the denoised estimate of a call, or the Gaussian."""
    chain = problem.chain
    if settings.coarse == "reference":
        if reference is None:
            raise ValueError("coarse = 'reference' needs a reference")
        return reference_part(chain, reference)
    if chain.alpha is None or chain.reads > 1:
        raise ValueError("coarse steps hold the denoised estimate: the chain needs alpha and sigma, and a score of one field")
    return denoised_part(chain)
