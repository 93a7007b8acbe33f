"""The cost and the effect of a tolerance: rounds, calls and true errors of the defaults when they stop by themselves.

    python benchmarks/tolerance.py               exact scores: targets A, B, C of 1024 modes (10 minutes, one core)
    python benchmarks/tolerance.py --targets C --size 256 --samples 512     includes rare draws near a boundary between modes

The probability flow is compared with its exact solution (collocation with 64 points to 1e-9), the SDE with the same chain and
noise step by step. Errors are root mean squares over modes, in standard deviations of the data, and printed in units of the
tolerance. There are three references: the spectrum of the target; the same with every mode wrong by a factor of 1.5, up or down
at random; and the spectrum with the Jacobian diagonal that `piadm reference` probes. Baselines run on the same draws.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import Report, at_most, parser, solve
from rounds import TARGETS
from torch import Tensor
from tracking import EndStates, with_idle_step

from piadm_hpc import integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.run.probe import probe_response, probe_smoothness
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.resolution import choose, stretched
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.solvers.solution import Solution
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import log_snr, piadm
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

PROCESS, HORIZON, DELTA = OU(), 8.0, 1e-3
RESULT = ("rounds", "90 % of draws", "most", "calls a sample", "error / tol", "error of 90 %", "largest")
COLUMNS = ("method", "tol", "rounds needed", "by 90 %", *RESULT)
DEEPEST, LATEST = 24, 12
BASELINES = (6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 140, 200, 300)


@dataclass(frozen=True, eq=False)
class Problem:
    """A target, its reference and its draws."""

    name: str
    score: Any
    reference: GaussianReference
    first: Tensor

    @property
    def deviation(self) -> Tensor:
        return torch.sqrt(self.reference.spectrum + DELTA)

    @property
    def noise(self) -> Noise:
        return Noise(0, len(self.reference.mean), dtype=torch.float64)

    def solve(self, scheme: Chain | Collocation, **settings: Any) -> Solution:
        settings = {"reference": self.reference, **settings}
        return solve(scheme, self.score, self.first, noise=self.noise, scale=self.deviation, **settings)

    def error(self, x: Tensor, truth: Tensor) -> Tensor:
        return ((x - truth) / self.deviation).square().mean(1).sqrt()


def problem(name: str, size: int, samples: int) -> Problem:
    score = TARGETS[name](PROCESS, size)
    reference = score.reference()
    white = Noise(0, size, dtype=torch.float64).at([0], range(samples), stream=PRIOR)[0, :, 0]
    t = torch.tensor(HORIZON, dtype=torch.float64)
    return Problem(name, score, reference, reference.draw(white, PROCESS.alpha(t), PROCESS.sigma(t)))


def wrong(reference: GaussianReference) -> GaussianReference:
    """The reference with every variance wrong by a factor of 1.5, up or down."""
    generator = torch.Generator().manual_seed(1)
    up = torch.randint(0, 2, reference.spectrum.shape, generator=generator).to(torch.float64) * 2 - 1
    return replace(reference, spectrum=reference.spectrum * 1.5**up)


def probed(one: Problem) -> GaussianReference:
    """The reference with the Jacobian diagonal of the score, probed at eight samples of a pilot run."""
    pilot = one.solve(Collocation(PROCESS, one.reference, HORIZON, DELTA, 16), tol=1e-2).x[:8]
    response = probe_response(one.score, PROCESS, one.reference, pilot, horizon=HORIZON, delta=DELTA)
    return replace(one.reference, response=response)


def points(tol: float) -> int:
    """The number that `grid.steps = "auto"` chooses for a model that was not probed."""
    return max(8, round(-8 * torch.log10(torch.tensor(tol)).item()))


def quantiles(values: Tensor) -> list[float]:
    return [float(values.to(torch.float64).quantile(q, interpolation="nearest")) for q in (0.5, 0.9, 1.0)]


def row(label: str, tol: float, solution: Solution, error: Tensor) -> list[Any]:
    return [label, f"{tol:g}", *quantiles(solution.rounds), float(solution.calls.double().mean()), *quantiles(error / tol)]


def flow(report: Report, one: Problem, tols: Sequence[float]) -> None:
    """Table of the probability flow: collocation with three references, and DPM-Solver++(2M) at the same true error."""
    truth = one.solve(Collocation(PROCESS, one.reference, HORIZON, DELTA, 64), tol=1e-9).x
    rows = []
    for tol in tols:
        lines = {}
        for label, reference in (("spectrum", one.reference), ("wrong by 50 %", wrong(one.reference)), ("probed", one.reference)):
            scheme = chosen(one, tol) if label == "probed" else Collocation(PROCESS, reference, HORIZON, DELTA, points(tol))
            solution = one.solve(scheme, tol=tol, reference=reference)
            errors = torch.stack(
                [one.error(one.solve(scheme, tol=None, sweeps=k, reference=reference).x, truth) for k in range(1, LATEST)]
            )
            result = row(f"collocation, {scheme.points} points, {label}", tol, solution, one.error(solution.x, truth))
            lines[label] = [*result[:2], *quantiles(1 + needed(errors, tol))[:2], *result[2:]]
            rows.append(lines[label])
        calls, error = baseline(one, truth, tol)
        rows.append(["dpmpp-2m, step by step", f"{tol:g}", *[float(calls)] * 6, *quantiles(error / tol)])
        limit_flow(report, one.name, tol, lines, calls)
    report.add(f"Target {one.name}, probability flow, {len(truth)} draws", COLUMNS, rows)


def chosen(one: Problem, tol: float) -> Collocation:
    """Collocation with the points that `piadm sample` chooses for a probed model, from the flows of eight other draws."""
    scheme = Collocation(PROCESS, one.reference, HORIZON, DELTA, 40)
    sampler = Sampler(
        scheme,
        one.score,
        one.reference.event_shape,
        1,
        Options(tol=1e-3, scale=one.deviation),
        reference=one.reference,
        dtype=torch.float64,
    )
    known = probe_smoothness(sampler, scheme, range(8))
    begin, number = choose(known, tol, *scheme.span)
    return stretched(Collocation(PROCESS, one.reference, math.log1p(math.exp(-begin)), DELTA, number), known)


def limit_flow(report: Report, name: str, tol: float, rows: dict[str, list[Any]], calls: int) -> None:
    limits = {("A", 1e-2): 3, ("B", 1e-2): 3, ("C", 1e-2): 5}
    right, off, own = rows["spectrum"], rows["wrong by 50 %"], rows["probed"]
    if tol >= 1e-3:
        limit = limits.get((name, tol), 6)
        report.aims.append(at_most(f"median rounds that the flow needs, {name}, tol {tol:g}", own[2], limit))
        report.aims.append(at_most(f"median rounds of its own stop, {name}, tol {tol:g}", own[4], limit + 1))
    report.aims.append(at_most(f"rounds that wrong spectra cost, flow, {name}, tol {tol:g}", off[4] - right[4], 2))
    report.aims.append(at_most(f"largest error / tol of the flow, {name}, tol {tol:g}", max(r[10] for r in rows.values()), 2))
    report.aims.append(at_most(f"its calls over those of DPM-Solver++(2M), {name}, tol {tol:g}", own[7] / calls, 3))


def baseline(one: Problem, truth: Tensor, tol: float) -> tuple[int, Tensor]:
    """Fewest calls of DPM-Solver++(2M) whose median error is at most `tol`, and its errors."""
    for calls in BASELINES:
        grid = log_snr(PROCESS, calls, horizon=HORIZON, delta=DELTA)
        error = one.error(one.solve(integrators.dpmpp_2m(PROCESS, grid), solver="sequential", reference=None).x, truth)
        if float(error.median()) <= tol:
            break
    return calls, error


def stochastic(report: Report, one: Problem, tols: Sequence[float]) -> None:
    """Table of the SDE: Gaussian-aware chains, compared with the same chain step by step.

    "Rounds needed" are those after which the error stays below the tolerance; the solver needs a few more to detect that.
    """
    rows = []
    references = {"spectrum": one.reference, "wrong by 50 %": wrong(one.reference), "probed": probed(one)}
    for label, grid in (
        ("published grid", piadm(PROCESS, horizon=HORIZON, delta=DELTA, step=1 / 16).with_blocks(1)),
        ("default grid", log_snr(PROCESS, 48, horizon=HORIZON, delta=DELTA)),
    ):
        chain = integrators.gaussian_exponential(PROCESS, grid, one.reference, eta=1.0)
        truth = one.solve(chain, solver="sequential").x
        rows.append([f"step by step, {label}", "-", *[float(chain.num_steps)] * 6, "-", "-", "-"])
        errors = {kind: by_round(one, chain, truth, reference) for kind, reference in references.items()}
        for tol in tols:
            lines = {}
            for kind, reference in references.items():
                solution = one.solve(chain, tol=tol, reference=reference)
                result = row(f"gaussian, {label}, {kind}", tol, solution, one.error(solution.x, truth))
                lines[kind] = [*result[:2], *quantiles(needed(errors[kind], tol))[:2], *result[2:]]
                rows.append(lines[kind])
            limit_sde(report, f"{one.name}, {label}, tol {tol:g}", tol, lines)
    report.add(f"Target {one.name}, SDE, {len(truth)} draws", COLUMNS, rows)


def limit_sde(report: Report, where: str, tol: float, rows: dict[str, list[Any]]) -> None:
    own = rows["probed"]
    if tol == 1e-2:
        report.aims.append(at_most(f"median rounds that the SDE needs, {where}", own[2], 6))
        report.aims.append(at_most(f"rounds that 90 % of the draws need, SDE, {where}", own[3], 10))
    report.aims.append(at_most(f"median rounds of its own stop beyond that, SDE, {where}", own[4] - own[2], 2))
    report.aims.append(
        at_most(f"rounds that wrong spectra cost, SDE, {where}", rows["wrong by 50 %"][4] - rows["spectrum"][4], 2)
    )
    report.aims.append(at_most(f"largest error / tol of the SDE, {where}", max(line[10] for line in rows.values()), 2))


def by_round(one: Problem, chain: Chain, truth: Tensor, reference: GaussianReference) -> Tensor:
    """Errors after 0, 1, ... sweeps: [sweeps, samples]."""
    ends = EndStates(one.score, chain.t[-1], len(truth))
    replace(one, score=ends).solve(with_idle_step(chain), sweeps=min(DEEPEST, chain.num_steps), tol=None, reference=reference)
    return torch.stack([one.error(x, truth) for x in ends.states()])


def needed(errors: Tensor, tol: float) -> Tensor:
    """Rounds after which the error of a sample stays at most `tol`, [samples]."""
    rounds = torch.arange(1, len(errors) + 1)[:, None]
    return torch.where(errors > tol, rounds, 0).max(0).values


def main() -> int:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--samples", type=int, default=20, help="number of draws of every target")
    options_parser.add_argument("--targets", default="ABC", help="letters of targets")
    options_parser.add_argument("--size", type=int, default=1024, help="modes of the targets")
    options_parser.add_argument("--only", choices=("sde", "ode"), help="run only one of the two equations")
    options = options_parser.parse_args()
    torch.set_num_threads(1)
    report = Report("tolerance")
    for name in "A" if options.quick else options.targets:
        one = problem(name, 32 if options.quick else options.size, 2 if options.quick else options.samples)
        if options.only != "sde":
            flow(report, one, (1e-2,) if options.quick else (1e-2, 1e-3, 1e-4))
        if options.only != "ode":
            stochastic(report, one, (1e-2,) if options.quick else (1e-2, 1e-3))
        print(f"{name} done", file=sys.stderr, flush=True)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
