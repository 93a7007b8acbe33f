"""Log-densities of a collocated flow against exact ones, and against an adaptive ODE solver that takes a trace at every call.

    python benchmarks/density.py            targets A, B, C with exact densities, 64 and 256 dimensions; dopri5 of torchdiffeq

Errors are in nats, root mean square over draws: of the log-determinant of the map from first to last state, whose exact value
follows from the target's densities at both ends. Rounds count the sweeps and the one round of traces. First all draws take the
same number of sweeps, then as many as a tolerance requires.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from common import Report, at_least, at_most, parser, solve
from torch import Tensor

from piadm_hpc.models.analytic import target_a, target_b, target_c
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

HORIZON, DELTA = 8.0, 1e-3
TARGETS: dict[str, Callable[..., Any]] = {"A": target_a, "B": target_b, "C": target_c}
DEPTHS = ((16, 4), (24, 6), (32, 9))  # nodes and sweeps
PROBES = (4, 16)
TOLERANCES = tuple(10 ** (-k / 2) for k in range(6, 15))  # of the adaptive solver
Row = list[str | float | int]


def first_states(target: Any, flow: Collocation, draws: int) -> Tensor:
    """The reference's states at the first point of the flow."""
    signal, spread = flow.entry()
    reference = target.reference()
    white = Noise(0, len(reference.mean), dtype=torch.float64).at([0], range(draws), len(signal), PRIOR)[0]
    return reference.draw_state(white, signal, spread)[:, 0]


def exact(target: Any, flow: Collocation, first: Tensor, last: Tensor) -> Tensor:
    """The log-determinant of the exact flow between two states of one trajectory."""
    start, end = (t.expand(len(first)) for t in flow.t[[0, -1]])
    return target.log_density(first, start) - target.log_density(last, end)


def collocated(name: str, d: int, draws: int, report: Report) -> list[Row]:
    """Errors and coverage of the error bar at several depths, with exact traces and with probes."""
    rows: list[Row] = []
    for points, sweeps in DEPTHS:
        target = TARGETS[name](OU(), d)
        flow = Collocation(OU(), target.reference(), HORIZON, DELTA, points)
        first = first_states(target, flow, draws)
        for traces in ("exact", *PROBES) if (points, sweeps) == DEPTHS[1] else ("exact",):
            settings = {"tol": None, "sweeps": sweeps, "traces": traces, "noise": Noise(1, d)}
            found = solve(flow, target.score, first, **settings)
            error = (found.log_det.value - exact(target, flow, first, found.x)).abs()
            covered = float((error <= found.log_det.error).double().mean())
            label = traces if traces == "exact" else f"{traces} probes"
            numbers = [float(error.square().mean().sqrt()), float(error.median()), float(found.log_det.error.median())]
            rows.append([name, d, f"{points}", f"{sweeps} + 1", label, *(f"{number:.2g}" for number in numbers), covered])
            if d < 64:
                continue  # too few draws for the limits
            report.aims.append(at_least(f"{name}, d = {d}, {points} nodes, {label}: share that the bar covers", covered, 0.95))
            if d == 64 and traces == "exact" and points > 16:
                most = 0.02 if sweeps == 6 else 0.005
                report.aims.append(at_most(f"{name}, {sweeps} + 1 rounds: median error", numbers[1], most))
    return rows


def tolerant(name: str, d: int, draws: int, report: Report) -> list[Row]:
    """Errors when each draw takes as many sweeps as a tolerance of 0.01 requires; median and largest number of rounds."""
    rows: list[Row] = []
    for points, most in ((24, 0.02), (32, 0.005)):
        target = TARGETS[name](OU(), d)
        flow = Collocation(OU(), target.reference(), HORIZON, DELTA, points)
        first = first_states(target, flow, draws)
        found = solve(flow, target.score, first, tol=1e-2, traces="exact")
        error = (found.log_det.value - exact(target, flow, first, found.x)).abs()
        rms, rounds = float(error.square().mean().sqrt()), found.rounds.double()
        quantiles = [float(rounds.quantile(share, interpolation="higher")) for share in (0.5, 0.95, 1.0)]
        rows.append([name, d, points, *quantiles, f"{rms:.2g}", f"{error.max():.2g}"])
        if d == 64 or (d == 256 and points == 32):
            limit = most if d == 64 else 0.05
            report.aims.append(at_most(f"{name}, d = {d}, {points} nodes, with a tolerance: rms error", rms, limit))
            rounds_most = 7 if points == 24 else 10
            report.aims.append(
                at_most(f"{name}, d = {d}, {points} nodes: rounds in the median", float(rounds.median()), rounds_most)
            )
    return rows


def adaptive(target: Any, flow: Collocation, first: Tensor, tol: float) -> tuple[int, float]:
    """Sequential calls and error of dopri5 in log t, with an exact trace at every call."""
    from torchdiffeq import odeint

    calls = 0

    def slope(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        t = torch.exp(u)

        def one(x: Tensor) -> Tensor:
            return target.score(x[None], t[None])[0]

        trace = torch.vmap(torch.func.jacrev(one))(state[0]).diagonal(dim1=-2, dim2=-1).sum(-1)
        return -(state[0] + target.score(state[0], t.expand(len(first)))) / 2 * t, -(first.shape[1] + trace) / 2 * t

    ends = torch.log(flow.t[[0, -1]])
    x, log_det = odeint(slope, (first, torch.zeros(len(first), dtype=torch.float64)), ends, rtol=tol, atol=tol, method="dopri5")
    return calls, float((log_det[-1] - exact(target, flow, first, x[-1])).square().mean().sqrt())


def compared(draws: int, d: int, report: Report) -> list[Row]:
    """Rounds and traces of collocation against sequential calls of dopri5 at an error no smaller."""
    rows: list[Row] = []
    for name, make in TARGETS.items():
        target = make(OU(), d)
        flow = Collocation(OU(), target.reference(), HORIZON, DELTA, 24)
        first = first_states(target, flow, draws)
        found = solve(flow, target.score, first, tol=None, sweeps=6, traces="exact")
        own = float((found.log_det.value - exact(target, flow, first, found.x)).square().mean().sqrt())
        rows.append([name, "collocation", 7, 24, f"{own:.2g}"])
        for tol in TOLERANCES:
            calls, error = adaptive(target, flow, first, tol)
            if error <= own or tol == TOLERANCES[-1]:
                rows.append([name, f"dopri5, tol {tol:.0e}", calls, calls, f"{error:.2g}"])
                report.aims.append(at_most(f"{name}: rounds over sequential calls of dopri5 at no larger error", 7 / calls, 0.2))
                report.aims.append(at_most(f"{name}: traces over those of dopri5", 24 / calls, 1.0))
                break
    return rows


def main() -> int:
    options = parser(__doc__).parse_args()
    report = Report("density")
    draws, sizes = (4, (16,)) if options.quick else (100, (64, 256))
    rows = [row for d in sizes for name in TARGETS for row in collocated(name, d, draws if d < 256 else 20, report)]
    columns = ("target", "d", "nodes", "rounds", "traces", "rms error", "median error", "median bar", "covered")
    report.add("Errors of log-densities [nats]", columns, rows)
    given = [row for d in sizes for name in TARGETS for row in tolerant(name, d, draws if d < 256 else 20, report)]
    wanted = ("target", "d", "nodes", "rounds, median", "of 95 %", "most", "rms error", "largest")
    report.add("With a tolerance of 0.01 [nats]", wanted, given)
    against = compared(min(draws, 8), sizes[0], report)
    report.add("Against an adaptive solver", ("target", "solver", "sequential calls", "traces", "rms error"), against)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
