"""Rounds against dimension, d = 64 ... 262144, with exact scores, and the steps of sequential samplers at equal error.

    python benchmarks/dimension.py

The targets are those of `families.py`. Errors are root mean squares over coordinates, in units of their standard deviations.
`window` is a window of 16 points that moves over the chain. In the tables of a fixed Euclidean error, the norm over all
coordinates is the same for every d, so the tolerance per coordinate falls like 1 / sqrt(d).
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
DEPTH = 1.25  # factor of ln(d / tol^2) in the published depth; theory gives only the order, and this is enough at d = 64
SIZES = tuple(1 << k for k in range(6, 19, 2))
DEEP = 1 << 14  # largest dimension at which the published depth is run; beyond, only its rounds are computed
FEW, ENTRIES = 2, 1 << 16  # smallest number of draws, and largest number of entries in more draws than that
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
OWN = COLUMNS.index("published SDE, own stop: rounds")  # the columns before it describe this package and make one table
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
    """The lower median, which is one of the values."""
    return float(values.to(F64).quantile(0.5, interpolation="lower"))


def spread(values: Tensor) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{middle(values):g}" if low == high else f"{middle(values):g} ({low}-{high})"


@dataclass(frozen=True)
class Stopped:
    """A solution at the solver's own stop: rounds per sample, and medians of calls and error."""

    rounds: Tensor
    calls: float
    error: float


def own_stop(target: Target, scheme: Scheme, truth: Tensor, **settings: Any) -> Stopped:
    solution = target.solve(scheme, **settings)
    return Stopped(solution.rounds, middle(solution.calls), middle(target.error(solution.x, truth)))


def sde(target: Target, tol: float) -> tuple[Stopped, Stopped]:
    """The default chain with all points open and in a window, compared with the same chain step by step."""
    grid = log_snr(PROCESS, STEPS, horizon=target.horizon, delta=DELTA)
    chain = integrators.gaussian_exponential(PROCESS, grid, target.reference)
    truth = target.solve(chain, reference=target.reference, solver="sequential").x
    whole, moving = (own_stop(target, chain, truth, reference=target.reference, tol=tol, window=n) for n in (None, WINDOW))
    return whole, moving


def ode(target: Target, tol: float) -> Stopped:
    """The default solver of the flow, compared with the converged flow."""
    return own_stop(target, target.collocation(tol), target.flow, reference=target.reference, tol=tol)


def published(target: Target) -> tuple[Stopped, tuple[int, int, float], int]:
    """PIADM with the stopping test of this package, with one depth for all blocks of order ln(d / tol^2), and its steps."""
    grid = piadm(PROCESS, horizon=target.horizon, delta=DELTA, step=STEP)
    chain = integrators.piadm(PROCESS, grid)
    truth = target.solve(chain, solver="sequential").x
    settings: dict[str, Any] = {"linear": "process", "start": "constant"}
    stopped = own_stop(target, chain, truth, tol=TOL, **settings)
    depth, error = math.ceil(DEPTH * math.log(target.size / TOL**2)), math.nan
    if target.size <= DEEP:
        solution = target.solve(chain, samples=1, tol=None, sweeps=depth, **settings)
        error = float(target.error(solution.x, truth[:1]))
    return stopped, (depth, len(chain.edges) - 1, error), chain.num_steps


def published_steps(size: int, least: int = 16) -> int:
    """Fewest steps of the published chain that keep its Kullback-Leibler divergence from the Gaussian of this spectrum below KL.

    The divergence has a closed form (`moments`) and falls like the square of the step, which gives the next step to try.
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
    """One table at an error of TOL per coordinate, and the limits on the growth of rounds."""
    rows: list[list[Cell]] = []
    rounds: dict[str, list[float]] = {"SDE in a window": [], "ODE": []}
    for size in sizes:
        target = family(size, max(FEW, min(draws, ENTRIES // size)))
        (whole, moving), flow = sde(target, TOL), ode(target, TOL)
        stopped, (depth, blocks, error), steps = published(target)
        cells: list[Cell] = [str(size), target.samples, target.horizon]
        cells += [cell for stop in (whole, moving) for cell in (spread(stop.rounds), stop.calls, stop.error)]
        cells += [spread(flow.rounds), flow.error, spread(stopped.rounds), stopped.error]
        cells += [f"{depth} x {blocks} = {depth * blocks}", "-" if math.isnan(error) else error]
        rows.append([*cells, STEPS, steps, target.dpm_steps(TOL)])
        rounds["SDE in a window"].append(middle(moving.rounds))
        rounds["ODE"].append(middle(flow.rounds))
        _print(target, rows[-1])
    title = f"{target.name}, error {TOL:g} per coordinate; medians (least-most) over samples"
    report.add(title, COLUMNS[:OWN], [row[:OWN] for row in rows])
    report.add(f"{title}: the published SDE, and steps", (COLUMNS[0], *COLUMNS[OWN:]), [[row[0], *row[OWN:]] for row in rows])
    for kind, counts in rounds.items():
        what = f"most rounds less those at d = {sizes[0]}, {target.name}, {kind}"
        report.aims.append(at_most(what, max(counts) - counts[0], GROWTH))


def at_fixed_total(report: Report, family: Callable[[int, int], Target], sizes: Sequence[int], draws: int) -> None:
    """One table at a Euclidean error of TOTAL over all coordinates."""
    rows: list[list[Cell]] = []
    for size in sizes:
        target, tol = family(size, max(FEW, min(draws, ENTRIES // size))), TOTAL / math.sqrt(size)
        (whole, moving), flow = sde(target, tol), ode(target, tol)
        cells: list[Cell] = [str(size), tol]
        cells += [cell for stop in (whole, moving, flow) for cell in (spread(stop.rounds), stop.error)]
        rows.append([*cells, target.dpm_steps(tol), published_steps(size)])
        _print(target, rows[-1])
    title = f"{target.name}, Euclidean error {TOTAL:g} in all (published SDE: divergence {KL:g} on the Gaussian)"
    report.add(title, TIGHT, rows)


def _print(target: Target, row: list[Cell]) -> None:
    """Print every row as soon as it is ready, since the last ones take long."""
    print(f"{target.name}: {', '.join(map(str, row))}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    options = parser("Rounds of parallel samplers against dimension.")
    options.add_argument(
        "--samples", type=int, default=32, help="draws while these have fewer than 65536 entries in all, at least 2"
    )
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
