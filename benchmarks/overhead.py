"""Share of a sweep spent outside the network when one call takes 50 ms.

The accelerator is emulated: the score sleeps, so that a call costs the same whatever this machine does, and the states
(d = 1e6, float32) live in host memory, where all arithmetic around the call is done by one core per rank. A real
accelerator does that arithmetic on the device; what is measured here is an upper bound for it.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from common import Report, answer, at_most, launch, median, parser, question
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.bases import EOF
from piadm_hpc.comm import Communicator, MPICommunicator, SerialCommunicator, launcher_size, world
from piadm_hpc.grid import log_snr
from piadm_hpc.noise import Noise
from piadm_hpc.process import OU
from piadm_hpc.reference import GaussianReference, isotropic
from piadm_hpc.solving import solve

AIM = 0.10
LINES = ((2, None), (2, 2), (4, None), (4, 1), (4, 2))
COLUMNS = (
    "reference",
    "ranks",
    "points a rank",
    "ms a sweep",
    "network",
    "collectives",
    "rest",
    "share outside",
    "ms a sweep, median",
    "processor outside, median",
    "ms to set up, median",
)


class SleepingScore:
    """The score of a Gaussian of variance 2 that takes `call` seconds, and remembers when it was called."""

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
    """Per sweep in which this rank evaluated all its points: seconds in all, in the network, in collectives, and set-up."""
    torch.set_num_threads(1)
    size, points = int(setting["size"]), int(setting["points"])
    process = OU()
    chain = integrators.piadm(process, log_snr(process, points * comm.size, horizon=8.0, delta=1e-3))
    reference, x0 = _reference(setting["reference"], size), torch.randn(1, size)
    found = []
    for _ in range(int(setting["repeats"]) + 1):
        score = SleepingScore(float(setting["call"]), comm)
        comm.barrier()
        start = time.perf_counter()
        solve(chain, score, x0, noise=Noise(0, size), tol=None, sweeps=3, reference=reference, comm=comm)
        # sweep k skips k-1 points of the first rank: alone, a rank has one full sweep, the last of several has all
        full = 1 if comm.size == 1 else 2
        for k in range(full if comm.rank == comm.size - 1 else 0):
            found.append(
                {
                    "sweep": score.begun[k + 1] - score.begun[k],
                    "network": score.ended[k] - score.begun[k],
                    "collectives": score.waited[k + 1] - score.waited[k],
                    "processor": score.busy[2 * k + 2] - score.busy[2 * k + 1],
                    "set_up": score.begun[0] - start,
                }
            )
    return found[full:]


def _reference(kind: str, size: int) -> GaussianReference:
    if kind == "isotropic":
        return isotropic((size,))
    phase = torch.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size
    modes = torch.stack([torch.cos(k * phase).float() for k in range(1, 33)], dim=1) * (2 / size) ** 0.5
    return GaussianReference(torch.zeros(size), EOF(modes, (size,)), torch.linspace(8, 0.5, 33, dtype=torch.float64))


def work(path: str) -> None:
    """One rank's part; the last rank, which never skips a point, answers."""
    setting = question(path)
    comm: Communicator = MPICommunicator(world()) if setting["mpi"] else SerialCommunicator()
    if setting["mpi"] and comm.size != launcher_size()[1]:
        raise RuntimeError("the launcher and MPI disagree")
    found = measure(setting, comm)
    if comm.rank == comm.size - 1:
        answer(path, found)


def row(kind: str, ranks: int | None, points: int, options: Any) -> list[str | float]:
    """One line of the table: the shortest sweep, as other work on the machine only adds, and medians."""
    setting = {
        "reference": kind,
        "points": points,
        "mpi": ranks is not None,
        "size": options.size,
        "call": options.call,
        "repeats": options.repeats,
    }
    found = launch(__file__, ranks, setting)
    best = min(found, key=lambda each: each["sweep"])
    sweep, processor, set_up = (1e3 * median([each[name] for each in found]) for name in ("sweep", "processor", "set_up"))
    label = "serial" if ranks is None else f"mpiexec -n {ranks}"
    shortest, network, collectives = (1e3 * best[name] for name in ("sweep", "network", "collectives"))
    share = 1 - network / shortest
    return [
        kind,
        label,
        points,
        shortest,
        network,
        collectives,
        shortest - network - collectives,
        share,
        sweep,
        processor,
        set_up,
    ]


def main() -> int:
    options_parser = parser("Share of a sweep outside the network, with a sleeping network.")
    options_parser.add_argument("--size", type=int, default=1_000_000, help="entries of a state")
    options_parser.add_argument("--call", type=float, default=0.05, help="seconds of a network call")
    options_parser.add_argument("--repeats", type=int, default=6, help="blocks solved per line")
    options = options_parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    if options.quick:
        options.size, options.call, options.repeats = 2000, 0.005, 1
    report = Report("overhead")
    lines = [(kind, ranks, points) for kind in ("isotropic", "eof-32") for points, ranks in LINES]
    if options.quick:
        lines = [("isotropic", None, 2), ("eof-32", 2, 2)]
    rows = [row(kind, ranks, points, options) for kind, ranks, points in lines]
    title = (
        f"{options.size:.0e} float32 entries, one sample, {1e3 * options.call:g} ms a call (milliseconds, shortest sweep first)"
    )
    report.add(title, COLUMNS, rows)
    for line in rows:
        if line[1] == "mpiexec -n 2":
            limit = 1.0 if options.quick else AIM
            report.aims.append(at_most(f"share outside, {line[0]}, {line[2]} points on each of 2 ranks", float(line[7]), limit))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
