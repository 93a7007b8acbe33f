"""The package's scan of affine maps over ranks, compared with four other algorithms.

Every rank has a map z -> gain z + shift and needs the state at which its slice starts. The gain is one number per rank.

package             MPI's exclusive scan that composes maps, with linear parts of any shape
MPI_Exscan          the same on plain arrays with one gain per map, which shows the cost of the package's generality
two transpositions  every rank runs the recurrence over ranks on its share of the coordinates (two all-to-alls)
all-gather          every rank receives all shifts and combines those before its own; does not scale
pipelined chain     point-to-point messages from rank to rank, in segments; fast on one host, but one latency per rank

    python benchmarks/exscan.py                       with the mpiexec beside this interpreter
    python benchmarks/exscan.py --mpiexec PATH        with another (set MPI4PY_LIBMPI to its library)
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Report, answer, at_most, launch, median, parser, question
from torch import Tensor

from piadm_hpc.comm.communicator import MPICommunicator
from piadm_hpc.comm.rank_grid import library, world
from piadm_hpc.theory.grid import Partition

SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24)
WAYS = ("package", "pipelined chain", "two transpositions", "MPI_Exscan", "all-gather")
ROUNDING, SLOWER, LARGE = 1e-5, 2.0, 1 << 20
SEGMENT = 1 << 17
Scan = Callable[[Tensor, Tensor], Tensor]


def ways(comm: MPICommunicator, gains: list[float], words: int) -> dict[str, Scan]:
    """The algorithms, each from (first, shift) [words] to the state [words] at which this rank starts."""

    def package(first: Tensor, shift: Tensor) -> Tensor:
        def linear(low: int, high: int, z: Tensor) -> Tensor:
            return z * math.prod(gains[low:high])

        return comm.exscan(first[None, None], shift[None, None], linear)[0, 0]

    scans = (package, _chain(comm, gains), _transpositions(comm, gains), _mpi_exscan(comm, gains, words), _gathered(comm, gains))
    return dict(zip(WAYS, scans, strict=True))


def _chain(comm: MPICommunicator, gains: list[float]) -> Scan:
    def scan(first: Tensor, shift: Tensor) -> Tensor:
        start, sent = first if comm.rank == 0 else torch.empty_like(first), []
        for here, own in zip(torch.split(start, SEGMENT), torch.split(shift, SEGMENT), strict=True):
            if comm.rank > 0:
                comm.comm.Recv(here.numpy(), source=comm.rank - 1)
            if comm.rank < comm.size - 1:
                # a request keeps its buffer alive
                sent.append(comm.comm.Isend(torch.add(own, here, alpha=gains[comm.rank]).numpy(), dest=comm.rank + 1))
        for request in sent:
            request.Wait()
        return start

    return scan


def _transpositions(comm: MPICommunicator, gains: list[float]) -> Scan:
    def scan(first: Tensor, shift: Tensor) -> Tensor:
        cut = Partition(len(shift), comm.size)
        mine, lengths = cut.slice(comm.rank), [cut.length(rank) for rank in range(comm.size)]
        equal = [cut.length(comm.rank)] * comm.size
        shifts, starts = torch.empty(comm.size, equal[0]), torch.empty(comm.size, equal[0])
        comm.comm.Alltoallv([shift.numpy(), lengths], [shifts.numpy(), equal])
        starts[0] = first[mine]
        for rank in range(comm.size - 1):
            torch.add(shifts[rank], starts[rank], alpha=gains[rank], out=starts[rank + 1])
        result = torch.empty_like(shift)
        comm.comm.Alltoallv([starts.numpy(), equal], [result.numpy(), lengths])
        return result

    return scan


def _mpi_exscan(comm: MPICommunicator, gains: list[float], words: int) -> Scan:
    from mpi4py import MPI

    def combine(low: Any, high: Any, datatype: Any) -> None:
        """Replace `high` by the composition high after low of packed maps."""
        first, then = np.frombuffer(low, np.float32), np.frombuffer(high, np.float32)
        then[1:] += then[0] * first[1:]
        then[0] *= first[0]

    # a whole map is one element, so that MPI cannot cut it
    packed, compose = MPI.FLOAT.Create_contiguous(words + 1).Commit(), MPI.Op.Create(combine, commute=False)

    def scan(first: Tensor, shift: Tensor) -> Tensor:
        mine, below = np.empty(words + 1, np.float32), np.empty(words + 1, np.float32)
        mine[0], mine[1:] = gains[comm.rank], shift.numpy()
        comm.comm.Exscan([mine, 1, packed], [below, 1, packed], op=compose)
        if comm.rank == 0:
            return first
        return torch.from_numpy(below[1:]).add_(first, alpha=float(below[0]))

    return scan


def _gathered(comm: MPICommunicator, gains: list[float]) -> Scan:
    def scan(first: Tensor, shift: Tensor) -> Tensor:
        everyone = torch.empty(comm.size, len(shift))
        comm.comm.Allgather(shift.numpy(), everyone.numpy())
        state = first.clone()
        for rank in range(comm.rank):
            state.mul_(gains[rank]).add_(everyone[rank])
        return state

    return scan


def work(path: str) -> None:
    """Median seconds of the slowest rank per algorithm, and the largest difference of their results; rank 0 returns them."""
    setting = question(path)
    torch.set_num_threads(1)
    comm = MPICommunicator(world())
    results = []
    for size in setting["sizes"]:
        words = size // 4
        gains = [0.5 + 0.1 * rank for rank in range(comm.size)]
        first = torch.randn(words, generator=torch.Generator().manual_seed(99))
        shift = torch.randn(words, generator=torch.Generator().manual_seed(comm.rank))
        scans = ways(comm, gains, words)
        repeats = max(5, min(setting["repeats"], setting["repeats"] * (1 << 18) // size))
        seconds: dict[str, list[float]] = {name: [] for name in scans}
        for _ in range(repeats):
            # in turn, so that the load of the machine is the same for all
            for name, scan in scans.items():
                seconds[name].append(_timed(comm, scan, first, shift))
        starts = {name: scan(first, shift) for name, scan in scans.items()}
        truth = starts[WAYS[-1]]
        apart = max(float((start - truth).abs().max() / truth.abs().max()) for start in starts.values())
        apart = float(comm.max(torch.tensor([apart], dtype=torch.float64)))
        results.append({"size": size, "apart": apart, **{name: median(seconds[name]) for name in scans}})
    if comm.rank == 0:
        answer(path, {"library": " ".join(library().split(",")[0].split()), "results": results})


def _timed(comm: MPICommunicator, scan: Scan, first: Tensor, shift: Tensor) -> float:
    comm.barrier()
    start = time.perf_counter()
    scan(first, shift)
    spent = time.perf_counter() - start
    return float(comm.max(torch.tensor([spent], dtype=torch.float64)))


def main() -> int:
    options_parser = parser("Scans of affine maps over ranks.")
    options_parser.add_argument("--mpiexec", help="launcher of the MPI to measure")
    options_parser.add_argument(
        "--repeats", type=int, default=200, help="repeats for small messages; large ones are repeated less"
    )
    options_parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    options = options_parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    sizes = SIZES[:2] if options.quick else SIZES
    if options.quick:
        options.ranks, options.repeats = [2], 5
    report, rows, name = Report("exscan"), [], ""
    for ranks in options.ranks:
        measured = launch(__file__, ranks, {"sizes": sizes, "repeats": options.repeats}, options.mpiexec)
        name = measured["library"]
        for line in measured["results"]:
            ratio = line["package"] / line["MPI_Exscan"]
            rows.append([ranks, _bytes(line["size"]), *[1e3 * line[way] for way in WAYS], ratio, line["apart"]])
    columns = ("ranks", "shift", *[f"{way}, ms" for way in WAYS], "package / MPI_Exscan", "disagreement")
    report.add(f"{name}; medians of the slowest rank", columns, rows)
    report.aims.append(at_most("largest relative disagreement", max(row[-1] for row in rows), ROUNDING))
    if not options.quick:
        ratios = [float(row[-2]) for row, size in zip(rows, SIZES * len(options.ranks), strict=True) if size >= LARGE]
        report.aims.append(at_most("median time over that of MPI_Exscan on plain arrays, 1 MB and more", median(ratios), SLOWER))
    return report.finish(options.json)


def _bytes(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"


if __name__ == "__main__":
    sys.exit(main())
