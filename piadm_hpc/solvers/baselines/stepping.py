"""Several points of a chain in one batch of scores, one step for each by the chain itself, and failures told to every rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ...comm.communicator import Communicator
from ..errors import ScoreError
from ..evaluate import described
from ..problem import Problem

T = TypeVar("T")


def scores_together(problem: Problem, points: Sequence[int], z: Tensor, samples: Sequence[int]) -> Tensor:
    """Scores [points, samples, k, n] of states z [points, samples, c, n], in one batch; ScoreError if not finite."""
    evaluator = problem.evaluator
    times = problem.chain.t.to(device=z.device, dtype=z.dtype)[list(points)].repeat_interleave(len(samples))
    x = torch.cat([problem.read(j, states) for j, states in zip(points, z, strict=True)])
    score = evaluator(x, times)
    evaluator.check(score, times, [*samples] * len(points))
    kicks = problem.basis.analyse(score)
    return kicks.reshape(len(points), len(samples), *kicks.shape[1:])


def step_together(problem: Problem, points: Sequence[int], z: Tensor, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One step from each of `points` for states z [points, samples, c, n]: states after it, and scores [.., k, n]."""
    if not points:
        return z, z[:, :, : problem.chain.reads]
    kicks = scores_together(problem, points, z, samples)
    after = torch.empty_like(z)
    for index, j in enumerate(points):
        draws = problem.draws(j, samples, z[index]) if problem.has_draws else None
        problem.increment(after[index], draws, j, z[index], kicks[index], None)
    return after, kicks


def everywhere(problem: Problem, comm: Communicator, work: Callable[[], T]) -> T:
    """What `work` gives on this rank; ScoreError on every rank when it fails on any. Collective."""
    message, result = "", None
    try:
        result = work()
    except Exception as error:  # any failure of a user's score must reach every rank, or the others wait for ever
        message = described(error, problem.evaluator.rank)
    if float(comm.max(torch.tensor([float(bool(message))]))) > 0:
        raise ScoreError(next(text for text in comm.gather_objects(message) if text))
    assert result is not None
    return result
