"""Rounds against dimension, d = 64 ... 262144, with exact scores, beside the steps of sequential samplers at equal error.

    python benchmarks/dimension.py

Both targets have the same spectrum at every d, four decades in 64 bands of d / 64 coordinates: `tails` has independent
coordinates of kurtosis 9.8, `mixture` four components that couple all coordinates and part by sqrt(d). The horizon is
ln d + 2.3, as theory asks (Chen et al. 2024, theorem 3.3). Errors are root mean squares over coordinates in their standard
deviations; `fixed total` holds the Euclidean norm over all coordinates instead, so the tolerance falls like 1 / sqrt(d).
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import Cell, Report, at_most, parser
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.bases import Identity
from piadm_hpc.collocation import Collocation, Scheme
from piadm_hpc.grid import log_snr, piadm
from piadm_hpc.models.analytic import GaussianMixture, ScaleMixture
from piadm_hpc.moments import end_covariance
from piadm_hpc.noise import PRIOR, Noise
from piadm_hpc.process import OU
from piadm_hpc.reference import GaussianReference
from piadm_hpc.solving import Solution, solve

F64 = torch.float64
BANDS, DELTA, STEPS, STEP = 64, 1e-3, 48, 1 / 8
TOL, TOTAL, KL = 1e-2, 8e-2, 1e-2
GROWTH = 2.0
DEPTH = 1.25  # factor of ln(d / tol^2) in the published depth, whose order alone theory gives; enough at d = 64
SIZES = tuple(1 << k for k in range(6, 19, 2))
LADDER = (8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320)
ROWS = 1 << 21  # entries of a network call at most
DEEP = 1 << 14  # largest dimension at which the published depth is run too; its rounds are known without
FEW, ENTRIES = 2, 1 << 16  # draws at least, and entries of all draws beyond that
PROCESS = OU()
COLUMNS = (
    "d",
    "samples",
    "horizon",
    "SDE: rounds",
    "SDE: error",
    "ODE: rounds",
    "ODE: error",
    "published SDE, own stop: rounds",
    "own stop: error",
    "published depth x blocks: rounds",
    "depth: error",
    "steps of our SDE chain",
    "steps of the published grid",
    "DPM-Solver++(2M) steps",
)
TIGHT = (
    "d",
    "tolerance",
    "SDE: rounds",
    "SDE: error",
    "ODE: rounds",
    "ODE: error",
    "DPM-Solver++(2M) steps",
    "published SDE steps",
)


class Bands(Identity):
    """The coordinates themselves in bands of equal width, one shell each."""

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
    """Variance per band: a power law of four decades with mean one, whatever the dimension."""
    falling = 10 ** (-4 * torch.arange(BANDS, dtype=F64) / (BANDS - 1))
    return falling / falling.mean()


@dataclass(frozen=True, eq=False)
class Target:
    """Exact scores in d dimensions, the Gaussian of their moments, and the draws that all methods share."""

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
        """The scheme from the prior; memory for one sample at a time."""
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
        away: Tensor = ((x - truth) / self.deviation).square().mean(1).sqrt()
        return away.nan_to_num(nan=math.inf)

    def collocation(self, tol: float) -> Collocation:
        """As many points as the package takes by itself for a tolerance."""
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
    """Four components whose means hold a fifth of every coordinate's variance."""
    basis, components = Bands(size), 4
    generator = torch.Generator().manual_seed(1)
    means = torch.randn((components, size), generator=generator, dtype=F64)
    means = 0.5 * (means - means.mean(0)) * basis.expand(torch.sqrt(spectrum()))
    amplitudes = torch.exp(0.15 * torch.linspace(-1, 1, components, dtype=F64))
    within = (amplitudes / amplitudes.mean())[:, None] * (1 - 0.25 * (1 - 1 / components)) * spectrum()
    score = GaussianMixture(PROCESS, means, within, torch.full((components,), 1 / components), basis)
    return Target("mixture", score, score.reference(), samples)


def middle(values: Tensor) -> float:
    """The lower median, an observed value."""
    return float(values.to(F64).quantile(0.5, interpolation="lower"))


def spread(values: Tensor) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{middle(values):g}" if low == high else f"{middle(values):g} ({low}-{high})"


def own_stop(target: Target, scheme: Scheme, truth: Tensor, **settings: Any) -> tuple[Tensor, float]:
    """Rounds per sample, and the median error, when the solver stops by itself."""
    found = target.solve(scheme, **settings)
    return found.rounds, middle(target.error(found.x, truth))


def sde(target: Target, tol: float) -> tuple[Tensor, float]:
    """The package's default chain against itself step by step."""
    grid = log_snr(PROCESS, STEPS, horizon=target.horizon, delta=DELTA)
    chain = integrators.gaussian_exponential(PROCESS, grid, target.reference)
    truth = target.solve(chain, reference=target.reference, solver="sequential").x
    return own_stop(target, chain, truth, reference=target.reference, tol=tol)


def ode(target: Target, tol: float) -> tuple[Tensor, float]:
    """The package's default for the flow, against the flow."""
    return own_stop(target, target.collocation(tol), target.flow, reference=target.reference, tol=tol)


def published(target: Target) -> tuple[tuple[Tensor, float], tuple[int, int, float], int]:
    """PIADM with a stopping test, with one depth of order ln(d / tol^2) for all blocks, and the steps of its grid."""
    grid = piadm(PROCESS, horizon=target.horizon, delta=DELTA, step=STEP)
    chain = integrators.piadm(PROCESS, grid)
    truth = target.solve(chain, solver="sequential").x
    settings: dict[str, Any] = {"linear": "process", "start": "constant"}
    stopped = own_stop(target, chain, truth, tol=TOL, **settings)
    depth, error = math.ceil(DEPTH * math.log(target.size / TOL**2)), math.nan
    if target.size <= DEEP:
        found = target.solve(chain, samples=1, tol=None, sweeps=depth, **settings)
        error = float(target.error(found.x, truth[:1]))
    return stopped, (depth, len(chain.edges) - 1, error), chain.num_steps


def published_steps(size: int, least: int = 16) -> int:
    """Steps of the published chain until its law is within KL of the truth on the Gaussian of this spectrum.

    That divergence is closed form (`moments`) and falls like the square of the step, which gives the next step to try.
    """
    reference = GaussianReference(torch.zeros(BANDS, dtype=F64), Bands(BANDS), spectrum())
    inverse = float(least)
    while True:
        grid = piadm(PROCESS, horizon=math.log(size) + 2.3, delta=DELTA, step=1 / inverse)
        end = end_covariance(integrators.piadm(PROCESS, grid), reference)[:, 0, 0]
        alpha, sigma = PROCESS.alpha(grid.t[-1]), PROCESS.sigma(grid.t[-1])
        ratio = end / reference.variance(alpha, sigma)
        divergence = float((ratio - 1 - torch.log(ratio)).sum()) / 2 * size / BANDS
        if divergence <= KL:
            return grid.num_steps
        inverse *= 1.02 * math.sqrt(divergence / KL)


def at_fixed_rms(report: Report, family: Callable[[int, int], Target], sizes: Sequence[int], draws: int) -> None:
    """One table: everything to an error of TOL per coordinate, and the aims on how rounds grow."""
    rows: list[list[Cell]] = []
    rounds: dict[str, list[float]] = {"SDE": [], "ODE": []}
    for size in sizes:
        target = family(size, max(FEW, min(draws, ENTRIES // size)))
        by_sde, by_ode = sde(target, TOL), ode(target, TOL)
        stopped, (depth, blocks, error), steps = published(target)
        cells: list[Cell] = [
            str(size),
            target.samples,
            target.horizon,
            spread(by_sde[0]),
            by_sde[1],
            spread(by_ode[0]),
            by_ode[1],
        ]
        cells += [spread(stopped[0]), stopped[1], f"{depth} x {blocks} = {depth * blocks}", "-" if math.isnan(error) else error]
        rows.append([*cells, STEPS, steps, target.dpm_steps(TOL)])
        rounds["SDE"].append(middle(by_sde[0]))
        rounds["ODE"].append(middle(by_ode[0]))
        _tell(target, rows[-1])
    report.add(f"{target.name}, error {TOL:g} per coordinate; medians (least-most) over samples", COLUMNS, rows)
    for kind, seen in rounds.items():
        what = f"most rounds less those at d = {sizes[0]}, {target.name}, {kind}"
        report.aims.append(at_most(what, max(seen) - seen[0], GROWTH))


def at_fixed_total(report: Report, family: Callable[[int, int], Target], sizes: Sequence[int], draws: int) -> None:
    """One table: to a Euclidean error of TOTAL over all coordinates."""
    rows: list[list[Cell]] = []
    for size in sizes:
        target, tol = family(size, max(FEW, min(draws, ENTRIES // size))), TOTAL / math.sqrt(size)
        by_sde, by_ode = sde(target, tol), ode(target, tol)
        cells: list[Cell] = [str(size), tol, spread(by_sde[0]), by_sde[1], spread(by_ode[0]), by_ode[1]]
        rows.append([*cells, target.dpm_steps(tol), published_steps(size)])
        _tell(target, rows[-1])
    title = f"{target.name}, Euclidean error {TOTAL:g} in all (published SDE: divergence {KL:g} on the Gaussian)"
    report.add(title, TIGHT, rows)


def _tell(target: Target, row: list[Cell]) -> None:
    """Lines as they come: the last ones take long."""
    print(f"{target.name}: {', '.join(map(str, row))}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    options = parser("Rounds of parallel samplers against dimension.")
    options.add_argument("--samples", type=int, default=32, help="draws while they hold less than 65536 numbers, at least 2")
    options.add_argument("--targets", nargs="+", choices=("tails", "mixture"), default=["tails", "mixture"])
    options.add_argument("--largest", type=int, default=SIZES[-1], help="largest dimension")
    return options.parse_args()


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    report = Report("dimension")
    sizes = [size for size in SIZES if size <= (256 if options.quick else options.largest)]
    draws = 2 if options.quick else options.samples
    families = {"tails": tails, "mixture": mixture}
    for name in options.targets:
        at_fixed_rms(report, families[name], sizes, draws)
    for name in options.targets:
        at_fixed_total(report, families[name], sizes, draws)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
