"""The ranks of a launch, arranged as sample groups x time ranks, and how all of them are ended at once."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

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
from .communicator import Communicator, MPICommunicator, SerialCommunicator, mpi

LAST_WORDS = 0.3  # seconds in which a launcher passes on what a rank has printed, before the rank is ended


@dataclass(frozen=True)
class RankGrid:
    """The ranks of a launch as sample groups x time ranks; the time ranks of a group are neighbours in the world.

    Attributes:
        world: all ranks.
        time: the ranks of this group, which share the time axis of its samples.
        group: this rank's group, from 0.
        num_groups: the number of groups, which draw different samples.
    """

    world: Communicator
    time: Communicator
    group: int
    num_groups: int

    @property
    def root(self) -> bool:
        """Whether this rank reports for the run."""
        return self.world.rank == 0

    @property
    def writer(self) -> bool:
        """Whether this rank writes the shards of its group."""
        return self.time.rank == 0

    @classmethod
    def serial(cls) -> RankGrid:
        """One group of one rank, without MPI."""
        alone = SerialCommunicator()
        return cls(alone, alone, 0, 1)

    @classmethod
    def mpi(cls, comm: Any, *, time: int) -> RankGrid:
        """Split an mpi4py communicator into groups of `time` ranks; ValueError unless that divides its size."""
        if time < 1 or comm.size % time:
            divisors = [n for n in range(1, comm.size + 1) if comm.size % n == 0]
            raise ValueError(f"--time-ranks {time} does not divide {comm.size} ranks; possible are {divisors}")
        group = comm.rank // time
        inner = comm.Split(color=group, key=comm.rank)
        return cls(MPICommunicator(comm), MPICommunicator(inner, int(comm.rank)), group, comm.size // time)


def world() -> Any:
    """Initialise MPI and return COMM_WORLD; LauncherError when the MPI library does not belong to the launcher."""
    key, announced = launcher_size()
    try:
        text = str(mpi().Get_library_version())
    except (ImportError, RuntimeError) as error:
        remedy = "install one (pip install mpich) or load the site's module"
        raise NoLibraryError(f"{key}={announced} but no MPI library loads ({error}); {remedy}") from error
    if announced > 1 and (problem := start_up_problem(text)):
        raise LauncherError(problem)
    if not mpi().Is_initialized():
        for name, value in start_up_settings(text).items():
            os.environ.setdefault(name, value)
        clear_leftovers()
        mpi().Init_thread()
    comm = mpi().COMM_WORLD
    if key and comm.size != announced:
        raise LauncherError(
            f"the launcher announced {announced} ranks ({key}) but the MPI library sees {comm.size}: {library()} does not "
            "belong to this launcher. Use the mpiexec of the same MPI, or set MPI4PY_LIBMPI to the launcher's libmpi"
        )
    if problem := nesting_problem(list(comm.allgather(task_of_step()))):
        raise LauncherError(problem)
    return comm


def rank_grid(time_ranks: int | None = None) -> RankGrid:
    """Arrange the ranks of this launch; without a launcher the grid is serial and MPI is not loaded.

    Args:
        time_ranks: ranks that share the time axis of a sample; None takes all ranks of the launch.

    Raises:
        ValueError: when `time_ranks` does not divide the number of ranks.
        LauncherError: when the MPI library does not belong to the launcher.
    """
    if not launched():
        if time_ranks not in (None, 1):
            raise ValueError(f"--time-ranks {time_ranks} needs a launcher: mpiexec -n {time_ranks} piadm sample ...")
        return RankGrid.serial()
    comm = world()
    return RankGrid.mpi(comm, time=time_ranks or comm.size)


def abort(message: str) -> NoReturn:
    """Print a message and end every rank of the launch; an exception on one rank would leave the others waiting for ever."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    time.sleep(LAST_WORDS)
    mpi().COMM_WORLD.Abort(1)
    os._exit(1)  # some libraries return before the launcher has ended this process


def library() -> str:
    """Return the MPI library's name and version in one line, without initialising it."""
    return " ".join(str(mpi().Get_library_version()).split("\n")[0].split())[:60]
