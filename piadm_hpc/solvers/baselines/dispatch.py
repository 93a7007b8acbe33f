"""The table of baselines, and the function that solves a block with one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...comm.communicator import Communicator
from ...theory.grid import Block
from ..linear import LinearPart, denoised_part, reference_part
from ..options import Options
from ..prediction import Predictor
from ..problem import Problem
from ..solution import BlockSolution, ShouldStop
from .anderson import Anderson
from .chords import Chords
from .newton import Newton
from .paradigms import ParaDiGMS
from .parareal import Parareal
from .stepping import BlockStepper

SWEEPING = {"paradigms": ParaDiGMS, "anderson": Anderson, "newton": Newton}
STEPPING: dict[str, Callable[..., BlockStepper]] = {"parareal": Parareal, "chords": Chords}
BASELINES = (*SWEEPING, *STEPPING)


@torch.no_grad()
def solve_with(
    problem: Problem,
    block: Block,
    first: Tensor,
    samples: Sequence[int],
    options: Options,
    comm: Communicator,
    should_stop: ShouldStop | None,
) -> BlockSolution:
    """Solve a block from coordinates `first` [samples, c, n] with the baseline that the options name; collective.

    Raises ValueError for settings that the baseline does not support, and ScoreError on every rank when the score fails on any.
    """
    if options.solver in SWEEPING:
        return SWEEPING[options.solver](problem, block, first, samples, options, comm, should_stop=should_stop).run()
    predictor = Predictor(problem, _coarse_part(problem, options))
    return STEPPING[options.solver](problem, block, predictor, options, comm, should_stop).solve(first, samples)


def _coarse_part(problem: Problem, options: Options) -> LinearPart:
    """Choose the linear part of coarse steps: a constant denoised estimate, or the Gaussian reference."""
    chain = problem.chain
    if options.coarse == "reference":
        if problem.reference is None:
            raise ValueError("coarse = 'reference' needs a reference; give one, or use coarse = 'network'")
        return reference_part(chain, problem.reference)
    if chain.alpha is None or chain.reads > 1:
        raise ValueError("coarse steps hold the denoised estimate: the chain needs alpha and sigma, and a score of one field")
    return denoised_part(chain)
