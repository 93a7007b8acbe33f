"""Communicators and the rank grid: the only file that knows MPI.

Every method of a communicator is collective. Reductions see contiguous float32/float64 buffers only; objects are
exchanged during set-up and failure, never inside the loop.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from .grid import Partition

# linear(rank, coordinates, z): the linear part of a rank's affine map, on states z [S, c, part] of a slice of coordinates
Linear = Callable[[int, slice, Tensor], Tensor]
MAX_COUNT = 2**31 - 1


class LauncherError(RuntimeError):
    """The launcher and the MPI library disagree about the number of ranks."""


class Communicator(Protocol):
    """Ranks that work on the same samples; serial is size 1 of parallel. `seconds` is the time spent in collectives.

    `world_rank` is the rank that people know, for messages.
    """

    rank: int
    size: int
    world_rank: int
    seconds: float

    def exscan(self, first: Tensor, shift: Tensor, linear: Linear) -> Tensor:
        """State at which this rank's slice starts: ranks map z to linear(rank, z) + shift, rank 0 starts at `first` [S, c, n]."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over ranks; NaN must already be +inf (MPI's MAX differs between ranks for NaN)."""
        ...

    def bcast(self, values: Tensor, root: int) -> Tensor:
        """The root's tensor on every rank; the others give one of the same shape, which may be overwritten."""
        ...

    def bcast_object(self, item: Any, root: int = 0) -> Any: ...

    def gather_objects(self, item: Any) -> list[Any]:
        """Every rank's object, on every rank."""
        ...

    def barrier(self) -> None: ...


class SerialCommunicator:
    """One rank."""

    def __init__(self) -> None:
        self.rank, self.size, self.world_rank, self.seconds = 0, 1, 0, 0.0

    def exscan(self, first: Tensor, shift: Tensor, linear: Linear) -> Tensor:
        return first

    def max(self, values: Tensor) -> Tensor:
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
        """Exclusive scan of affine maps by two transpositions.

        Each rank receives one slice of the coordinates of everybody's shift, runs the recurrence over ranks there, and
        sends the starts back: 2 (size-1)/size words a coordinate whatever the number of ranks, where a tree moves
        log2(size). The linear parts follow from the tables, so every rank knows them and only shifts travel.
        """
        cut = Partition(shift.shape[-1], self.size)
        mine = cut.slice(self.rank)
        template = [shift[..., cut.slice(rank)] for rank in range(self.size)]
        shifts = self._exchange(template, [shift[..., mine]] * self.size)
        state, starts = first[..., mine], []
        for rank in range(self.size):
            starts.append(state)
            state = linear(rank, mine, state) + shifts[rank]
        return torch.cat(self._exchange(starts, template), dim=-1)

    def _exchange(self, pieces: list[Tensor], like: list[Tensor]) -> list[Tensor]:
        """Piece r goes to rank r; what rank r sends has the shape of like[r]."""
        send = _host(torch.cat([piece.reshape(-1) for piece in pieces]))
        counts, expected = [piece.numel() for piece in pieces], [piece.numel() for piece in like]
        if max(sum(counts), sum(expected)) > MAX_COUNT:
            raise ValueError(f"a message of {sum(counts)} numbers exceeds MPI's limit of {MAX_COUNT}; use smaller batches")
        received = torch.empty(sum(expected), dtype=send.dtype)
        start = time.perf_counter()
        self.comm.Alltoallv([send.numpy(), counts], [received.numpy(), expected])
        self.seconds += time.perf_counter() - start
        parts = torch.split(received.to(pieces[0].device), expected)
        return [part.reshape(shape.shape) for part, shape in zip(parts, like, strict=True)]

    def max(self, values: Tensor) -> Tensor:
        sent = _host(values).clone()
        result = torch.empty_like(sent)
        start = time.perf_counter()
        self.comm.Allreduce(sent.numpy(), result.numpy(), op=_mpi().MAX)
        self.seconds += time.perf_counter() - start
        return result.to(values.device)

    def bcast(self, values: Tensor, root: int) -> Tensor:
        buffer = _host(values.contiguous())
        start = time.perf_counter()
        self.comm.Bcast(buffer.numpy(), root=root)
        self.seconds += time.perf_counter() - start
        return buffer.to(values.device)

    def bcast_object(self, item: Any, root: int = 0) -> Any:
        return self.comm.bcast(item, root=root)

    def gather_objects(self, item: Any) -> list[Any]:
        return list(self.comm.allgather(item))

    def barrier(self) -> None:
        self.comm.Barrier()


def _host(values: Tensor) -> Tensor:
    """A contiguous float32/float64 host tensor: other types have no MPI arithmetic, other layouts are sent permuted."""
    if values.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"cannot exchange {values.dtype}; states and sums are float32 or float64 whatever the network uses")
    return values.detach().cpu().contiguous()


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


def launcher_size() -> tuple[str | None, int]:
    """The number of ranks the launcher announced and the variable that says so; (None, 1) without a launcher."""
    for key in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        if os.environ.get(key, "").isdigit():
            return key, int(os.environ[key])
    return None, 1


def launcher_rank() -> int:
    """This process's rank as the launcher numbers it, without loading MPI; 0 without a launcher."""
    for key in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"):
        if os.environ.get(key, "").isdigit():
            return int(os.environ[key])
    return 0


def launched() -> bool:
    """Whether a launcher started this process as one of several ranks."""
    return launcher_size()[1] > 1


def world() -> Any:
    """COMM_WORLD, checked against the launcher. Raises LauncherError when it says n > 1 and MPI says something else."""
    key, announced = launcher_size()
    try:
        comm = _mpi().COMM_WORLD
    except (ImportError, RuntimeError) as error:
        raise LauncherError(
            f"{key}={announced} but no MPI library loads ({error}); install one (pip install mpich) or load the site's module"
        ) from error
    if key and comm.size != announced:
        raise LauncherError(
            f"the launcher announced {announced} ranks ({key}) but the MPI library sees {comm.size}: {library()} does not "
            "belong to this launcher. Use the mpiexec of the same MPI, or set MPI4PY_LIBMPI to the launcher's libmpi"
        )
    return comm


def rank_grid(time_ranks: int | None = None) -> RankGrid:
    """The rank grid this process was launched into; serial without a launcher, and then MPI is never loaded.

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
    _mpi().COMM_WORLD.Abort(1)
    raise SystemExit(1)


def library() -> str:
    """The MPI library in use, one line."""
    return " ".join(str(_mpi().Get_library_version()).splitlines()[0].split())[:60]


def _mpi() -> Any:
    from mpi4py import MPI

    return MPI
