"""Phase-space Langevin diffusion (PSLD): a noising process of position and momentum (Pandey and Mandt 2023).

    dz = F z dt + G dw,   F = (beta/2) [[-Gamma, 1/M], [-1, -nu]],   G G^T = beta diag(Gamma, M nu),   z = (x, m)

Critical damping nu = Gamma + 2 sqrt(1/M) makes the mean map elementary. All matrices are 2 x 2 and act on every entry
of a field alike. Times tau run from 0 (data) to about 1 (noise); everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

F64 = torch.float64


def gauss_legendre(low: Tensor, high: Tensor, nodes: int = 32) -> tuple[Tensor, Tensor]:
    """Return points and weights [*, nodes] of integrals from `low` to `high` [*], both positive, by Gauss-Legendre in log time.

    In log time integrands that behave like powers near zero are smooth.
    """
    points, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    middle, half = (torch.log(high) + torch.log(low)) / 2, (torch.log(high) - torch.log(low)) / 2
    where = torch.exp(middle[..., None] + half[..., None] * points)
    return where, weights * half[..., None] * where


@dataclass(frozen=True)
class PhaseSpace:
    """PSLD with constant beta at critical damping; `kappa` M is the variance of the momentum at time 0.

    Gamma = 0 is critically damped Langevin diffusion (CLD). Raises ValueError for parameters outside their range.
    """

    gamma: float = 0.01
    inverse_mass: float = 4.0
    beta: float = 8.0
    kappa: float = 0.04

    def __post_init__(self) -> None:
        if self.gamma < 0 or min(self.inverse_mass, self.beta, self.kappa) <= 0:
            raise ValueError(
                f"phase space: gamma ({self.gamma}) must not be negative; inverse_mass ({self.inverse_mass}), "
                f"beta ({self.beta}) and kappa ({self.kappa}) must be positive"
            )

    @property
    def mass(self) -> float:
        return 1 / self.inverse_mass

    @property
    def nu(self) -> float:
        """Friction nu of the momentum at critical damping."""
        return float(self.gamma + 2 * self.inverse_mass**0.5)

    @property
    def drift(self) -> Tensor:
        """The drift matrix F [2, 2]."""
        rows = [[-self.gamma, self.inverse_mass], [-1.0, -self.nu]]
        return self.beta / 2 * torch.tensor(rows, dtype=F64)

    @property
    def diffusion(self) -> Tensor:
        """The diffusion matrix G G^T [2, 2]."""
        return self.beta * torch.diag(torch.tensor([self.gamma, self.mass * self.nu], dtype=F64))

    @property
    def stationary(self) -> Tensor:
        """The covariance diag(1, M) of pure noise, [2, 2]."""
        return torch.diag(torch.tensor([1.0, self.mass], dtype=F64))

    def mean_map(self, tau: Tensor) -> Tensor:
        """Return E(tau) = exp(F tau), [*, 2, 2]; at critical damping the traceless part of F squares to zero."""
        b, split = self.beta * tau[..., None, None], (self.nu - self.gamma) / 2
        nilpotent = torch.tensor([[split, split**2], [-1.0, -split]], dtype=F64)
        return torch.exp(-(self.gamma + self.nu) * b / 4) * (torch.eye(2, dtype=F64) + b / 2 * nilpotent)

    def signal(self, tau: Tensor) -> Tensor:
        """Return e(tau) [*, 2]; the mean of z is e x_0."""
        return self.mean_map(tau)[..., 0]

    def covariance(self, tau: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """Return the covariance of z, [*, 2, 2], for Gaussian data of variances [*]; 0 gives the perturbation kernel given x_0.

        It is S + E (diag(variance, kappa M) - S) E^T with S the stationary covariance, the solution of the Lyapunov equation.
        """
        known = torch.as_tensor(variance, dtype=F64)
        start = torch.diag_embed(torch.stack([known, torch.full_like(known, self.kappa * self.mass)], dim=-1))
        E = self.mean_map(tau)
        return self.stationary + E @ (start - self.stationary) @ E.mT

    def factor(self, tau: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """Return the lower Cholesky factor L of that covariance, [*, 2, 2]."""
        factor: Tensor = torch.linalg.cholesky(self.covariance(tau, variance))
        return factor

    def statistic(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights H e [*, 2] and j = e^T H e [*]: (H e) . z / j is x_0 plus noise of variance 1 / j, and sufficient."""
        e = self.signal(tau)
        pulled = torch.linalg.solve(self.covariance(tau), e)
        return pulled, (e * pulled).sum(-1)

    def ratio(self, tau: Tensor) -> Tensor:
        """Return the effective ratio of noise to signal, j^-1/2 [*], which increases with tau."""
        return 1 / torch.sqrt(self.statistic(tau)[1])

    def time(self, ratio: Tensor) -> Tensor:
        """Return the tau [*] of an effective ratio, by bisection in log tau; ValueError outside 1e-7 <= tau <= 4."""
        low, high = torch.full_like(ratio, 1e-7, dtype=F64), torch.full_like(ratio, 4.0, dtype=F64)
        if bool((ratio < self.ratio(low)).any()) or bool((ratio > self.ratio(high)).any()):
            raise ValueError(
                f"phase space reaches noise over signal from {float(self.ratio(low).min()):.2g} to "
                f"{float(self.ratio(high).max()):.2g}, asked for {float(ratio.min()):.3g} to {float(ratio.max()):.3g}; "
                "end the grid earlier (larger delta) or start it later (smaller horizon)"
            )
        for _ in range(60):
            middle = torch.sqrt(low * high)
            below = self.ratio(middle) < ratio
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return torch.sqrt(low * high)

    def turn(self, low: Tensor, high: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """Return the angle [*] by which the transported root turns against the Cholesky factor from time `low` to `high` [*].

        The root dR/dtau = (F + G G^T Sigma^-1 / 2) R of the flow (gDDIM, Zhang et al. 2022) is R = L O with O a rotation;
        since L^-1 dL/dtau is lower triangular, the rate of O follows from one entry of L^-1 (F L + G G^T L^-T / 2).
        """
        where, weights = gauss_legendre(low, high)
        L = self.factor(where, torch.as_tensor(variance, dtype=F64)[..., None])
        inverse = torch.linalg.inv(L)
        rate = inverse @ (self.drift @ L + 0.5 * self.diffusion @ inverse.mT)
        angle: Tensor = -(rate[..., 0, 1] * weights).sum(-1)
        return angle

    def root(self, tau: Tensor, angle: Tensor) -> Tensor:
        """Return R = L O(angle), [*, 2, 2], whose columns the probability flow of point data transports."""
        return self.factor(tau) @ rotation(angle)

    def flow(self, tau: Tensor, tau_to: Tensor, variance: Tensor) -> Tensor:
        """Return the map [K, 2, 2] of the probability flow of centred Gaussian data of variances [K] from time tau to tau_to.

        It is R' R^-1 with the root R that this flow transports, for either direction of time.
        """
        first, last = torch.minimum(tau, tau_to).expand_as(variance), torch.maximum(tau, tau_to).expand_as(variance)
        angle = self.turn(first, last, variance) * torch.sign(tau_to - tau)
        root, root_to = self.factor(tau.expand_as(variance), variance), self.factor(tau_to.expand_as(variance), variance)
        moved: Tensor = root_to @ rotation(angle) @ torch.linalg.inv(root)
        return moved


def rotation(angle: Tensor) -> Tensor:
    """Return rotations [*, 2, 2] by angles [*]."""
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
