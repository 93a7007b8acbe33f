"""Targets of any dimension with exact scores and the same Gaussian part: `tails` and `mixture`.

At every d both have the same spectrum of four decades, in 64 bands of d / 64 coordinates. `tails` has independent coordinates
of kurtosis 9.8. `mixture` has four components that couple all coordinates; their distance grows like sqrt(d). The horizon is
ln d + 2.3, as theory requires (Chen et al. 2024, theorem 3.3).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import solve
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.analytic import GaussianMixture, ScaleMixture
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.solvers.solution import Solution
from piadm_hpc.theory.bases import Identity
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

F64 = torch.float64
BANDS, DELTA = 64, 1e-3
LADDER = (8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320)
ROWS = 1 << 21  # largest number of entries in a network call
PROCESS = OU()


class Bands(Identity):
    """The identity, with coordinates grouped into shells of equal width."""

    def __init__(self, size: int):
        super().__init__((size,))
        self.num_shells = BANDS

    def expand(self, gains: Tensor) -> Tensor:
        return gains.repeat_interleave(self.num_coords // BANDS, dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        return (z**2).reshape(len(z), BANDS, -1).mean((0, 2))

    def to(self, device: torch.device, dtype: torch.dtype) -> Bands:
        return self


def spectrum() -> Tensor:
    """Variance per band: a power law of four decades with mean one, independent of the dimension."""
    falling = 10 ** (-4 * torch.arange(BANDS, dtype=F64) / (BANDS - 1))
    return falling / falling.mean()


@dataclass(frozen=True, eq=False)
class Target:
    """An exact score in d dimensions, the Gaussian with its moments, and the draws that all methods share."""

    name: str
    score: Callable[[Tensor, Tensor], Tensor]
    reference: GaussianReference
    samples: int

    @property
    def size(self) -> int:
        return len(self.reference.mean)

    @property
    def horizon(self) -> float:
        return math.log(self.size) + 2.3

    @functools.cached_property
    def deviation(self) -> Tensor:
        return self.reference.basis.expand(torch.sqrt(self.reference.spectrum + DELTA))

    def noise(self) -> Noise:
        return Noise(0, self.size, dtype=F64)

    def solve(self, scheme: Scheme, samples: int | None = None, **settings: Any) -> Solution:
        """Solve a scheme from the prior; large samples one at a time, to save memory."""
        names = range(samples or self.samples)
        signal, spread = scheme.entry()
        white = self.noise().at([0], names, stream=PRIOR)[0, :, 0]
        first = self.reference.draw(white, signal[0], spread[0, 0])
        rows = max(1, ROWS // self.size)
        given = {"noise": self.noise(), "scale": self.deviation, "model_batch": rows, "in_flight": None, **settings}
        if settings.get("solver") != "sequential" and self.size > 1 << 13:
            given["in_flight"] = 1
        return solve(scheme, self.score, first, **given)

    def error(self, x: Tensor, truth: Tensor) -> Tensor:
        errors: Tensor = ((x - truth) / self.deviation).square().mean(1).sqrt()
        return errors.nan_to_num(nan=math.inf)

    def collocation(self, tol: float) -> Collocation:
        """Collocation with the number of points that the package chooses for a tolerance."""
        points = max(8, round(-8 * math.log10(tol)))
        return Collocation(PROCESS, self.reference, self.horizon, DELTA, points)

    @functools.cached_property
    def flow(self) -> Tensor:
        """End states of the probability flow."""
        return self.solve(self.collocation(1e-8), reference=self.reference, tol=1e-7).x

    def dpm_steps(self, tol: float) -> int:
        """Fewest steps of DPM-Solver++(2M) on the ladder whose median true error is at most `tol`."""
        for steps in LADDER:
            chain = integrators.dpmpp_2m(PROCESS, log_snr(PROCESS, steps, horizon=self.horizon, delta=DELTA))
            if float(self.error(self.solve(chain, solver="sequential").x, self.flow).median()) <= tol:
                return steps
        raise RuntimeError(f"DPM-Solver++(2M) does not reach {tol:g} in {LADDER[-1]} steps: lengthen the ladder")


def tails(size: int, samples: int) -> Target:
    """Independent coordinates with heavy tails."""
    basis = Bands(size)
    score = ScaleMixture(PROCESS, basis.expand(spectrum()), (0.9, 0.1), (0.5, 5.5))
    return Target("tails", score, GaussianReference(torch.zeros(size, dtype=F64), basis, spectrum()), samples)


def mixture(size: int, samples: int) -> Target:
    """Four components whose means carry a fifth of every coordinate's variance."""
    basis, components = Bands(size), 4
    generator = torch.Generator().manual_seed(1)
    means = torch.randn((components, size), generator=generator, dtype=F64)
    means = 0.5 * (means - means.mean(0)) * basis.expand(torch.sqrt(spectrum()))
    amplitudes = torch.exp(0.15 * torch.linspace(-1, 1, components, dtype=F64))
    within = (amplitudes / amplitudes.mean())[:, None] * (1 - 0.25 * (1 - 1 / components)) * spectrum()
    score = GaussianMixture(PROCESS, means, within, torch.full((components,), 1 / components), basis)
    return Target("mixture", score, score.reference(), samples)
