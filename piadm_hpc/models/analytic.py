"""Distributions whose scores are known in closed form under any noising process: oracles for tests and benchmarks.

Each target is a score model, draws exact samples, and provides its mean and covariance as a Gaussian reference.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..gaussian.masked import shell_degrees
from ..gaussian.reference import GaussianReference
from ..theory.bases import Basis, Pixelwise, SphericalHarmonics
from ..theory.process import Process


class _Target(ABC):
    """A target: a score model that draws exact samples and knows its Gaussian reference."""

    process: Process
    event_shape: tuple[int, ...]

    @abstractmethod
    def score(self, x: Tensor, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...

    @abstractmethod
    def reference(self) -> GaussianReference: ...

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.score(x, t)

    def _levels(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(x.dtype)
        return self.process.alpha(t), self.process.sigma(t)


class ScaleMixture(_Target):
    """Independent coordinates, each a mixture sum_i w_i N(0, a_i lambda) scaled to variance lambda = `spectrum` [d].

    Tails are heavy, with kurtosis 3 sum_i w_i a_i^2 after scaling, and coordinates are not coupled. Raises ValueError for
    numbers that are not positive.
    """

    def __init__(self, process: Process, spectrum: Tensor, weights: Sequence[float], scales: Sequence[float]):
        self.process, self.spectrum = process, spectrum
        self.weights = _probabilities(torch.as_tensor(weights, dtype=spectrum.dtype))
        given = torch.as_tensor(scales, dtype=spectrum.dtype)
        _check(spectrum.ndim == 1 and bool((spectrum > 0).all()), "spectrum must be [d] and positive")
        _check(given.shape == self.weights.shape and bool((given > 0).all()), "scales must be positive, one per weight")
        self.scales = given / (self.weights * given).sum()
        self.event_shape = tuple(spectrum.shape)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score [rows, d] at states x [rows, d] and times t [rows]."""
        variances = self._variances(x, t)
        return -x * (torch.softmax(self._joint(x, variances), 0) / variances).sum(0)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x), [rows]."""
        joint = self._joint(x, self._variances(x, t))
        return (torch.logsumexp(joint, 0) - math.log(2 * math.pi) / 2).sum(-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw exact samples [n, d]."""
        shape = (n, len(self.spectrum))
        which = torch.multinomial(self.weights, n * shape[1], replacement=True, generator=generator).reshape(shape)
        white = torch.randn(shape, generator=generator, dtype=self.spectrum.dtype)
        return torch.sqrt(self.scales[which] * self.spectrum) * white

    def reference(self) -> GaussianReference:
        zero = torch.zeros_like(self.spectrum)
        return GaussianReference(zero, Pixelwise(self.event_shape), self.spectrum.to(torch.float64))

    def _variances(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the variance of every component at time t, [components, rows, d]."""
        alpha, sigma = self._levels(x, t)
        at_zero = (self.scales[:, None] * self.spectrum).to(x.dtype)[:, None]
        return alpha[:, None] ** 2 * at_zero + sigma[:, None] ** 2

    def _joint(self, x: Tensor, variances: Tensor) -> Tensor:
        prior = torch.log(self.weights).to(x.dtype)[:, None, None]
        return prior - 0.5 * torch.log(variances) - 0.5 * x**2 / variances


class GaussianMixture(_Target):
    """The mixture sum_c w_c N(means_c, U diag(variances_c) U^T): means [C, d], variances per shell of a basis [C, num_shells].

    Without a basis the variances are those of the d entries. States are flat, [rows, d], or [rows, *event]. Raises ValueError for
    shapes that do not fit and variances that are not positive.
    """

    def __init__(self, process: Process, means: Tensor, variances: Tensor, weights: Tensor, basis: Basis | None = None):
        self.process, self.means, self.variances = process, means, variances
        self.basis: Basis = Pixelwise(means.shape[1:]) if basis is None else basis
        self.weights = _probabilities(weights.to(means.dtype))
        components, size = len(self.weights), math.prod(self.basis.event_shape)
        _check(means.shape == (components, size), f"means must be [{components}, {size}], got {tuple(means.shape)}")
        shape = (components, self.basis.num_shells)
        _check(variances.shape == shape, f"variances must be {list(shape)}, got {tuple(variances.shape)}")
        _check(bool((variances > 0).all()), "variances must be positive")
        self.degrees = shell_degrees(self.basis).to(means.dtype)
        self.event_shape = tuple(self.basis.event_shape)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score at states x [rows, *event] and times t [rows]."""
        joint, slopes = self._components(x.flatten(1), t)
        return (torch.softmax(joint, 0)[..., None] * slopes).sum(0).reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x), [rows]."""
        joint, _ = self._components(x.flatten(1), t)
        return torch.logsumexp(joint, 0) - self.means.shape[1] * math.log(2 * math.pi) / 2

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw exact samples [n, *event]."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        white = torch.randn((n, self.means.shape[1]), generator=generator, dtype=self.means.dtype)
        gains = self.basis.expand(torch.sqrt(self.variances[which]))
        drawn = self.means[which] + self.basis.synthesise(gains * self.basis.analyse(white))
        return drawn.reshape(n, *self.event_shape)

    def reference(self) -> GaussianReference:
        """Return mean and covariance of the mixture; the spread of the means enters through its energy per shell."""
        mean = self.weights @ self.means
        apart = torch.sqrt(self.weights * len(self.weights))[:, None] * (self.means - mean)
        spectrum = self.weights @ self.variances + self.basis.energy(self.basis.analyse(apart))
        return GaussianReference(mean, self.basis, spectrum.to(torch.float64))

    def _components(self, flat: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return log w_c + log N_c without constants, [C, rows], and the score of each component, [C, rows, d]."""
        alpha, sigma = self._levels(flat, t)
        away = flat - alpha[:, None] * self.means.to(flat.dtype)[:, None]
        variances = alpha[:, None] ** 2 * self.variances.to(flat.dtype)[:, None] + sigma[:, None] ** 2
        slopes = -self.basis.synthesise(self.basis.expand(1 / variances) * self.basis.analyse(away))
        volume = torch.log(variances) @ self.degrees.to(flat.dtype)
        prior = torch.log(self.weights).to(flat.dtype)[:, None]
        return prior - 0.5 * volume + 0.5 * (away * slopes).sum(-1), slopes


class GaussianField(_Target):
    """A Gaussian target: it equals its reference, so every Gaussian-aware method must solve it in one sweep."""

    def __init__(self, process: Process, reference: GaussianReference):
        self.process, self._reference = process, reference
        self.event_shape = tuple(reference.event_shape)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score at states x [rows, *event] and times t [rows]."""
        return self._reference.score(self.process, x, t)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw exact samples [n, *event]."""
        mean = self._reference.mean
        white = torch.randn((n, *self.event_shape), generator=generator, dtype=mean.dtype)
        return self._reference.draw(white, mean.new_ones(()), mean.new_zeros(()))

    def reference(self) -> GaussianReference:
        return self._reference


def sphere_field(process: Process, nlat: int, nlon: int, power: Tensor) -> GaussianField:
    """Return an isotropic Gaussian field on a Gauss-Legendre sphere with the variances `power` [lmax] per degree l."""
    basis = SphericalHarmonics(nlat, nlon, len(power))
    spectrum = torch.cat([power.to(torch.float64), torch.zeros(1, dtype=torch.float64)])
    return GaussianField(process, GaussianReference(torch.zeros(nlat * nlon, dtype=torch.float64), basis, spectrum))


def power_law(d: int) -> Tensor:
    """Return the spectrum (1 + k/3)^-1.7, k = 1..d, of mean one; it spans four decades for d of a thousand."""
    k = torch.arange(1, d + 1, dtype=torch.float64)
    spectrum = (1 + k / 3) ** -1.7
    return spectrum * d / spectrum.sum()


def target_a(process: Process, d: int) -> ScaleMixture:
    """Return a target of mild tails: kurtosis 4.2 in each of d independent coordinates."""
    return ScaleMixture(process, power_law(d), (0.7, 0.3), (0.6, 2.0))


def target_b(process: Process, d: int) -> ScaleMixture:
    """Return a target of heavy tails: kurtosis 9.8 in each of d independent coordinates."""
    return ScaleMixture(process, power_law(d), (0.9, 0.1), (0.5, 5.5))


def target_c(process: Process, d: int, seed: int = 1) -> GaussianMixture:
    """Return a mixture of four components whose means and amplitudes couple all d coordinates; `seed` draws the means."""
    components, spectrum = 4, power_law(d)
    generator = torch.Generator().manual_seed(seed)
    means = 0.5 * torch.randn((components, d), generator=generator, dtype=torch.float64) * torch.sqrt(spectrum)
    means = means - means.mean(0)
    amplitudes = torch.exp(0.15 * torch.linspace(-1, 1, components, dtype=torch.float64))
    within = torch.maximum(spectrum - (means**2).mean(0), 0.05 * spectrum)
    variances = (amplitudes / amplitudes.mean())[:, None] * within
    return GaussianMixture(process, means, variances, torch.full((components,), 1 / components))


def _probabilities(weights: Tensor) -> Tensor:
    _check(weights.ndim == 1 and bool((weights > 0).all()), "weights must be [components] and positive")
    return weights / weights.sum()


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(f"analytic target: {message}")
