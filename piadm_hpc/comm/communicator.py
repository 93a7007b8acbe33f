"""Communicators and the rank grid: the only file that knows MPI.

Every method of a communicator is collective. Reductions see contiguous float32/float64 buffers only; objects travel
during set-up and failure, never inside the loop.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn, Protocol

from torch import Tensor

from ..host.launcher import (
    LauncherError,
    NoLibraryError,
    clear_leftovers,
    launched,
    launcher_size,
    nesting_problem,
    start_up_problem,
    start_up_settings,
    task_of_step,
)
from .buffers import Buffers, cuda_aware, memory_for
from .scan import Composition, Linear

MAX_COUNT = 2**31 - 1
LAST_WORDS = 0.3  # seconds that a launcher needs to pass on what a rank printed before it is ended


class Communicator(Protocol):
    """Ranks that work on the same samples; serial is size 1 of parallel. `seconds` is the time spent in collectives.

    `world_rank` is the rank that people know, for messages.
    """

    rank: int
    size: int
    world_rank: int
    seconds: float

    def exscan(self, first: Tensor, shift: Tensor, linear: Linear) -> Tensor:
        """State [S, c, n] at which this rank's slice starts: rank 0's at `first`, and every rank's map adds its `shift`."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over ranks; NaN must already be +inf (MPI's MAX differs between ranks for NaN)."""
        ...

    def sum(self, values: Tensor) -> Tensor: ...

    def allgather(self, values: Tensor, lengths: Sequence[int]) -> Tensor:
        """All ranks' slices [lengths[rank], ...] after one another on every rank, [sum of lengths, ...]."""
        ...

    def bcast(self, values: Tensor, root: int) -> Tensor:
        """The root's tensor on every rank; the others give one of the same shape, which may be overwritten."""
        ...

    def bcast_object(self, item: Any, root: int = 0) -> Any: ...

    def gather_objects(self, item: Any) -> list[Any]: ...

    def barrier(self) -> None: ...


class SerialCommunicator:
    """One rank."""

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
    """An mpi4py communicator with the few verbs the solvers need."""

    def __init__(self, comm: Any, world_rank: int | None = None):
        self.comm = comm
        self.world_rank = int(comm.rank) if world_rank is None else world_rank
        self.rank, self.size, self.seconds = int(comm.rank), int(comm.size), 0.0

    def exscan(self, first: Tensor, shift: Tensor, linear: Linear) -> Tensor:
        """MPI's exclusive scan with the composition of affine maps, an operation that does not commute.

        The linear parts follow from the tables, so every rank knows them; a map travels as its shift and the ranks it
        stands for. The whole of it is one element of a derived type, so that MPI cannot cut it.
        """
        words = shift.numel() + 2
        if words > MAX_COUNT:
            raise ValueError(f"a message of {words} numbers exceeds MPI's limit of {MAX_COUNT}; use smaller batches")
        # composed on the host, so never from a device's own memory
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
        return self._reduced(values, _mpi().MAX)

    def sum(self, values: Tensor) -> Tensor:
        return self._reduced(values, _mpi().SUM)

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


@cache
def _composition() -> Composition:
    return Composition(_mpi())


def _buffers(values: Tensor) -> Buffers:
    """What messages of such a tensor travel through; asking MPI only where there is a GPU."""
    return Buffers(memory_for(values.device, aware=values.is_cuda and cuda_aware(_mpi().__file__)), values.device)


@dataclass(frozen=True)
class RankGrid:
    """World ranks as sample groups x time ranks; time neighbours are neighbours in the world."""

    world: Communicator
    time: Communicator
    group: int
    num_groups: int

    @property
    def root(self) -> bool:
        """Whether this rank speaks for the run."""
        return self.world.rank == 0

    @property
    def writer(self) -> bool:
        """Whether this rank writes its group's shards."""
        return self.time.rank == 0

    @classmethod
    def serial(cls) -> RankGrid:
        alone = SerialCommunicator()
        return cls(alone, alone, 0, 1)

    @classmethod
    def mpi(cls, comm: Any, *, time: int) -> RankGrid:
        """`time` ranks share each sample's time axis; ValueError unless it divides the number of ranks."""
        if time < 1 or comm.size % time:
            divisors = [n for n in range(1, comm.size + 1) if comm.size % n == 0]
            raise ValueError(f"--time-ranks {time} does not divide {comm.size} ranks; possible are {divisors}")
        group = comm.rank // time
        inner = comm.Split(color=group, key=comm.rank)
        return cls(MPICommunicator(comm), MPICommunicator(inner, int(comm.rank)), group, comm.size // time)


def world() -> Any:
    """COMM_WORLD, checked against what started this process. Raises LauncherError when the two do not belong together."""
    key, announced = launcher_size()
    try:
        text = str(_mpi().Get_library_version())
    except (ImportError, RuntimeError) as error:
        remedy = "install one (pip install mpich) or load the site's module"
        raise NoLibraryError(f"{key}={announced} but no MPI library loads ({error}); {remedy}") from error
    if announced > 1 and (problem := start_up_problem(text)):
        raise LauncherError(problem)
    if not _mpi().Is_initialized():
        for name, value in start_up_settings(text).items():
            os.environ.setdefault(name, value)
        clear_leftovers()
        _mpi().Init_thread()
    comm = _mpi().COMM_WORLD
    if key and comm.size != announced:
        raise LauncherError(
            f"the launcher announced {announced} ranks ({key}) but the MPI library sees {comm.size}: {library()} does not "
            "belong to this launcher. Use the mpiexec of the same MPI, or set MPI4PY_LIBMPI to the launcher's libmpi"
        )
    if problem := nesting_problem(list(comm.allgather(task_of_step()))):
        raise LauncherError(problem)
    return comm


def rank_grid(time_ranks: int | None = None) -> RankGrid:
    """The rank grid this process was launched into; serial, without loading MPI, where there is no launcher.

    `time_ranks` None gives all ranks of the world to the time axis.
    """
    if not launched():
        if time_ranks not in (None, 1):
            raise ValueError(f"--time-ranks {time_ranks} needs a launcher: mpiexec -n {time_ranks} piadm sample ...")
        return RankGrid.serial()
    comm = world()
    return RankGrid.mpi(comm, time=time_ranks or comm.size)


def abort(message: str) -> NoReturn:
    """End every rank at once with one message (an exception alone would leave the others waiting)."""
    print(message, file=sys.stderr, flush=True)
    time.sleep(LAST_WORDS)
    _mpi().COMM_WORLD.Abort(1)
    raise SystemExit(1)


def library() -> str:
    """The MPI library in use, one line; it need not have been started."""
    return " ".join(str(_mpi().Get_library_version()).split("\n")[0].split())[:60]


def _mpi() -> Any:
    """mpi4py's MPI, which is started only when the launcher has been looked at: a library may end the process as it starts."""
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    return MPI
