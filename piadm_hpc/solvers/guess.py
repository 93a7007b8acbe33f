"""What stands in for the network: a linear score, and the last denoised estimate's remainder carried on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..theory.chain import apply, expand
from .linear import LinearPart
from .problem import Problem


@dataclass(frozen=True)
class Guess:
    """The score J (x - e m) of a linear part with a slope J, and what lifts its denoised estimate by a remainder.

    With the part that holds the denoised estimate (`denoised_part`) and a network's remainder, steps of a chain are the
    one DDIM step over all of them (Song et al. 2021); with a Gaussian's the closed form does the rest.
    """

    problem: Problem
    linear: LinearPart

    def score(self, j: int, z: Tensor, remainder: Tensor | None) -> Tensor:
        """At point j, in coordinates [samples, k, n], of states z [samples, c, n]; `remainder` [samples, n] is added."""
        score = self._linear(j, z)
        if remainder is None:
            return score
        signal, covariance = (level[j] for level in self.problem.chain.levels)
        return score.addcmul_(torch.linalg.solve(covariance, signal).to(score)[:, None], remainder[:, None])

    def remainder(self, j: int, z: Tensor, score: Tensor) -> Tensor:
        """What the network's denoised estimate adds to the linear one at point j: [samples, n]."""
        left = score - self._linear(j, z)
        nothing = torch.zeros_like(left)
        return self.problem.add_denoised(nothing[:, 0].clone(), j, nothing, left).div_(self.problem.denoised_unit(j))

    def jump(self, z: Tensor, start: int, stop: int, samples: Sequence[int], remainder: Tensor | None) -> Tensor:
        """Steps start .. stop-1 from states z [samples, c, n] without the network."""
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
