"""Rounds and calls of all baselines and of our sampler at equal error, on targets with exact scores.

    python benchmarks/baselines.py                       targets A, B, C of 1024 modes, ODE and SDE, errors 1e-2 and 1e-3
    python benchmarks/baselines.py --targets c --kinds sde --errors 1e-2

Methods and rules are those of `piadm compare`. Every method runs with the loosest of a few tolerances that reaches the error.
`rounds` counts until it stops by itself (median of the draws), and `fewest` is the smallest fixed depth that reaches the error.
A limit is missed where a baseline stops after fewer rounds than ours.
"""

from __future__ import annotations

import argparse
import sys
import time

from common import Aim, Report, at_most, parser

from piadm_hpc.analysis.compare.baselines import METHODS, compare
from piadm_hpc.analysis.compare.benchmark import Benchmark, Row
from piadm_hpc.analysis.compare.task import make_task

COLUMNS = ("method", "chain", "steps", "setting", "rounds", "most", "fewest", "calls", "error")
NAMES = {"most": "most_rounds"}
NETWORK = {"latency": 2e-5, "bandwidth": 1e10}


def rows_of(benchmark: Benchmark) -> list[Row]:
    """The rows of all methods that reach the error."""
    start = time.monotonic()
    where = f"{benchmark.task.name} {'sde' if benchmark.sde else 'ode'} {benchmark.tol:g}"

    def log(line: str) -> None:
        print(f"{where}, {time.monotonic() - start:.0f} s: {line}", file=sys.stderr, flush=True)

    return list(compare(benchmark, (), methods=METHODS, log=log, **NETWORK))


def add(report: Report, benchmark: Benchmark) -> None:
    """One table, fewest rounds first, and its limit."""
    rows = sorted(rows_of(benchmark), key=lambda row: (row.rounds, row.calls))
    cells = [[getattr(row, NAMES.get(name, name)) for name in COLUMNS] for row in rows]
    cells = [["-" if cell is None else cell for cell in line] for line in cells]
    title = f"{benchmark.task.name}, {'SDE' if benchmark.sde else 'ODE'}, error {benchmark.tol:g}, {benchmark.task.samples} draws"
    report.add(title, COLUMNS, cells)
    own = next(row.rounds for row in rows if row.method == "piadm_hpc")
    report.aims.append(_fewest(title, own, [row for row in rows if not row.method.startswith("piadm_hpc")]))


def _fewest(title: str, own: float, others: list[Row]) -> Aim:
    best = min(others, key=lambda row: row.rounds)
    return at_most(f"{title}: our rounds, the best baseline being {best.method}", own, best.rounds)


def _options() -> argparse.Namespace:
    options = parser("All baselines and our sampler at equal error, on targets with exact scores.")
    options.add_argument("--targets", default="abc", help="letters of targets")
    options.add_argument("--kinds", default="ode,sde", help="ode, sde or both")
    options.add_argument("--errors", default="1e-2,1e-3", help="errors, in standard deviations of each mode")
    options.add_argument("--size", type=int, default=1024, help="modes of the targets")
    options.add_argument("--samples", type=int, default=20, help="draws of each method")
    options.add_argument("--steps", type=int, default=48, help="steps of stochastic chains")
    options.add_argument("--most-steps", type=int, default=512, help="most steps tried for the flow")
    return options.parse_args()


def main() -> int:
    options = _options()
    report = Report("baselines, quick" if options.quick else "baselines")
    if options.quick:
        options.targets, options.kinds, options.errors = "a", "sde", "1e-2"
        options.size, options.samples, options.steps = 64, 2, 24
    for letter in options.targets:
        for kind in options.kinds.split(","):
            task = make_task(f"target-{letter}:{options.size}", samples=options.samples)
            for error in options.errors.split(","):
                add(report, Benchmark(task, float(error), kind == "sde", options.steps, options.most_steps))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
