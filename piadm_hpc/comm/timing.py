"""The cost of a message by latency and bandwidth, given or measured between the ranks of a launch."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import torch

from .communicator import Communicator

LARGE = 2**18  # float32 numbers, 1 MB


@dataclass(frozen=True)
class Network:
    """Latency [s] and bandwidth [bytes/s] of a message between two ranks."""

    latency: float = 5e-6
    bandwidth: float = 5e9
    measured: bool = False

    def scan(self, ranks: int, message: int) -> float:
        """Estimate the seconds of one scan, with maps of `message` bytes, and one maximum over `ranks` ranks."""
        stages = math.ceil(math.log2(ranks)) if ranks > 1 else 0
        return stages * (2 * self.latency + message / self.bandwidth)

    def __str__(self) -> str:
        origin = "measured between these ranks" if self.measured else "assumed; a launch measures it"
        return f"{1e6 * self.latency:.1f} us and {self.bandwidth / 1e9:.2g} GB/s a message ({origin})"


def measure(comm: Communicator) -> Network:
    """Measure the network between the ranks of `comm` from reductions of one number and of a megabyte; collective."""
    stages = math.ceil(math.log2(comm.size))
    small, large = (float(comm.max(torch.tensor([_median_seconds(comm, size)]))) for size in (1, LARGE))
    # a reduction sends its message up a tree and down again
    return Network(small / (2 * stages), 2 * stages * 4 * LARGE / max(large - small, 1e-9), measured=True)


def _median_seconds(comm: Communicator, size: int, repeats: int = 9) -> float:
    values, spent = torch.zeros(size), []
    for _ in range(repeats):
        comm.barrier()
        start = time.perf_counter()
        comm.max(values)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)
