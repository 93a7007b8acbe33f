"""Strong scaling of one sample over ranks, with an EMULATED accelerator: network calls sleep, and all else is real.

    python benchmarks/scaling.py

Every rank has an accelerator of its own that evaluates one point in one wait, independent of the processors of this machine: a
call of n rows takes n waits, while exact scores of a Gaussian mixture are computed. Ranks, messages, sweeps and stopping tests
are real. There are more ranks than cores, so the wait of 200 ms must be long compared with the work that ranks on one core do in
turn.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from common import Cell, Report, answer, at_least, at_most, launch, parser, question, solve
from families import DELTA, PROCESS, Target, mixture
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.comm.communicator import MPICommunicator
from piadm_hpc.comm.rank_grid import world
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import PRIOR

POINTS, RANKS, LIMITED = 16, (1, 2, 4, 8, 16), 8
FASTER, OUTSIDE = 6.0, 0.10
# a single rank skips the exact points of a block, from which several ranks gain no time: the speed is shown without a limit
SKIPPING = "block"
METHODS = {
    "collocation": "ODE, collocation, 16 points",
    "block": "SDE, one block of 16 points",
    "window": "SDE, window of 16 points on 48",
}
COLUMNS = (
    "ranks",
    "rounds",
    "points evaluated",
    "waits of the busiest rank",
    "s a sample",
    "times faster",
    "by waits alone",
    "outside the wait",
)


class Accelerator:
    """A score whose calls take `wait` seconds a row, independent of the processor, and which counts these waits."""

    def __init__(self, target: Target, wait: float):
        self.target, self.wait, self.waits = target, wait, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        until = time.perf_counter() + self.wait * len(x)
        self.waits += len(x)
        result = self.target.score(x, t)
        time.sleep(max(0.0, until - time.perf_counter()))
        return result


def scheme(target: Target, method: str) -> Scheme:
    if method == "collocation":
        return Collocation(PROCESS, target.reference, target.horizon, DELTA, POINTS)
    steps = POINTS if method == "block" else 3 * POINTS
    grid = log_snr(PROCESS, steps, horizon=target.horizon, delta=DELTA)
    return integrators.gaussian_exponential(PROCESS, grid, target.reference)


def work(path: str) -> None:
    """The part of one rank; rank 0 returns seconds of the slowest rank, waits of the busiest one and costs per sample."""
    setting = question(path)
    torch.set_num_threads(1)
    comm = MPICommunicator(world())
    target = mixture(int(setting["size"]), 1)
    points = scheme(target, setting["method"])
    signal, spread = points.entry()
    window = POINTS if setting["method"] == "window" else None
    results = []
    for sample in range(int(setting["samples"])):
        first = target.reference.draw(target.noise().at([0], [sample], stream=PRIOR)[0, :, 0], signal[0], spread[0, 0])
        score = Accelerator(target, float(setting["wait"]))
        comm.barrier()
        start = time.perf_counter()
        solution = solve(
            points,
            score,
            first,
            noise=target.noise(),
            reference=target.reference,
            scale=target.deviation,
            window=window,
            comm=comm,
            samples=[sample],
        )
        mine = {"seconds": time.perf_counter() - start, "waits": score.waits}
        everyone = comm.gather_objects(mine)
        worst = {name: max(rank[name] for rank in everyone) for name in mine}
        results.append({**worst, "rounds": int(solution.rounds[0]), "calls": int(solution.calls[0])})
    if comm.rank == 0:
        answer(path, results)


def measure(method: str, ranks: int, options: Any) -> dict[str, float]:
    """Means over samples: rounds, points evaluated, waits of the busiest rank, seconds, and the share outside the waits."""
    setting = {"method": method, "size": options.size, "wait": options.wait, "samples": options.samples}
    results = launch(__file__, ranks, setting)
    line = {name: sum(sample[name] for sample in results) / len(results) for name in ("rounds", "calls", "waits", "seconds")}
    return {**line, "outside": 1 - line["waits"] * options.wait / line["seconds"]}


def table(report: Report, method: str, options: Any) -> None:
    """The lines of one method, and its limits at LIMITED ranks."""
    rows: list[list[Cell]] = []
    alone: dict[str, float] = {}
    for ranks in options.ranks:
        line = measure(method, ranks, options)
        alone = alone or line
        faster, possible = (alone[name] / line[name] for name in ("seconds", "waits"))
        numbers = [line[name] for name in ("rounds", "calls", "waits", "seconds")]
        rows.append([ranks, *numbers, faster, possible, line["outside"]])
        print(f"{method}, {ranks} ranks: {line['seconds']:.2f} s", file=sys.stderr, flush=True)
        if ranks == (2 if options.quick else LIMITED):
            if method != SKIPPING:
                report.aims.append(at_least(f"times faster on {ranks} ranks, {method}", faster, 1.0 if options.quick else FASTER))
            limit = 1.0 if options.quick else OUTSIDE
            report.aims.append(at_most(f"share outside the wait on {ranks} ranks, {method}", line["outside"], limit))
    report.add(f"{METHODS[method]}: one sample at a time, emulated accelerator, {1e3 * options.wait:g} ms a point", COLUMNS, rows)


def main() -> int:
    options_parser = parser("Strong scaling over ranks with an emulated accelerator.")
    options_parser.add_argument("--wait", type=float, default=0.2, help="seconds that the emulated network takes for a point")
    options_parser.add_argument("--size", type=int, default=1 << 12, help="entries of the state")
    options_parser.add_argument("--samples", type=int, default=4, help="samples solved for each row, in sequence")
    options_parser.add_argument(
        "--ranks", type=int, nargs="+", default=list(RANKS), help="numbers of ranks; speeds are relative to the first"
    )
    options_parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = options_parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    if options.quick:
        options.wait, options.size, options.samples, options.ranks = 0.02, 256, 1, [1, 2]
    report = Report("scaling, emulated accelerator")
    for method in options.methods:
        table(report, method, options)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
