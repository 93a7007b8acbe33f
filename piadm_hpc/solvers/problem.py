"""What a block is solved with, and the affine increment of a step that every solver shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..theory.bases import Basis
from ..theory.chain import Chain, add_lifted, affine, expand
from ..theory.noise import CHAIN, NoiseSource
from .evaluate import Evaluator
from .linear import LinearPart


@dataclass(frozen=True)
class Problem:
    """A chain with its score, randomness and constraint; states are coordinates [samples, c, n] of `basis`."""

    chain: Chain
    evaluator: Evaluator
    noise: NoiseSource | None
    basis: Basis
    mean: Tensor | None
    stream: int = CHAIN
    step_offset: int = 0

    def read(self, j: int, z: Tensor) -> Tensor:
        """What the score is given at point j, [samples, k, d], for coordinates z [samples, c, n]."""
        return self.evaluator.project(self.basis.synthesise(self.chain.reading(j, z)))

    def state(self, z: Tensor) -> Tensor:
        """States [samples, c, d] of coordinates [samples, c, n]."""
        return self.evaluator.project(self.basis.synthesise(z))

    def unit(self, j: int) -> float:
        """What `add_estimate` adds, in denoised estimates."""
        return float(self.chain.estimate[0][j])

    def add_estimate(self, out: Tensor, j: int, x: Tensor, score: Tensor, sign: float = 1.0) -> Tensor:
        """out += sign unit D in place, D the denoised estimate at point j: `out` [samples, d], `x`, `score` [samples, k, d]."""
        _, of_state, of_score = self.chain.estimate
        for i in range(self.chain.reads):
            out.add_(x[:, i], alpha=sign * float(of_state[j, i])).add_(score[:, i], alpha=sign * float(of_score[j, i]))
        return out

    @property
    def has_draws(self) -> bool:
        """Whether steps add anything that is neither state nor score."""
        return self.chain.stochastic or (self.mean is not None and bool((self.chain.shift != 0).any()))

    def draws(self, j: int, samples: Sequence[int], like: Tensor) -> Tensor:
        """N[j] xi[j] + M[j] mean in coordinates [samples, c, n], for one step of this chain."""
        total = torch.zeros_like(like)
        if self.chain.stochastic:
            if self.noise is None:
                raise ValueError(
                    "this chain is stochastic: give `noise`, a Noise(seed, size) or a tensor [steps, samples, *event]"
                )
            xi = self.noise.at([j + self.step_offset], samples, self.chain.channels, self.stream)[0].to(like)
            xi = self.basis.analyse(self.evaluator.project(xi))
            affine(total, None, expand(self.basis, self.chain.noise[j], like), xi)
        if self.mean is not None:
            add_lifted(total, expand(self.basis, self.chain.shift[j][..., None], like), self.mean[None])
        return total

    def increment(self, out: Tensor, draws: Tensor | None, j: int, z: Tensor, score: Tensor, linear: LinearPart | None) -> Tensor:
        """out = draws + (P - A) z + Q s at step j, for coordinates z [samples, c, n] and of the score [samples, k, n]."""
        block = self.chain.P[j] if linear is None else self.chain.P[j] - linear.A[j]
        affine(out, draws, expand(self.basis, block, z), z)
        return add_lifted(out, expand(self.basis, self.chain.Q[j], z), score)
