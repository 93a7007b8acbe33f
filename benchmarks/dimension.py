"""Rounds against dimension, d = 64 ... 262144, with exact scores, beside the steps of sequential samplers at equal error.

    python benchmarks/dimension.py

The targets are those of `families.py`. Errors are root mean squares over coordinates in their standard deviations; `window`
is one of 16 points that moves over the chain; `fixed total` holds the Euclidean norm over all coordinates instead, so the
tolerance falls like 1 / sqrt(d).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import Cell, Report, at_most, parser
from families import BANDS, DELTA, F64, PROCESS, Bands, Target, mixture, spectrum, tails
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.solvers.moments import end_covariance
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.theory.grid import log_snr, piadm

STEPS, STEP = 48, 1 / 8
TOL, TOTAL, KL = 1e-2, 8e-2, 1e-2
GROWTH = 2.0
WINDOW = 16  # points of the chain that are open at a time; also the collocation points of the flow
DEPTH = 1.25  # factor of ln(d / tol^2) in the published depth, whose order alone theory gives; enough at d = 64
SIZES = tuple(1 << k for k in range(6, 19, 2))
DEEP = 1 << 14  # largest dimension at which the published depth is run too; its rounds are known without
FEW, ENTRIES = 2, 1 << 16  # draws at least, and entries of all draws beyond that
COLUMNS = (
    "d",
    "samples",
    "horizon",
    "SDE: rounds",
    "SDE: calls",
    "SDE: error",
    "SDE, window: rounds",
    "window: calls",
    "window: error",
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
OWN = COLUMNS.index("published SDE, own stop: rounds")  # columns of this package, which make a table of their own
TIGHT = (
    "d",
    "tolerance",
    "SDE: rounds",
    "SDE: error",
    "SDE, window: rounds",
    "window: error",
    "ODE: rounds",
    "ODE: error",
    "DPM-Solver++(2M) steps",
    "published SDE steps",
)


def middle(values: Tensor) -> float:
    """The lower median, an observed value."""
    return float(values.to(F64).quantile(0.5, interpolation="lower"))


def spread(values: Tensor) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{middle(values):g}" if low == high else f"{middle(values):g} ({low}-{high})"


@dataclass(frozen=True)
class Stopped:
    """What the solver made when it stopped by itself: rounds per sample, medians of calls and error."""

    rounds: Tensor
    calls: float
    error: float


def own_stop(target: Target, scheme: Scheme, truth: Tensor, **settings: Any) -> Stopped:
    found = target.solve(scheme, **settings)
    return Stopped(found.rounds, middle(found.calls), middle(target.error(found.x, truth)))


def sde(target: Target, tol: float) -> tuple[Stopped, Stopped]:
    """The package's default chain against itself step by step: all its points at once, and a window of them."""
    grid = log_snr(PROCESS, STEPS, horizon=target.horizon, delta=DELTA)
    chain = integrators.gaussian_exponential(PROCESS, grid, target.reference)
    truth = target.solve(chain, reference=target.reference, solver="sequential").x
    whole, moving = (own_stop(target, chain, truth, reference=target.reference, tol=tol, window=n) for n in (None, WINDOW))
    return whole, moving


def ode(target: Target, tol: float) -> Stopped:
    """The package's default for the flow, against the flow."""
    return own_stop(target, target.collocation(tol), target.flow, reference=target.reference, tol=tol)


def published(target: Target) -> tuple[Stopped, tuple[int, int, float], int]:
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
    rounds: dict[str, list[float]] = {"SDE in a window": [], "ODE": []}
    for size in sizes:
        target = family(size, max(FEW, min(draws, ENTRIES // size)))
        (whole, moving), flow = sde(target, TOL), ode(target, TOL)
        stopped, (depth, blocks, error), steps = published(target)
        cells: list[Cell] = [str(size), target.samples, target.horizon]
        cells += [cell for made in (whole, moving) for cell in (spread(made.rounds), made.calls, made.error)]
        cells += [spread(flow.rounds), flow.error, spread(stopped.rounds), stopped.error]
        cells += [f"{depth} x {blocks} = {depth * blocks}", "-" if math.isnan(error) else error]
        rows.append([*cells, STEPS, steps, target.dpm_steps(TOL)])
        rounds["SDE in a window"].append(middle(moving.rounds))
        rounds["ODE"].append(middle(flow.rounds))
        _tell(target, rows[-1])
    title = f"{target.name}, error {TOL:g} per coordinate; medians (least-most) over samples"
    report.add(title, COLUMNS[:OWN], [row[:OWN] for row in rows])
    report.add(f"{title}: the published SDE, and steps", (COLUMNS[0], *COLUMNS[OWN:]), [[row[0], *row[OWN:]] for row in rows])
    for kind, seen in rounds.items():
        what = f"most rounds less those at d = {sizes[0]}, {target.name}, {kind}"
        report.aims.append(at_most(what, max(seen) - seen[0], GROWTH))


def at_fixed_total(report: Report, family: Callable[[int, int], Target], sizes: Sequence[int], draws: int) -> None:
    """One table: to a Euclidean error of TOTAL over all coordinates."""
    rows: list[list[Cell]] = []
    for size in sizes:
        target, tol = family(size, max(FEW, min(draws, ENTRIES // size))), TOTAL / math.sqrt(size)
        (whole, moving), flow = sde(target, tol), ode(target, tol)
        cells: list[Cell] = [str(size), tol]
        cells += [cell for made in (whole, moving, flow) for cell in (spread(made.rounds), made.error)]
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
