"""Steps of the chain from several points at once, with all their scores in one batch; for parareal and CHORDS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...comm.communicator import Communicator
from ...theory.grid import Block
from ..options import Options
from ..prediction import Predictor
from ..problem import Problem
from ..solution import BlockSolution, ShouldStop


@dataclass
class BlockStepper(ABC):
    """Solves a block by steps from several points at once; the cheap steps in between are those of `predictor`."""

    problem: Problem
    block: Block
    predictor: Predictor
    options: Options
    comm: Communicator
    should_stop: ShouldStop | None

    @abstractmethod
    def solve(self, first: Tensor, samples: Sequence[int]) -> BlockSolution:
        """Solve the block from coordinates `first` [samples, c, n]; collective.

        Raises ScoreError on every rank when the score fails on any, and Interrupted when `should_stop` ends the work.
        """


def scores_together(problem: Problem, points: Sequence[int], z: Tensor, samples: Sequence[int]) -> Tensor:
    """Evaluate the scores [points, samples, k, n] of states z [points, samples, c, n] in one batch; ScoreError if not finite."""
    evaluator = problem.evaluator
    times = problem.chain.t.to(device=z.device, dtype=z.dtype)[list(points)].repeat_interleave(len(samples))
    x = torch.cat([problem.read(j, states) for j, states in zip(points, z, strict=True)])
    ids = [*samples] * len(points)
    score = evaluator(x, times, ids)
    evaluator.check(score, times, ids)
    scores = problem.basis.analyse(score)
    return scores.reshape(len(points), len(samples), *scores.shape[1:])


def step_together(problem: Problem, points: Sequence[int], z: Tensor, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Take one step from each of `points` for states z [points, samples, c, n]; returns the new states and the scores."""
    if not points:
        return z, z[:, :, : problem.chain.reads]
    scores = scores_together(problem, points, z, samples)
    after = torch.empty_like(z)
    for index, j in enumerate(points):
        draws = problem.draws(j, samples, z[index]) if problem.has_draws else None
        problem.step(after[index], draws, j, z[index], scores[index])
    return after, scores
