"""Gaussian mixture kernels (GMS, Guo et al. 2023) in the modes of a reference, with a closed-form fit, as a chain.

A step of ancestral sampling draws from p(x_b | x_a), which is not Gaussian when there are few steps. Here a mixture of two
Gaussians per mode matches its mean, variance and third cumulant. The part that is not linear in the state belongs to the
score. It reads three channels, the state, the noise of the step and the number that selects the component, and it returns
the network's score and the displacement. So solvers, ranks and stores treat the method like any other chain.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..schema.conditions import Condition, joined
from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.process import Process

F64 = torch.float64
Score = Callable[..., Tensor]
Moments = Callable[..., tuple[Tensor, Tensor, Tensor]]

WEIGHT = 1 / 3  # weight of the first component, as published; with 1/2 the third cumulant could not be matched
LEFT = 0.1  # smallest share of the variance within the components


@dataclass(frozen=True)
class Ancestral:
    """The posterior x_b | x_a, x_0 of every step, with mean c_x x + c_0 x_0."""

    process: Process
    t: Tensor

    @cached_property
    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """c_x, c_0 and the variance, [J] each."""
        a, s = self.process.alpha(self.t), self.process.sigma(self.t)
        ratio = a[:-1] / a[1:]
        forward = s[:-1] ** 2 - ratio**2 * s[1:] ** 2
        return ratio * s[1:] ** 2 / s[:-1] ** 2, a[1:] * forward / s[:-1] ** 2, s[1:] ** 2 * forward / s[:-1] ** 2

    def deviation(self, reference: GaussianReference) -> Tensor:
        """Compute the standard deviation [J, K] of steps on the reference's Gaussian: posterior and uncertainty of x_0."""
        a, s = self.process.alpha(self.t[:-1]), self.process.sigma(self.t[:-1])
        _, c_0, variance = self.tables
        spectrum = reference.spectrum.to(F64).cpu()
        uncertainty = s[:, None] ** 2 * spectrum / reference.variance(a, s).cpu()
        return torch.sqrt(variance[:, None] + c_0[:, None] ** 2 * uncertainty)


def gms(process: Process, grid: TimeGrid, reference: GaussianReference) -> Chain:
    """Build the chain for a `MixtureKernel`; channels are the state, the next step's noise, and the selector of its component.

    On the reference's Gaussian the kernel's displacement is the noise times `deviation`, and one sweep is exact.
    """
    a, s = process.alpha(grid.t), process.sigma(grid.t)
    steps = Ancestral(process, grid.t)
    c_x, c_0, _ = steps.tables
    spread = steps.deviation(reference)
    P = torch.zeros(grid.num_steps, 1, 3, 3, dtype=F64)
    P[:, 0, 0, 0] = c_x + c_0 / a[:-1]
    Q = torch.zeros(grid.num_steps, spread.shape[1], 3, 3, dtype=F64)
    Q[:, :, 0, 0], Q[:, :, 0, 1] = (c_0 * s[:-1] ** 2 / a[:-1])[:, None], -spread
    fresh = torch.diag(torch.tensor([0.0, 1, 1], dtype=F64)).expand(grid.num_steps, 3, 3)
    signal = torch.stack([a, torch.zeros_like(a), torch.zeros_like(a)], dim=-1)
    factor = torch.diag_embed(torch.stack([s, torch.ones_like(s), torch.ones_like(s)], dim=-1))
    basis = reference.basis if spread.shape[1] > 1 else None
    return Chain(P, Q, fresh, grid.t, signal, factor, grid.edges, basis, signal=signal[0], spread=factor[0])


def fit(variance: Tensor, third: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the offsets of the two components and their common variance to central moments; exact while |skewness| <= 0.6.

    The distance of the components is cbrt(third / (q (1 - 2 w))) with q = w (1 - w), but at most sqrt(0.9 variance / q). Where
    it is limited, only mean and variance are matched.
    """
    q = WEIGHT * (1 - WEIGHT)
    cube = third / (q * (1 - 2 * WEIGHT))
    limit = torch.sqrt((1 - LEFT) * variance / q)
    delta = torch.minimum(cube.abs() ** (1 / 3), limit) * torch.sign(cube)
    return (1 - WEIGHT) * delta, -WEIGHT * delta, variance - q * delta**2


@dataclass(frozen=True)
class MixtureKernel:
    """The score of `gms`: it maps fields (x, noise, pick) [rows, 3, *event] to (score, -displacement / deviation, -pick).

    `moments(x, t)`, with t in float64 and the score's condition as third argument where it has one, returns the network's
    score [rows, *event] and, in the reference's coordinates [rows, n], the variance and the third cumulant of x_0 given x.
    All modes of a sample use the same component.
    """

    moments: Moments
    process: Process
    reference: GaussianReference
    t: Tensor

    def __call__(self, fields: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        x, noise, pick = fields.unbind(1)
        basis = self.reference.basis.to(x.device, x.dtype)
        index = (self.t[None, :-1] - t.to(F64).cpu()[:, None]).abs().argmin(1)
        score, variance, third = self.moments(x, self.t[index], *condition)
        _, c_0, posterior = (table[index].to(x)[:, None] for table in self._steps.tables)
        first, second, within = fit(posterior + c_0**2 * variance, c_0**3 * third)
        chance = torch.special.ndtr(pick.flatten(1).sum(1, keepdim=True) / pick[0].numel() ** 0.5)
        moved = torch.where(chance < WEIGHT, first, second) + torch.sqrt(within) * basis.analyse(noise.flatten(1))
        spread = basis.expand(self._spread[index].to(x))
        displaced = basis.synthesise(-moved / spread).reshape(x.shape)
        return torch.stack([score, displaced, -pick], dim=1)

    @cached_property
    def _steps(self) -> Ancestral:
        return Ancestral(self.process, self.t)

    @cached_property
    def _spread(self) -> Tensor:
        return self._steps.deviation(self.reference)


@dataclass(frozen=True)
class DifferenceMoments:
    """Moments of x_0 given x, from differences of a score along one probe; each row costs three rows of the network.

    Var = (sigma^2 / alpha) dD and third = (sigma^2 / alpha)^2 d^2 D per mode, D = E[x_0 | x]. The probe is 1 or -1 in every
    mode (Hutchinson's estimator). The variance is unbiased. Both moments are exact where the modes are independent given x,
    which holds to second order in the modes of the reference. Means over shells reduce their noise. The probe depends on
    the time alone, so it is the same for every sample.
    """

    score: Score
    process: Process
    reference: GaussianReference
    step: float = 0.05

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        basis = self.reference.basis.to(x.device, x.dtype)
        alpha, sigma = (level(t).to(x)[:, None] for level in (self.process.alpha, self.process.sigma))
        probe = torch.stack([self._probe(float(one)) for one in t]).to(x)
        flat, size = x.flatten(1), self.step * sigma
        shifts = size * basis.synthesise(probe)
        rows = torch.cat([flat, flat + shifts, flat - shifts]).reshape(-1, *x.shape[1:])
        scores = self.score(rows, t.to(x).repeat(3), *(joined(c, c, c) for c in condition)).flatten(1)
        denoised = basis.analyse((rows.flatten(1) + sigma.repeat(3, 1) ** 2 * scores) / alpha.repeat(3, 1))
        here, ahead, behind = denoised.chunk(3)
        gain = sigma**2 / alpha
        variance = gain * probe * (ahead - behind) / (2 * size)
        third = gain**2 * (ahead - 2 * here + behind) / size**2
        variance, third = self._shell_means(variance), self._shell_means(third)
        return scores.chunk(3)[0].reshape(x.shape), variance.clamp(min=0), third

    def _probe(self, t: float) -> Tensor:
        generator = torch.Generator().manual_seed(struct.unpack("<q", struct.pack("<d", t))[0] & (2**62 - 1))
        return torch.randint(0, 2, (self.reference.basis.num_coords,), generator=generator) * 2.0 - 1

    def _shell_means(self, values: Tensor) -> Tensor:
        """Replace the values of every sample by their means over the coordinates of each shell."""
        basis, shells = self.reference.basis, self.reference.basis.num_shells
        labels = basis.expand(torch.arange(shells, dtype=F64)).round().long().expand(values.shape[1]).to(values.device)
        sums = torch.zeros(len(values), shells, dtype=values.dtype, device=values.device)
        counts = torch.bincount(labels, minlength=shells).clamp(min=1)
        sums.index_add_(1, labels, values)
        return (sums / counts)[:, labels]


def kernel(score: Score, process: Process, grid: TimeGrid, reference: GaussianReference) -> MixtureKernel:
    """Build the score of `gms` for an ordinary network, with moments from differences."""
    return MixtureKernel(DifferenceMoments(score, process, reference), process, reference, grid.t)
