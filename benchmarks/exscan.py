"""Three ways to scan affine maps over ranks: two transpositions (the package's), MPI_Exscan, and an all-gather.

Every rank holds a map z -> gain z + shift and needs the state its slice starts at. The gain is one number per rank, the
case kindest to the rivals, whose messages must carry it.

    python benchmarks/exscan.py                       with the mpiexec beside this interpreter
    python benchmarks/exscan.py --mpiexec PATH        with another (set MPI4PY_LIBMPI to its library)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Report, answer, at_most, launch, median, parser, question
from torch import Tensor

from piadm_hpc.comm import MPICommunicator, library, world

SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24)
WAYS = ("two transpositions", "MPI_Exscan", "all-gather")
ROUNDING = 1e-5
Scan = Callable[[Tensor, Tensor], Tensor]


def ways(comm: MPICommunicator, words: int, gains: list[float]) -> dict[str, Scan]:
    """The three scans, each from (first, shift) [words] to this rank's start [words]."""
    from mpi4py import MPI

    def combine(low: Any, high: Any, datatype: Any) -> None:
        """high <- high after low, on packed maps [gain, shift]."""
        first, then = np.frombuffer(low, np.float32), np.frombuffer(high, np.float32)
        then[1:] += then[0] * first[1:]
        then[0] *= first[0]

    # one element is one whole map, so that MPI cannot cut it
    packed, compose = MPI.FLOAT.Create_contiguous(words + 1).Commit(), MPI.Op.Create(combine, commute=False)

    def transposed(first: Tensor, shift: Tensor) -> Tensor:
        def linear(rank: int, part: slice, z: Tensor) -> Tensor:
            return gains[rank] * z

        return comm.exscan(first[None, None], shift[None, None], linear)[0, 0]

    def exscan(first: Tensor, shift: Tensor) -> Tensor:
        mine, below = np.empty(words + 1, np.float32), np.empty(words + 1, np.float32)
        mine[0], mine[1:] = gains[comm.rank], shift.numpy()
        comm.comm.Exscan([mine, 1, packed], [below, 1, packed], op=compose)
        if comm.rank == 0:
            return first
        return torch.from_numpy(below[1:]).add_(first, alpha=float(below[0]))

    def gathered(first: Tensor, shift: Tensor) -> Tensor:
        everyone = np.empty((comm.size, words), np.float32)
        comm.comm.Allgather(shift.numpy(), everyone)
        state = first.clone()
        for rank in range(comm.rank):
            state.mul_(gains[rank]).add_(torch.from_numpy(everyone[rank]))
        return state

    return dict(zip(WAYS, (transposed, exscan, gathered), strict=True))


def work(path: str) -> None:
    """Medians of the slowest rank's seconds per way, and how far the ways disagree; rank 0 answers."""
    setting = question(path)
    torch.set_num_threads(1)
    comm = MPICommunicator(world())
    results = []
    for size in setting["sizes"]:
        words = size // 4
        gains = [0.5 + 0.1 * rank for rank in range(comm.size)]
        first = torch.randn(words, generator=torch.Generator().manual_seed(99))
        shift = torch.randn(words, generator=torch.Generator().manual_seed(comm.rank))
        scans = ways(comm, words, gains)
        repeats = max(5, min(setting["repeats"], setting["repeats"] * (1 << 18) // size))
        seconds: dict[str, list[float]] = {name: [] for name in scans}
        for _ in range(repeats):
            # in turn, so that all see the same load of the machine
            for name, scan in scans.items():
                seconds[name].append(_timed(comm, scan, first, shift))
        starts = {name: scan(first, shift) for name, scan in scans.items()}
        truth = starts[WAYS[2]]
        apart = max(float((start - truth).abs().max() / truth.abs().max()) for start in starts.values())
        apart = float(comm.max(torch.tensor([apart], dtype=torch.float64)))
        results.append({"size": size, "apart": apart, **{name: median(seconds[name]) for name in scans}})
    if comm.rank == 0:
        answer(path, {"library": " ".join(library().split()).rstrip(","), "results": results})


def _timed(comm: MPICommunicator, scan: Scan, first: Tensor, shift: Tensor) -> float:
    comm.barrier()
    start = time.perf_counter()
    scan(first, shift)
    spent = time.perf_counter() - start
    return float(comm.max(torch.tensor([spent], dtype=torch.float64)))


def main() -> int:
    options_parser = parser("Scans of affine maps over ranks.")
    options_parser.add_argument("--mpiexec", help="launcher of the MPI to measure")
    options_parser.add_argument("--repeats", type=int, default=200, help="of the small messages; the large ones fewer")
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
        found = launch(__file__, ranks, {"sizes": sizes, "repeats": options.repeats}, options.mpiexec)
        name = found["library"]
        for line in found["results"]:
            ours, *rivals = (line[way] for way in WAYS)
            rows.append([ranks, _bytes(line["size"]), *[1e3 * line[way] for way in WAYS], ours / min(rivals), line["apart"]])
    columns = ("ranks", "shift", *[f"{way}, ms" for way in WAYS], "ours / best rival", "disagreement")
    report.add(f"{name}; medians of the slowest rank", columns, rows)
    report.aims.append(at_most("largest relative disagreement of the three", max(row[-1] for row in rows), ROUNDING))
    return report.finish(options.json)


def _bytes(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"


if __name__ == "__main__":
    sys.exit(main())
