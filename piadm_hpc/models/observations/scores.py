"""Scores of the posterior p(x_0 | y), given the score of the prior and observations y = h(x_0) + e with e ~ N(0, R).

With the denoised estimate D = E[x_0 | x_t], its Jacobian D' = dD/dx_t, and H the derivative of h at D:

    kalman  s + (alpha / sigma^2) C H^T [R + H C H^T]^-1 (y - h(D)),            C the reference's covariance of x_0 given x_t
    mmps    s + D'^T H^T [R + (sigma^2 / alpha) H D' H^T]^-1 (y - h(D))         Rozet et al. 2024, arXiv:2405.13712
    sda     s + D'^T H^T [R + gamma (sigma / alpha)^2]^-1 (y - h(D))            Rozet and Louppe 2023, arXiv:2306.10574
    dps     sda with gamma = 0                                                  Chung et al. 2023, arXiv:2209.14687
    pigdm   s + D'^T H^T [R + r^2 H H^T]^-1 (y - h(D)), r^2 = sigma^2 / (alpha^2 + sigma^2)       Song et al. 2023

The first is exact for Gaussian data and takes no derivative of the network; the second is exact for them too. The last three
are for comparison: their samples are not calibrated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from ...gaussian.conditioned import Update
from ...gaussian.observed import LinearObservations, conjugate_gradients
from ...gaussian.reference import levels
from ...schema.conditions import Condition
from ...theory.process import Process
from ..base import ScoreModel, broadcast

Guidance = Literal["mmps", "sda", "dps", "pigdm"]
Denoise = Callable[..., Tensor]


class Observed(Protocol):
    """Observations of states, linear or not, with Gaussian errors."""

    @property
    def values(self) -> Tensor: ...

    def apply(self, x: Tensor) -> Tensor:
        """Return h(x), [n, m] float64, for flat states [n, d]; differentiable."""
        ...

    def noise(self, u: Tensor) -> Tensor:
        """Return R u for u [n, m]."""
        ...

    def noise_inverse(self, u: Tensor, extra: Tensor) -> Tensor:
        """Return (R + extra I)^-1 u for u [n, m] and extra [n]."""
        ...


@dataclass(frozen=True)
class KalmanScore:
    """The prior's score, and the update of its denoised estimate by linear observations."""

    score: ScoreModel
    process: Process
    update: Update

    def __call__(self, x: Tensor, t: Tensor, /, *condition: Condition) -> Tensor:
        """Return the posterior's score at states x [rows, *event] and times t [rows], in the precision of the states."""
        alpha, sigma = levels(self.process, t)
        prior = self.score(x.clone(), t.clone(), *condition)
        s, flat, observations = prior.flatten(1).to(torch.float64), x.flatten(1).to(torch.float64), self.update.observations
        innovation = observations.values - observations.apply((flat + sigma[:, None] ** 2 * s) / alpha[:, None])
        guide = torch.empty_like(s)
        ratio = sigma / alpha
        for level in torch.unique(ratio):
            rows = torch.nonzero(ratio == level).flatten()
            guide[rows] = self.update.increment(level, innovation[rows])
        return (s + (alpha / sigma**2)[:, None] * guide).reshape(x.shape).to(x.dtype)


@dataclass(frozen=True)
class GuidedScore:
    """The prior's score, and a guidance through the derivative of its denoised estimate.

    `denoise` maps states [rows, *event], times [rows] and their condition, where there is one, to D and is differentiable.
    MMPS solves its system by conjugate gradients to the relative residual `accuracy`, with one derivative an iteration.
    """

    denoise: Denoise
    process: Process
    observations: Observed
    kind: Guidance = "mmps"
    gamma: float = 0.01
    accuracy: float = 1e-6

    def __post_init__(self) -> None:
        if self.kind not in get_args(Guidance):
            raise ValueError(f"unknown guidance {self.kind!r}; there are {', '.join(get_args(Guidance))}")

    def __call__(self, x: Tensor, t: Tensor, /, *condition: Condition) -> Tensor:
        """Return the posterior's score at states x [rows, *event] and times t [rows], in the precision of the states."""
        alpha, sigma = levels(self.process, t)
        with torch.enable_grad():
            noisy = x.detach().requires_grad_()
            denoised = self.denoise(noisy, t, *condition)
            estimate = denoised.detach().flatten(1).requires_grad_()
            observed = self.observations.apply(estimate)

        def back(u: Tensor) -> Tensor:
            """Return H^T u in the shape of states."""
            return _gradient(observed, estimate, u.to(observed)).reshape(x.shape)

        def through(v: Tensor) -> Tensor:
            """Return D'^T v."""
            return _gradient(denoised, noisy, v.to(denoised))

        gain = (sigma**2 / alpha)[:, None]

        def system(u: Tensor) -> Tensor:
            spread = gain * through(back(u)).flatten(1).to(torch.float64)
            return self.observations.noise(u) + self._forward(estimate, spread)

        innovation = self.observations.values - observed.detach()
        if self.kind == "mmps":
            weights = conjugate_gradients(system, innovation, accuracy=self.accuracy)
        elif self.kind == "pigdm":
            share = (sigma**2 / (alpha**2 + sigma**2))[:, None]

            def constant(u: Tensor) -> Tensor:
                return self.observations.noise(u) + self._forward(estimate, share * back(u).flatten(1).to(torch.float64))

            weights = conjugate_gradients(constant, innovation)
        else:
            gamma = self.gamma if self.kind == "sda" else 0.0
            weights = self.observations.noise_inverse(innovation, gamma * (sigma / alpha) ** 2)
        guide = through(back(weights)).to(torch.float64)
        score = (broadcast(alpha, guide) * denoised.detach().to(torch.float64) - x) / broadcast(sigma**2, guide)
        return (score + guide).to(x.dtype)

    def _forward(self, estimate: Tensor, direction: Tensor) -> Tensor:
        """Return H v for directions v [n, d]: the derivative of h at the estimate."""
        if isinstance(self.observations, LinearObservations):
            return self.observations.apply(direction)
        tangent: Tensor = torch.func.jvp(self.observations.apply, (estimate.detach(),), (direction.to(estimate),))[1]
        return tangent.detach()


def _gradient(output: Tensor, source: Tensor, weights: Tensor) -> Tensor:
    return torch.autograd.grad(output, source, weights, retain_graph=True)[0].detach()
