"""Predictions of the network's score where it was not called: a linear score, corrected by the last known remainder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..theory.chain import apply, expand
from .linear import LinearPart
from .problem import Problem


@dataclass(frozen=True)
class Predictor:
    """The score J (x - e m) of a linear part with slope J; a remainder may be added to its denoised estimate.

    With `denoised_part` and the remainder of a network call, the predicted steps of a chain amount to one DDIM step over all
    of them (Song et al. 2021). With a Gaussian reference they follow its closed form.
    """

    problem: Problem
    linear: LinearPart

    def score(self, j: int, z: Tensor, remainder: Tensor | None) -> Tensor:
        """Predict the score [samples, k, n] at point j for states z [samples, c, n], given a `remainder` [samples, n]."""
        score = self._linear(j, z)
        if remainder is None:
            return score
        signal, covariance = (level[j] for level in self.problem.chain.levels)
        return score.addcmul_(torch.linalg.solve(covariance, signal).to(score)[:, None], remainder[:, None])

    def remainder(self, j: int, z: Tensor, score: Tensor) -> Tensor:
        """Return the difference [samples, n] between the network's denoised estimate and the linear one at point j."""
        difference = score - self._linear(j, z)
        zero = torch.zeros_like(difference)
        return self.problem.add_denoised(zero[:, 0].clone(), j, zero, difference).div_(self.problem.denoised_unit(j))

    def jump(self, z: Tensor, start: int, stop: int, samples: Sequence[int], remainder: Tensor | None) -> Tensor:
        """Take the steps start .. stop-1 from states z [samples, c, n] without calling the network."""
        problem = self.problem
        for j in range(start, stop):
            draws = problem.draws(j, samples, z) if problem.has_draws else None
            z = problem.step(torch.empty_like(z), draws, j, z, self.score(j, z, remainder))
        return z

    def _linear(self, j: int, z: Tensor) -> Tensor:
        chain, mean = self.problem.chain, self.problem.mean
        assert self.linear.slope is not None
        read = chain.reading(j, z)
        if mean is not None:
            read = read - chain.levels[0][j].to(read)[:, None] * mean
        return apply(expand(self.problem.basis, self.linear.slope[j], z), read)
