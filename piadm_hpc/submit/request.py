"""The resources of a job: nodes, ranks, cores, GPUs, hours, and the site's own options."""

from __future__ import annotations

import math
import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ..comm.rank_grid import library
from ..config.limits import MOST_THREADS, Count
from ..config.validation import ConfigError, Record
from ..host.launcher import family_of, start_up_kinds
from ..host.slurm import start_up_list

Cluster = Literal["auto", "slurm", "local", "debug"]
MOST_HOURS = 24.0 * 366
OPTION = re.compile(r"[a-z0-9][a-z0-9-]*", re.IGNORECASE)


class JobRequest(Record):
    """The resources of a job, one MPI rank a task; `ranks_per_node` is by default one a GPU, or one.

    The run is asked to stop `grace` seconds before the time limit. With `requeue` the job then requeues itself; otherwise
    `chain` jobs are submitted at once, each waiting for the one before. `mpi` is a value of `srun --mpi`; "auto" determines it
    from the MPI library. `options` are further options of sbatch without dashes, `setup` lines of shell before the run.
    `parallel` limits how many jobs of an array run at once. Names and options are single lines, since they become lines of a
    batch script.
    """

    name: str = Field("piadm", min_length=1)
    nodes: Count = 1
    ranks_per_node: int | None = Field(None, ge=1, le=MOST_THREADS)
    gpus_per_node: int = Field(0, ge=0, le=MOST_THREADS)
    cpus_per_rank: int = Field(1, ge=1, le=MOST_THREADS)
    hours: float = Field(1.0, gt=0, le=MOST_HOURS)
    grace: Count = 180
    mpi: str = Field("auto", min_length=1)
    requeue: bool = True
    chain: int = Field(1, ge=1, le=1000)
    parallel: Count = 256
    cluster: Cluster = "auto"
    options: dict[str, str] = Field(default_factory=dict)
    setup: tuple[str, ...] = ()

    @field_validator("options")
    @classmethod
    def _without_dashes(cls, options: dict[str, str]) -> dict[str, str]:
        ours = {"nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time", "signal", "array", "job-name", "dependency"}
        plain = {name.strip().lstrip("-").replace("_", "-"): value for name, value in options.items()}
        if odd := [name for name in plain if not OPTION.fullmatch(name)]:
            raise ValueError(f"{odd[0]!r} is no option of sbatch; give names of letters, digits and dashes, such as account")
        if odd := [name for name, value in plain.items() if not value.isprintable()]:
            raise ValueError(f"{odd[0]}: {plain[odd[0]]!r} is not one line of text; it would add lines to the batch script")
        if taken := sorted(ours & set(plain)):
            raise ValueError(f"{', '.join(taken)}: piadm sets these itself; use its own options for them")
        return plain

    @field_validator("name", "mpi")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if not value.isprintable() or "/" in value:
            raise ValueError("must be one line, without slashes: it becomes part of a batch script and of a file name")
        return value

    @field_validator("setup")
    @classmethod
    def _one_line_each(cls, setup: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(line.splitlines()) > 1 or "\0" in line for line in setup):
            raise ValueError("holds a line break; give every line of shell by itself")
        return setup

    @model_validator(mode="after")
    def _together(self) -> Self:
        mistakes = []
        if self.grace >= 60 * self.minutes:
            mistakes.append(f"grace: {self.grace} s is not shorter than the time limit of {60 * self.minutes} s")
        if self.gpus_per_node and self.tasks_per_node % self.gpus_per_node and self.tasks_per_node > self.gpus_per_node:
            mistakes.append(f"ranks_per_node: {self.tasks_per_node} ranks cannot share {self.gpus_per_node} GPUs evenly")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def tasks_per_node(self) -> int:
        """MPI ranks on each node."""
        return self.ranks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """MPI ranks on all nodes."""
        return self.nodes * self.tasks_per_node

    @property
    def minutes(self) -> int:
        """The time limit in minutes, rounded up, since Slurm counts whole ones."""
        return max(1, math.ceil(60 * self.hours - 1e-9))

    @property
    def queues_again(self) -> bool:
        """Whether a job that reaches its limit requeues itself; in a chain the next job continues instead."""
        return self.requeue and self.chain == 1

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every rank.

        They set its threads, let it wait without spinning, give large arrays large pages, and forbid file locks and imports from
        this folder. Locks are not needed, because every file has one writer.
        """
        return {
            "OMP_NUM_THREADS": str(self.cpus_per_rank),
            "OMP_WAIT_POLICY": "PASSIVE",
            "THP_MEM_ALLOC_ENABLE": "1",
            "HDF5_USE_FILE_LOCKING": "FALSE",
            # an mpiexec inside a task would wait for ever for cores that the task itself holds
            "HYDRA_LAUNCHER": "fork",
            # a module in the current folder must not be imported in place of an installed one
            "PYTHONSAFEPATH": "1",
        }

    def srun_arguments(self) -> list[str]:
        """Options of srun: newer versions do not inherit the cores from sbatch, and a lost rank must end the others."""
        return [f"--mpi={self.start_up()}", f"--cpus-per-task={self.cpus_per_rank}", "--kill-on-bad-exit=1"]

    def start_up(self) -> str:
        """The value of `srun --mpi` for the MPI library of this environment. Raises ConfigError when the site lacks it."""
        offered = start_up_list()
        if self.mpi != "auto":
            if offered and self.mpi not in offered:
                raise ConfigError(f"mpi: {self.mpi!r} is not known to this srun; it offers {', '.join(sorted(offered))}")
            return self.mpi
        if self.ranks == 1:
            return "none"
        try:
            found = library()
        except (ImportError, RuntimeError) as error:
            raise ConfigError(f"mpi: no MPI library loads here ({error}); load the site's module, or give the kind") from error
        kinds = start_up_kinds(family_of(found))
        fitting = [kind for kind in kinds if not offered or kind in offered]
        if not fitting:
            raise ConfigError(
                f"mpi: {found} needs srun --mpi={' or '.join(kinds)}, and this srun offers {', '.join(sorted(offered))}; "
                "use another MPI (MPI4PY_LIBMPI names it), or give the kind"
            )
        return fitting[0]
