"""Communicators: the collective operations that solvers need, on one rank or over MPI.

Reductions take contiguous float32 or float64 buffers only. Objects are exchanged during set-up and failure, never inside the
loop of a solver.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from .buffers import Buffers, cuda_aware, memory_for
from .scan import Composition, Linear

MAX_COUNT = 2**31 - 1


class Communicator(Protocol):
    """Ranks that work on the same samples; every method is collective over them.

    Attributes:
        rank: this rank, from 0.
        size: the number of ranks.
        world_rank: this rank among all ranks of the launch, which is the one that messages name.
        seconds: time spent in collective operations so far.
    """

    rank: int
    size: int
    world_rank: int
    seconds: float

    def exscan(self, first: Tensor, shift: Tensor, linear: Linear) -> Tensor:
        """Return the state [S, c, n] at which this rank's steps start, given those of the ranks before it.

        Every rank's steps are one affine map, z -> linear(rank, rank + 1, z) + shift. Rank 0 starts at `first` [S, c, n].
        """
        ...

    def max(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over ranks of values without NaN, whose order MPI does not define (see `largest`)."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Return the elementwise sum over ranks."""
        ...

    def allgather(self, values: Tensor, lengths: Sequence[int]) -> Tensor:
        """Concatenate the ranks' tensors [lengths[rank], ...] on every rank: [sum of lengths, ...]."""
        ...

    def bcast(self, values: Tensor, root: int) -> Tensor:
        """Return the root's tensor; the other ranks pass one of the same shape, which may be overwritten."""
        ...

    def bcast_object(self, item: Any, root: int = 0) -> Any:
        """Return the root's object, pickled on the way."""
        ...

    def gather_objects(self, item: Any) -> list[Any]:
        """Return the objects of all ranks, in order of rank, on every rank."""
        ...

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        ...


class SerialCommunicator:
    """A single rank, on which every collective operation returns what it is given."""

    def __init__(self) -> None:
        self.rank, self.size, self.world_rank, self.seconds = 0, 1, 0, 0.0

    def exscan(self, first: Tensor, shift: Tensor, linear: Linear) -> Tensor:
        return first

    def max(self, values: Tensor) -> Tensor:
        return values

    sum = max

    def allgather(self, values: Tensor, lengths: Sequence[int]) -> Tensor:
        return values

    def bcast(self, values: Tensor, root: int) -> Tensor:
        return values

    def bcast_object(self, item: Any, root: int = 0) -> Any:
        return item

    def gather_objects(self, item: Any) -> list[Any]:
        return [item]

    def barrier(self) -> None:
        pass


class MPICommunicator:
    """An mpi4py communicator, with messages in host memory, pinned memory or a GPU's own (`comm.buffers`)."""

    def __init__(self, comm: Any, world_rank: int | None = None):
        self.comm = comm
        self.world_rank = int(comm.rank) if world_rank is None else world_rank
        self.rank, self.size, self.seconds = int(comm.rank), int(comm.size), 0.0

    def exscan(self, first: Tensor, shift: Tensor, linear: Linear) -> Tensor:
        """MPI_Exscan with the composition of affine maps, which does not commute.

        Every rank knows all linear parts, since they follow from the tables, so a message holds only the shift and the range
        of ranks that it composes. It is one element of a derived type, so that MPI cannot split it.
        """
        words = shift.numel() + 2
        if words > MAX_COUNT:
            raise ValueError(f"a message of {words} numbers exceeds MPI's limit of {MAX_COUNT}; use smaller batches")
        # maps are composed on the host, so their buffers never lie in a GPU's memory
        buffers = Buffers(memory_for(shift.device, aware=False), shift.device)
        mine, below = buffers.empty((words,), shift.dtype), buffers.empty((words,), shift.dtype)
        mine[0], mine[1] = self.rank, self.rank + 1
        mine[2:].copy_(shift.reshape(-1))
        start = time.perf_counter()
        _composition().exscan(self.comm, mine, below, shift.shape, linear)
        self.seconds += time.perf_counter() - start
        if self.rank == 0:
            return first
        return linear(0, self.rank, first).add_(below[2:].view(shift.shape).to(first.device))

    def max(self, values: Tensor) -> Tensor:
        return self._reduced(values, mpi().MAX)

    def sum(self, values: Tensor) -> Tensor:
        return self._reduced(values, mpi().SUM)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        buffers = _buffers(values)
        sent = buffers.sent(values)
        result = buffers.empty(sent.shape, sent.dtype)
        start = time.perf_counter()
        self.comm.Allreduce(*buffers.ready(sent, result), op=operation)
        self.seconds += time.perf_counter() - start
        return result.to(values.device)

    def allgather(self, values: Tensor, lengths: Sequence[int]) -> Tensor:
        buffers = _buffers(values)
        sent = buffers.sent(values)
        row = math.prod(sent.shape[1:])
        if row * sum(lengths) > MAX_COUNT:
            raise ValueError(f"{row * sum(lengths)} numbers exceed MPI's limit of {MAX_COUNT} in a message; use smaller batches")
        result = buffers.empty((sum(lengths), *sent.shape[1:]), sent.dtype)
        start = time.perf_counter()
        mine, everyone = buffers.ready(sent, result)
        self.comm.Allgatherv(mine, [everyone, [row * length for length in lengths]])
        self.seconds += time.perf_counter() - start
        return result.to(values.device)

    def bcast(self, values: Tensor, root: int) -> Tensor:
        buffers = _buffers(values)
        buffer = buffers.sent(values)
        start = time.perf_counter()
        self.comm.Bcast(*buffers.ready(buffer), root=root)
        self.seconds += time.perf_counter() - start
        return buffer.to(values.device)

    def bcast_object(self, item: Any, root: int = 0) -> Any:
        return self.comm.bcast(item, root=root)

    def gather_objects(self, item: Any) -> list[Any]:
        return list(self.comm.allgather(item))

    def barrier(self) -> None:
        self.comm.Barrier()


def largest(comm: Communicator, sizes: Tensor) -> Tensor:
    """Return the elementwise maximum of sizes over ranks, with NaN as infinity."""
    return comm.max(torch.nan_to_num(sizes, nan=float("inf"), posinf=float("inf")))


@cache
def _composition() -> Composition:
    return Composition(mpi())


def _buffers(values: Tensor) -> Buffers:
    """Buffers for messages of such a tensor; MPI is asked whether it is CUDA-aware only where there is a GPU."""
    return Buffers(memory_for(values.device, aware=values.is_cuda and cuda_aware(mpi().__file__)), values.device)


def mpi() -> Any:
    """Return mpi4py's MPI without initialising it: a library that does not fit the launcher may end the process then."""
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    return MPI
