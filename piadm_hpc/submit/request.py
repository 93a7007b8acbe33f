"""The numbers of a job: nodes, ranks, cores, devices, hours, and what the site calls its partitions."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ..comm.rank_grid import library
from ..config.validation import ConfigError, Record
from ..host.launcher import family_of, start_up_kinds
from ..host.slurm import start_up_list

Cluster = Literal["auto", "slurm", "local", "debug"]


class JobRequest(Record):
    """What a job asks for. One MPI rank a task: `ranks_per_node` is by default one a GPU, or one.

    `grace` [s] before the limit the run is asked to stop; with `requeue` the job then queues itself again, otherwise `chain`
    jobs are submitted at once, each waiting for the one before. `mpi` is a value of `srun --mpi`; "auto" asks the MPI library.
    `options` are further options of sbatch without dashes, `setup` lines of shell before the run. `parallel` limits how
    many jobs of an array run at once.
    """

    name: str = Field("piadm", min_length=1)
    nodes: int = Field(1, ge=1)
    ranks_per_node: int | None = Field(None, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    cpus_per_rank: int = Field(1, ge=1)
    hours: float = Field(1.0, gt=0)
    grace: int = Field(180, ge=1)
    mpi: str = Field("auto", min_length=1)
    requeue: bool = True
    chain: int = Field(1, ge=1)
    parallel: int = Field(256, ge=1)
    cluster: Cluster = "auto"
    options: dict[str, str] = Field(default_factory=dict)
    setup: tuple[str, ...] = ()

    @field_validator("options")
    @classmethod
    def _without_dashes(cls, options: dict[str, str]) -> dict[str, str]:
        ours = {"nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time", "signal", "array", "job-name", "dependency"}
        plain = {name.strip().lstrip("-").replace("_", "-"): value for name, value in options.items()}
        if taken := sorted(ours & set(plain)):
            raise ValueError(f"{', '.join(taken)}: piadm sets these itself; use its own options for them")
        return plain

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
        return self.ranks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    @property
    def minutes(self) -> int:
        """The time limit; Slurm counts in whole minutes."""
        return max(1, math.ceil(60 * self.hours - 1e-9))

    @property
    def queues_again(self) -> bool:
        """Whether a job that met its limit puts itself into the queue; in a chain the next one goes on instead."""
        return self.requeue and self.chain == 1

    @property
    def environment(self) -> dict[str, str]:
        """What every rank needs to find: threads, waiting without spinning, no file locks where every file has one writer."""
        return {
            "OMP_NUM_THREADS": str(self.cpus_per_rank),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HDF5_USE_FILE_LOCKING": "FALSE",
            # an mpiexec inside a task would wait for ever for cores that the task itself holds
            "HYDRA_LAUNCHER": "fork",
        }

    def srun_arguments(self) -> list[str]:
        """How srun starts the ranks: newer versions do not pass on the cores of sbatch, and a lost rank must end the others."""
        return [f"--mpi={self.start_up()}", f"--cpus-per-task={self.cpus_per_rank}", "--kill-on-bad-exit=1"]

    def start_up(self) -> str:
        """The value of `srun --mpi` that fits the MPI library of this environment. Raises ConfigError when the site lacks it."""
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
