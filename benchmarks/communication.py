"""Weak scaling of one sweep's communication: bytes into each rank against the least any algorithm could move.

    python benchmarks/communication.py

Every rank keeps the same number of points while ranks are added. A wrapper around the MPI communicator counts, per rank,
the bytes each collective brings in: of an all-gather all but the rank's own share, of a scan or a reduction what the stages
of a tree bring. A sweep is the difference of two runs of fixed depth, so that set-up and the last broadcast cancel. The
bounds: a rank must be told the state its slice starts at (scan), or everybody's remainders but its own, (P - 1) / P of all
(all-gather, and a reduce-scatter likewise). Bytes are exact; times are those of ranks that share this machine's cores.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from common import Cell, Report, answer, at_most, launch, parser, question, solve
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.comm.communicator import MPICommunicator, world
from piadm_hpc.gaussian.reference import GaussianReference, isotropic
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import Noise
from piadm_hpc.theory.process import OU

PROCESS, HORIZON, DELTA = OU(), 8.0, 1e-3
DEPTHS, WORD = (2, 6), 4
OVER = 1.05  # of the bound, and of the bound times a tree's stages: what residuals and ranges add
METHODS = {"picard": "Picard, scan", "collocation": "collocation, all-gather"}
COLUMNS = (
    "method",
    "entries",
    "ranks",
    "points evaluated",
    "MB into a rank",
    "least possible",
    "ratio",
    "collectives",
    "ms in collectives",
)


class Counting:
    """An mpi4py communicator that counts the bytes its buffer collectives bring into this rank."""

    def __init__(self, comm: Any):
        self.comm, self.received, self.calls = comm, 0, 0
        # partners of a recursive doubling: what MPI's scans and reductions of short and long vectors use
        self.stages = sum(comm.rank ^ (1 << k) < comm.size for k in range(max(1, comm.size - 1).bit_length()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)

    def _count(self, received: int) -> None:
        self.received += received
        self.calls += 1

    def Exscan(self, sent: Any, result: Any, op: Any) -> None:
        self._count(self.stages * sent[0].nbytes)
        self.comm.Exscan(sent, result, op=op)

    def Allreduce(self, sent: Any, result: Any, op: Any) -> None:
        self._count(self.stages * sent.nbytes)
        self.comm.Allreduce(sent, result, op=op)

    def Allgatherv(self, sent: Any, result: Any) -> None:
        self._count(result[0].nbytes - sent.nbytes)
        self.comm.Allgatherv(sent, result)

    def Bcast(self, buffer: Any, root: int) -> None:
        self._count(0 if self.comm.rank == root else buffer.nbytes)
        self.comm.Bcast(buffer, root=root)


def scheme(method: str, points: int, reference: GaussianReference) -> Scheme:
    if method == "collocation":
        return Collocation(PROCESS, reference, HORIZON, DELTA, points)
    return integrators.gaussian_exponential(PROCESS, log_snr(PROCESS, points, horizon=HORIZON, delta=DELTA), reference)


def score(x: Tensor, t: Tensor) -> Tensor:
    """A cheap one, wrong by a factor so that sweeps have something to do."""
    return x * -0.5


def run(comm: Counting, method: str, size: int, points: int, depth: int) -> dict[str, float]:
    """What one block of a fixed depth cost this rank."""
    reference = isotropic((size,))
    timed = MPICommunicator(comm)
    first, before, calls = torch.ones(1, size), comm.received, comm.calls
    timed.barrier()
    made = scheme(method, points, reference)
    found = solve(made, score, first, noise=Noise(0, size), reference=reference, tol=None, sweeps=depth, comm=timed)
    costs = {"points": float(found.calls[0]), "seconds": timed.seconds}
    return {**costs, "bytes": comm.received - before, "calls": comm.calls - calls}


def work(path: str) -> None:
    """One sweep's points, bytes, collectives and seconds of the rank where each is largest."""
    setting = question(path)
    torch.set_num_threads(1)
    comm = Counting(world())
    points = int(setting["points"]) * comm.size
    few, many = (run(comm, setting["method"], int(setting["size"]), points, depth) for depth in DEPTHS)
    sweep = {name: (many[name] - few[name]) / (DEPTHS[1] - DEPTHS[0]) for name in few}
    everyone = comm.allgather(sweep)
    if comm.rank == 0:
        answer(path, {name: max(rank[name] for rank in everyone) for name in sweep})


def least(method: str, size: int, ranks: int, points: float) -> float:
    """Bytes that must come into some rank in a sweep of one sample in float32, with so many points evaluated on all ranks."""
    if ranks == 1:
        return 0.0
    return WORD * size * ((1 - 1 / ranks) * points if method == "collocation" else 1)


def line(report: Report, method: str, size: int, ranks: int, points: int) -> list[Cell]:
    """One line of the table, and its aim."""
    found = launch(__file__, ranks, {"method": method, "size": size, "points": points})
    bound = least(method, size, ranks, found["points"])
    ratio = found["bytes"] / bound if bound else 1.0
    if ranks > 1:
        stages = 1 if method == "collocation" else math.ceil(math.log2(ranks))
        small = 1.0 if size < 1 << 12 else 0.0  # residuals weigh something beside states this small
        what = f"bytes into a rank over the least possible, {method}, {size} entries, {ranks} ranks"
        report.aims.append(at_most(what, ratio, stages * (OVER + small)))
    label, megabytes = METHODS[method], [found["bytes"] / 1e6, bound / 1e6]
    print(f"{method}, {size} entries, {ranks} ranks done", file=sys.stderr, flush=True)
    return [label, str(size), ranks, found["points"], *megabytes, ratio, found["calls"], 1e3 * found["seconds"]]


def main() -> int:
    options_parser = parser("Bytes and time of one sweep's communication while ranks are added.")
    options_parser.add_argument("--points", type=int, default=4, help="points of a rank")
    options_parser.add_argument("--sizes", type=int, nargs="+", default=[1 << 14, 1 << 18], help="entries of a state")
    options_parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    options = options_parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    if options.quick:
        options.sizes, options.ranks = [1 << 10], [1, 2]
    report = Report("communication")
    rows = [
        line(report, method, size, ranks, options.points)
        for method in METHODS
        for size in options.sizes
        for ranks in options.ranks
    ]
    report.add(f"One sweep of one sample, float32, {options.points} points a rank, the rank with most", COLUMNS, rows)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
