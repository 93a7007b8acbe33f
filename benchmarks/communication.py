"""Weak scaling of the communication of one sweep: bytes received by a rank against the lower bound of any algorithm.

    python benchmarks/communication.py

Every rank keeps the same number of points while ranks are added. A wrapper around the MPI communicator counts the bytes that
every collective brings into a rank: in an all-gather all shares but its own, in a scan or a reduction the messages of a tree's
stages. The cost of a sweep is the difference of two runs of fixed depth, so that set-up and the last broadcast cancel. Lower
bounds: in a scan a rank must receive the state at which its slice starts; in an all-gather, as in a reduce-scatter, the
remainders of all other ranks, (P - 1) / P of the whole. Bytes are exact; times come from ranks that share the cores of this
machine.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from common import Cell, Report, answer, at_most, launch, parser, question, solve
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.comm.communicator import MPICommunicator
from piadm_hpc.comm.rank_grid import world
from piadm_hpc.gaussian.reference import GaussianReference, isotropic
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import Noise
from piadm_hpc.theory.process import OU

PROCESS, HORIZON, DELTA = OU(), 8.0, 1e-3
DEPTHS, WORD = (2, 6), 4
OVER = 1.05  # limit over the bound, or over the bound times a tree's stages: error bounds and ranges are sent too
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
    """An mpi4py communicator that counts the bytes received by this rank in buffer collectives."""

    def __init__(self, comm: Any):
        self.comm, self.received, self.calls = comm, 0, 0
        # the partners of recursive doubling, the algorithm of MPI's scans and reductions
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
    """A cheap score, wrong by a factor so that the first sweep does not converge."""
    return x * -0.5


def run(comm: Counting, method: str, size: int, points: int, depth: int) -> dict[str, float]:
    """Costs of one block of fixed depth on this rank: points, seconds, bytes and collectives."""
    reference = isotropic((size,))
    timed = MPICommunicator(comm)
    first, before, calls = torch.ones(1, size), comm.received, comm.calls
    timed.barrier()
    points_in_time = scheme(method, points, reference)
    solution = solve(points_in_time, score, first, noise=Noise(0, size), reference=reference, tol=None, sweeps=depth, comm=timed)
    costs = {"points": float(solution.calls[0]), "seconds": timed.seconds}
    return {**costs, "bytes": comm.received - before, "calls": comm.calls - calls}


def work(path: str) -> None:
    """Points, bytes, collectives and seconds of one sweep, each of the rank where it is largest."""
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
    """Lower bound on the bytes received by some rank in a sweep of one float32 sample over `points` points on all ranks."""
    if ranks == 1:
        return 0.0
    return WORD * size * ((1 - 1 / ranks) * points if method == "collocation" else 1)


def line(report: Report, method: str, size: int, ranks: int, points: int) -> list[Cell]:
    """One line of the table, and its limit."""
    cost = launch(__file__, ranks, {"method": method, "size": size, "points": points})
    bound = least(method, size, ranks, cost["points"])
    ratio = cost["bytes"] / bound if bound else 1.0
    if ranks > 1:
        stages = 1 if method == "collocation" else math.ceil(math.log2(ranks))
        small = 1.0 if size < 1 << 12 else 0.0  # error bounds are not negligible beside states this small
        what = f"bytes into a rank over the least possible, {method}, {size} entries, {ranks} ranks"
        report.aims.append(at_most(what, ratio, stages * (OVER + small)))
    label, megabytes = METHODS[method], [cost["bytes"] / 1e6, bound / 1e6]
    print(f"{method}, {size} entries, {ranks} ranks done", file=sys.stderr, flush=True)
    return [label, str(size), ranks, cost["points"], *megabytes, ratio, cost["calls"], 1e3 * cost["seconds"]]


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
