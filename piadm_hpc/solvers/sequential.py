"""The sequential solver: the oracle of every parallel solver, and the finish of samples that did not converge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .problem import Problem


@torch.no_grad()
def run_steps(problem: Problem, z: Tensor, start: int, stop: int, samples: Sequence[int]) -> Tensor:
    """Take the steps start .. stop-1 of the chain from coordinates z [samples, c, n] at point `start`.

    Raises ScoreError for scores of another shape or that are not finite.
    """
    times = problem.chain.t.to(device=z.device, dtype=z.dtype)
    for j in range(start, stop):
        t = times[j].expand(len(z))
        x = problem.read(j, z)
        score = problem.evaluator(x, t, samples)
        problem.evaluator.check(score, t, samples)
        z = problem.as_read(z, x)
        z = problem.step(torch.empty_like(z), problem.draws(j, samples, z), j, z, problem.basis.analyse(score))
    return z
