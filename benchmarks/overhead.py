"""Share of a sweep that is spent outside the network, for calls of 50 ms.

The accelerator is emulated: the score sleeps, so that a call takes the same time whatever else this machine does. States are
in host memory, and one core per rank does all arithmetic around the call, which an accelerator would do at fifty times the
bandwidth. The share is therefore limited at 1e5 entries; at 1e6, where the memory of the host decides, the number of passes
over memory is limited instead.

A second table counts the processor time of whole solutions by the shipped models inside their networks and outside.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import torch
from common import Report, answer, at_most, launch, median, parser, question, solve
from torch import Tensor

from piadm_hpc import RunConfig, integrators, load_model
from piadm_hpc.comm.communicator import Communicator, MPICommunicator, SerialCommunicator
from piadm_hpc.comm.rank_grid import world
from piadm_hpc.gaussian.reference import GaussianReference, isotropic
from piadm_hpc.host.launcher import launcher_size
from piadm_hpc.run.resolve import resolve
from piadm_hpc.theory.bases import EOF
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import Noise
from piadm_hpc.theory.process import OU

SHARE, PASSES = 0.10, 12.0
SMALL, LARGE = 100_000, 1_000_000
# reference, entries, points a rank, ranks (None: no launcher)
LINES = tuple(
    (kind, size, points, ranks)
    for kind in ("isotropic", "eof-32")
    for size in (SMALL, LARGE)
    for points, ranks in ((2, None), (2, 2), (4, None), (4, 1), (4, 2))
)
COLUMNS = (
    "reference",
    "entries",
    "points a rank",
    "ranks",
    "ms a sweep",
    "network",
    "collectives",
    "rest",
    "share outside",
    "ms, median",
    "processor ms outside",
    "passes a point",
    "ms to set up",
)
# model, what is solved, eta, samples at once, rows a call
SHIPPED = (
    ("ccsm-temperature", "SDE", 1.0, 1, 16),
    ("ccsm-temperature", "SDE", 1.0, 4, 16),
    ("ccsm-temperature", "flow", 0.0, 4, 16),
    ("alanine-dipeptide", "flow", 0.0, 64, 64),
)
SHIPPED_SHARES = (0.05, 0.05, 0.05, 0.15)
SHIPPED_COLUMNS = ("model", "solved", "samples", "rows a call", "rows", "network, ms a row", "outside, ms a row", "share outside")
Line = list[str | float]


class SleepingScore:
    """The score of a Gaussian of variance 2, which takes `call` seconds and records the times of its calls."""

    def __init__(self, call: float, comm: Communicator):
        self.call, self.comm = call, comm
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.waited: list[float] = []
        self.busy: list[float] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.begun.append(time.perf_counter())
        self.busy.append(time.process_time())
        self.waited.append(self.comm.seconds)
        variance = 1 + torch.exp(-t)
        result = x / -variance[:, None]
        time.sleep(max(0.0, self.call - (time.perf_counter() - self.begun[-1])))
        self.ended.append(time.perf_counter())
        self.busy.append(time.process_time())
        return result


def measure(setting: dict[str, Any], comm: Communicator) -> list[dict[str, float]]:
    """For sweeps in which this rank evaluated all its points: seconds in total, in the network, in collectives and to set up."""
    torch.set_num_threads(1)
    size, points = int(setting["size"]), int(setting["points"])
    process = OU()
    chain = integrators.piadm(process, log_snr(process, points * comm.size, horizon=8.0, delta=1e-3))
    reference, x0 = _reference(setting["reference"], size), torch.randn(1, size)
    sweeps = []
    one_pass = _one_pass(size, points)
    for _ in range(int(setting["repeats"]) + 1):
        score = SleepingScore(float(setting["call"]), comm)
        comm.barrier()
        start = time.perf_counter()
        # the check of the score would be a call of its own between two sweeps
        settings = {"tol": None, "sweeps": 3, "check_score": False, "reference": reference, "comm": comm}
        solve(chain, score, x0, noise=Noise(0, size), **settings)
        # sweep k skips the k-1 points that are exact: a single rank has one full sweep, the last of several has two
        full = 1 if comm.size == 1 else 2
        for k in range(full if comm.rank == comm.size - 1 else 0):
            sweeps.append(
                {
                    "sweep": score.begun[k + 1] - score.begun[k],
                    "network": score.ended[k] - score.begun[k],
                    "collectives": score.waited[k + 1] - score.waited[k],
                    "processor": score.busy[2 * k + 2] - score.busy[2 * k + 1],
                    "set_up": score.begun[0] - start,
                    "pass": one_pass,
                }
            )
    return sweeps[full:]


def _one_pass(size: int, points: int) -> float:
    """Processor time of z = x + y for one state in memory."""
    x, y, z = torch.randn(points, size), torch.randn(points, size), torch.empty(points, size)
    spent = []
    for _ in range(20):
        start = time.process_time()
        for point in range(points):
            torch.add(x[point], y[point], out=z[point])
        spent.append((time.process_time() - start) / points)
    return median(spent)


def _reference(kind: str, size: int) -> GaussianReference:
    if kind == "isotropic":
        return isotropic((size,))
    phase = torch.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size
    modes = torch.stack([torch.cos(k * phase).float() for k in range(1, 33)], dim=1) * (2 / size) ** 0.5
    return GaussianReference(torch.zeros(size), EOF(modes, (size,)), torch.linspace(8, 0.5, 33, dtype=torch.float64))


def work(path: str) -> None:
    """The part of one rank; the last rank, which skips no point, returns the result."""
    setting = question(path)
    comm: Communicator = MPICommunicator(world()) if setting["mpi"] else SerialCommunicator()
    if setting["mpi"] and comm.size != launcher_size()[1]:
        raise RuntimeError("the launcher and MPI disagree")
    sweeps = measure(setting, comm)
    if comm.rank == comm.size - 1:
        answer(path, sweeps)


def row(kind: str, size: int, points: int, ranks: int | None, options: Any) -> Line:
    """One line of the table: the shortest sweep, since other work on the machine only adds time, and medians."""
    setting = {"reference": kind, "points": points, "mpi": ranks is not None, "size": size}
    sweeps = launch(__file__, ranks, {**setting, "call": options.call, "repeats": options.repeats})
    best = min(sweeps, key=lambda each: each["sweep"])
    shortest, network, collectives = (1e3 * best[name] for name in ("sweep", "network", "collectives"))
    sweep, processor, set_up, one = (1e3 * median([each[k] for each in sweeps]) for k in ("sweep", "processor", "set_up", "pass"))
    label = "serial" if ranks is None else f"mpiexec -n {ranks}"
    parts = [shortest, network, collectives, shortest - network - collectives, 1 - network / shortest]
    return [kind, f"{size:.0e}", points, label, *parts, sweep, processor, processor / points / one, set_up]


class Timed:
    """A score with the processor time that its calls have taken."""

    def __init__(self, score: Any):
        self.score, self.seconds, self.rows = score, 0.0, 0

    def __call__(self, *arguments: Tensor) -> Tensor:
        start = time.process_time()
        found: Tensor = self.score(*arguments)
        self.seconds, self.rows = self.seconds + time.process_time() - start, self.rows + len(found)
        return found


def shipped(name: str, what: str, eta: float, samples: int, rows: int, repeats: int) -> Line:
    """One line of a shipped model: the solution with the smallest share outside the network of several."""
    chain, solver = {"eta": eta}, {"kind": "picard"}
    config = RunConfig.model_validate({"model": name, "chain": chain, "solver": solver, "compute": {"model_batch": rows}})
    sampler = resolve(config, load_model(name)).sampler
    found = []
    for _ in range(repeats + 1):
        timed = Timed(sampler.score)
        start = time.process_time()
        replace(sampler, score=timed).draw(range(samples))
        total = time.process_time() - start
        found.append((1 - timed.seconds / total, total, timed))
    share, total, timed = min(found[1:], key=lambda each: each[0])
    outside = 1e3 * (total - timed.seconds) / timed.rows
    return [name, what, samples, rows, timed.rows, 1e3 * timed.seconds / timed.rows, outside, share]


def _limit(report: Report, rows: list[Line], *, share: float, passes: float, sizes: tuple[int, int]) -> None:
    """Limits for the isotropic reference: the share on two ranks at both sizes, and the passes of one process."""
    both = [f"{size:.0e}" for size in sizes]
    for kind, size, points, label, *numbers in rows:
        if (kind, points, label) == ("isotropic", 4, "mpiexec -n 2") and size in both:
            report.aims.append(
                at_most(f"share outside, isotropic, {size} entries, 4 points on each of 2 ranks", float(numbers[4]), share)
            )
        if (kind, size, points, label) == ("isotropic", f"{sizes[1]:.0e}", 4, "serial"):
            report.aims.append(
                at_most(f"passes over memory a point, isotropic, {size} entries, serial", float(numbers[7]), passes)
            )


def real(report: Report, repeats: int) -> None:
    """The table of the shipped models, and its limits."""
    torch.set_num_threads(1)
    lines = [shipped(*line, repeats) for line in SHIPPED]
    report.add("Shipped models, one thread: processor time of whole solutions", SHIPPED_COLUMNS, lines)
    for line, limit in zip(lines, SHIPPED_SHARES, strict=True):
        report.aims.append(at_most(f"share outside, {line[0]}, {line[1]}, {line[2]} at once", float(line[-1]), limit))


def main() -> int:
    options_parser = parser("Share of a sweep outside the network, with an emulated network.")
    options_parser.add_argument("--call", type=float, default=0.05, help="seconds of a network call")
    options_parser.add_argument("--repeats", type=int, default=12, help="blocks solved per line")
    options = options_parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    report = Report("overhead")
    if options.quick:
        options.call, options.repeats = 0.005, 1
        rows = [row("isotropic", 2000, 4, ranks, options) for ranks in (None, 2)] + [row("eof-32", 2000, 2, None, options)]
        _limit(report, rows, share=1.0, passes=1e6, sizes=(2000, 2000))
    else:
        rows = [row(*line, options) for line in LINES]
        _limit(report, rows, share=SHARE, passes=PASSES, sizes=(SMALL, LARGE))
    title = f"One sample, float32, {1e3 * options.call:g} ms a call; milliseconds, of the shortest sweep unless a median is named"
    report.add(title, COLUMNS, rows)
    if not options.quick:
        real(report, options.repeats // 2)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
