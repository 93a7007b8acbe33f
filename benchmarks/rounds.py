"""Rounds (sequential network calls) until a parallel sampler reproduces the sequential one, by method and target.

    python benchmarks/rounds.py                          exact scores: targets A, B, C of 1024 modes, 226 steps
    python benchmarks/rounds.py --model ccsm-temperature the same for a trained network

The error of a sample is its root mean square distance over modes from the sequential sample with the same noise, in standard
deviations of each mode. Fixed depths are counted as published, with the same number of sweeps in every block. Entries are
medians (least-most) over samples.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from common import Report, at_most, between, parser, solve
from torch import Tensor
from tracking import EndStates, Score, with_idle_step

import piadm_hpc
from piadm_hpc import integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.analytic import target_a, target_b, target_c
from piadm_hpc.solvers.solution import Solution
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import TimeGrid, piadm
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU, Process, forward_time

TARGETS: dict[str, Callable[[OU, int], Any]] = {"A": target_a, "B": target_b, "C": target_c}
LEVELS = (1e-1, 1e-2, 1e-3)
TOL = 1e-2
COLUMNS = ("method", "to 1e-1", "to 1e-2", "to 1e-3", "own stop at 1e-2", "its error", "at most", "expected, 1e-2")
# results of an independent NumPy study of the same targets and grid at an error of 1e-2, with few draws
EXPECTED = {
    "sde": {"blocks": "120-136", "even": "48", "process": "35-38", "identity": "24-26", "reference": "2-6", "aware": "2-6"},
    "ode": {"blocks": "64-72", "even": "32", "process": "15-16", "identity": "8-12", "reference": "2-9", "aware": "3-4"},
}


@dataclass(frozen=True)
class Method:
    """A row: the blocks of the chain, the linear part and the start of its sweeps, and its integrator."""

    key: str
    label: str
    linear: Literal["process", "identity", "reference"]
    cut: Literal["published", "even", "one"] = "one"
    aware: bool = False


METHODS = (
    Method("blocks", "published blocks (h = 1), A = P", "process", "published"),
    Method("even", "as many blocks of equal Lambda, A = P", "process", "even"),
    Method("process", "one block, A = P", "process"),
    Method("identity", "one block, A = I", "identity"),
    Method("reference", "one block, Gaussian A and start", "reference"),
    Method("aware", "the same, Gaussian-aware integrator", "reference", aware=True),
)


@dataclass(frozen=True, eq=False)
class Target:
    """A score to sample from, the standard deviations that are the units of errors, and draws of prior and noise."""

    name: str
    score: Score
    reference: GaussianReference
    process: Process
    deviation: Tensor
    grid: TimeGrid
    samples: int
    dtype: torch.dtype
    model_batch: int | None
    depths: Sequence[int]

    def prior(self) -> Tensor:
        white = self.noise().at([0], range(self.samples), stream=PRIOR)[0, :, 0]
        alpha, sigma = self.process.alpha(self.grid.t[0]), self.process.sigma(self.grid.t[0])
        states = self.reference.to("cpu", self.dtype).draw(white, alpha, sigma)
        return states.reshape(self.samples, *self.reference.event_shape)

    def noise(self) -> Noise:
        return Noise(0, len(self.reference.mean), dtype=self.dtype)

    def solve(self, chain: Chain, score: Score | None = None, **settings: Any) -> Solution:
        return solve(
            chain,
            score or self.score,
            self.prior(),
            noise=self.noise(),
            reference=self.reference,
            scale=self.deviation,
            model_batch=self.model_batch,
            **settings,
        )

    def error(self, x: Tensor, truth: Tensor) -> Tensor:
        """Error per sample; infinite where an iterate overflowed."""
        errors = ((x - truth).flatten(1) / self.deviation).square().mean(1).sqrt()
        return errors.to(torch.float64).nan_to_num(nan=math.inf)


def analytic(name: str, size: int, step: float, samples: int) -> Target:
    """Target A, B or C of `size` modes on the published grid."""
    process = OU()
    score = TARGETS[name](process, size)
    reference = score.reference()
    delta = 1e-3
    deviation = torch.sqrt(reference.spectrum + delta)
    grid = piadm(process, horizon=8.0, delta=delta, step=step)
    return Target(name, score, reference, process, deviation, grid, samples, torch.float64, None, range(1, 60))


def trained(name: str, step: float, samples: int) -> Target:
    """The network of a model; its states have unit standard deviation."""
    model = piadm_hpc.load_model(name)
    grid = piadm(model.process, horizon=model.horizon, delta=model.delta, step=step)
    unit = torch.ones(len(model.reference.mean))
    return Target(
        model.name, model.score, model.reference, model.process, unit, grid, samples, torch.float32, 16, range(4, 60, 4)
    )


def chain_of(target: Target, method: Method, eta: float) -> Chain:
    grid = target.grid
    if method.cut == "one":
        grid = grid.with_blocks(1)
    if method.cut == "even":
        theta = forward_time(target.process, grid.t)
        grid = grid.with_edges_at(-theta - torch.log(theta), len(grid.edges) - 1)
    if method.aware:
        return integrators.gaussian_exponential(target.process, grid, target.reference, eta=eta)
    return integrators.piadm(target.process, grid, eta=eta)


@functools.cache
def truth_of(target: Target, aware: bool, eta: float) -> Tensor:
    """The sequential samples that every method must reproduce; blocks do not change them."""
    return target.solve(chain_of(target, Method("", "", "reference", aware=aware), eta), solver="sequential").x


def rounds_to(target: Target, method: Method, eta: float, levels: Sequence[float]) -> list[Tensor]:
    """For each level, the rounds of every sample [samples]; infinite where no depth that was tried is enough."""
    chain, truth = chain_of(target, method, eta), truth_of(target, method.aware, eta)
    start: Literal["reference", "constant"] = "reference" if method.linear == "reference" else "constant"
    settings: dict[str, Any] = {"linear": method.linear, "start": start, "tol": None}
    if len(chain.edges) > 2:
        errors = _at_depths(lambda k: target.error(target.solve(chain, sweeps=k, **settings).x, truth), target.depths, levels)
        return [_first_below(errors, level, len(chain.edges) - 1) for level in levels]
    limit = 12 if method.linear == "reference" else 32
    while True:
        longer = with_idle_step(chain)
        ends = EndStates(target.score, chain.t[-1].to(target.dtype), target.samples)
        target.solve(longer, ends, sweeps=limit, **settings)
        errors = {k: target.error(x, truth) for k, x in enumerate(ends.states())}
        if float(errors[max(errors)].max()) < levels[-1] or limit >= min(96, chain.num_steps):
            return [_first_below(errors, level, 1) for level in levels]
        limit *= 2


def _at_depths(error: Callable[[int], Tensor], depths: Sequence[int], levels: Sequence[float]) -> dict[int, Tensor]:
    """Errors at increasing depths, until all samples are below the last level."""
    errors: dict[int, Tensor] = {}
    for depth in depths:
        errors[depth] = error(depth)
        if float(errors[depth].max()) < levels[-1]:
            break
    return errors


def _first_below(errors: dict[int, Tensor], level: float, blocks: int) -> Tensor:
    """Rounds of every sample at the smallest depth whose error is below the level."""
    best = torch.full_like(next(iter(errors.values())), math.inf)
    for depth in sorted(errors, reverse=True):
        best = torch.where(errors[depth] < level, torch.full_like(best, float(depth * blocks)), best)
    return best


def own_stop(target: Target, method: Method, eta: float) -> tuple[Tensor, Tensor]:
    """Rounds and errors of samples for which the solver stops by itself at TOL."""
    start: Literal["reference", "constant"] = "reference" if method.linear == "reference" else "constant"
    solution = target.solve(chain_of(target, method, eta), linear=method.linear, start=start, tol=TOL)
    return solution.rounds.to(torch.float64), target.error(solution.x, truth_of(target, method.aware, eta))


def spread(values: Tensor) -> str:
    """Median (least-most)."""
    low, middle, high = (float(values.quantile(q, interpolation="nearest")) for q in (0.0, 0.5, 1.0))
    texts = ["-" if math.isinf(value) else f"{value:g}" for value in (middle, low, high)]
    return texts[0] if low == high else f"{texts[0]} ({texts[1]}-{texts[2]})"


def table(report: Report, target: Target, eta: float, methods: Sequence[Method], levels: Sequence[float]) -> None:
    """Add the table of one target, and limits for its SDE."""
    kind = "sde" if eta > 0 else "ode"
    rows: list[list[Any]] = [["sequential", *[str(target.grid.num_steps)] * 3, "-", "-", "-", "-"]]
    for method in methods:
        reached = rounds_to(target, method, eta, levels)
        rounds, errors = own_stop(target, method, eta)
        texts = [spread(values) for values in reached] + ["-"] * (len(LEVELS) - len(levels))
        expected = EXPECTED[kind][method.key] if report.name == "rounds" else "-"
        own = [spread(rounds), float(errors.median()), float(errors.max())]
        rows.append([method.label, *texts, *own, expected])
        if eta > 0:
            _aim(report, target.name, method, float(reached[1].quantile(0.5, interpolation="nearest")))
        print(f"{target.name} {kind} {method.key} done", file=sys.stderr, flush=True)
    report.add(f"Target {target.name}, {kind.upper()}, {target.samples} samples", COLUMNS, rows)


def _aim(report: Report, name: str, method: Method, measured: float) -> None:
    what = f"rounds to 1e-2 of the SDE, {name}, {method.label}"
    if method.key == "blocks" and report.name == "rounds":
        report.aims.append(between(what, measured, 112, 144))
    if method.key == "identity" and report.name == "rounds":
        report.aims.append(between(what, measured, 22, 28))
    if method.key in ("reference", "aware"):
        report.aims.append(at_most(what, measured, 8))


def _options() -> argparse.Namespace:
    options = parser("Rounds until a parallel sampler reproduces the sequential one.")
    options.add_argument("--model", help="a trained model instead of targets A, B, C")
    options.add_argument("--samples", type=int, help="draws per row (default: 8, of a model 3)")
    options.add_argument("--size", type=int, default=1024, help="modes of the targets")
    options.add_argument("--step", type=float, help="step of the published grid (default: 1/16, of a model 1/8)")
    return options.parse_args()


def main() -> int:
    options = _options()
    if options.quick:
        report = Report("rounds, quick")
        table(report, analytic("A", 32, 0.25, 2), 1.0, METHODS[:1] + METHODS[3:], LEVELS)
    elif options.model:
        report = Report("rounds of a model")
        table(
            report,
            trained(options.model, options.step or 1 / 8, options.samples or 3),
            1.0,
            METHODS[:1] + METHODS[3:],
            LEVELS[:2],
        )
    else:
        report = Report("rounds")
        for name in "ABC":
            for eta in (1.0, 0.0):
                table(report, analytic(name, options.size, options.step or 1 / 16, options.samples or 8), eta, METHODS, LEVELS)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
