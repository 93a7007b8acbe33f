"""What a block is solved with, and the affine increment of a step that every solver shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bases import Basis
from ..chain import Chain, LinearPart, add_applied, add_lifted, expand
from ..noise import CHAIN, NoiseSource
from .evaluate import Evaluator

Projection = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A chain with its score, randomness and constraint; states are coordinates [samples, c, n] of `frame`."""

    chain: Chain
    evaluator: Evaluator
    noise: NoiseSource | None
    frame: Basis
    mean: Tensor | None
    stream: int = CHAIN
    step_offset: int = 0

    def watch(self, points: Tensor, x: Tensor, score: Tensor) -> Tensor:
        """Denoised estimates (x + sigma^2 s) / alpha of rows [rows, d] at grid points [rows].

        The state itself where the chain does not know its noise levels.
        """
        if self.chain.alpha is None or self.chain.sigma is None:
            return x
        variance = (self.chain.sigma[points] ** 2).to(x)[:, None]
        return torch.addcmul(x, variance, score).div_(self.chain.alpha[points].to(x)[:, None])

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
            add_applied(total, expand(self.frame, self.chain.noise[j], like), self.frame.analyse(self.evaluator.project(xi)))
        if self.mean is not None:
            add_lifted(total, expand(self.frame, self.chain.shift[j], like), self.mean)
        return total

    def increment(self, out: Tensor, j: int, z: Tensor, score: Tensor, linear: LinearPart | None) -> Tensor:
        """out += (P - A) z + Q s in place, at step j, for coordinates z [samples, c, n] and of the score [samples, n]."""
        block = self.chain.P[j] if linear is None else self.chain.P[j] - linear.A[j]
        add_applied(out, expand(self.frame, block, z), z)
        return add_lifted(out, expand(self.frame, self.chain.Q[j], z), score)
