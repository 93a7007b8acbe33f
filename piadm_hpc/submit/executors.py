"""submitit's executors with queries to squeue: many sites have no sacct, and a dead job must be noticed there too."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from ..config.validation import ConfigError
from ..host.slurm import GONE, job_states
from .errors import SubmissionError
from .request import JobRequest

POLL_SECONDS = 10


def resolve(cluster: str) -> str:
    """Choose the cluster that "auto" means on this machine. Raises ConfigError for "slurm" where there is none."""
    there = shutil.which("srun") is not None and shutil.which("sbatch") is not None
    if cluster == "auto":
        return "slurm" if there else "local"
    if cluster == "slurm" and not there:
        raise ConfigError("cluster: there is no sbatch and srun on this machine; use --cluster local, or --print for the script")
    return cluster


def make_executor(cluster: str, folder: Path, request: JobRequest, *, dependency: str | None = None) -> Any:
    """Make an executor that writes below `folder`, one for every submission, so that no old result is taken for a new one.

    Its jobs start Python with -P: a module in the folder they are submitted from must not run in place of an installed one.
    """
    import submitit

    python = f"{shlex.quote(sys.executable)} -P"

    if cluster == "debug":
        return submitit.DebugExecutor(folder=folder / "%j")
    if cluster == "local":
        if request.nodes > 1:
            raise ConfigError(f"nodes: {request.nodes} are not available on this machine alone; use --nodes 1 with more ranks")
        local = submitit.LocalExecutor(folder=folder / "%j", python=python)
        local.update_parameters(timeout_min=request.minutes, signal_delay_s=request.grace, gpus_per_node=request.gpus_per_node)
        return local
    executor = submitit.SlurmExecutor(folder=folder / "%j", python=python)
    executor.update_parameters(**_sbatch_parameters(request, dependency))
    return executor


@contextmanager
def safe_path() -> Iterator[None]:
    """Let processes started meanwhile ignore the current folder when they import; submitit starts one of its own."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def refusals() -> Iterator[None]:
    """Raise SubmissionError with the words of sbatch when it refuses a job, or answers without the number of one."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with redirect_stderr(StringIO()):  # submitit prints what sbatch said as well
            yield
    except FailedSubmissionError as error:
        raise SubmissionError(f"{_joined(error)}; see in squeue whether the job is there") from error
    except FailedJobError as error:
        raise SubmissionError(f"sbatch refused the job: {_joined(error) or 'it gave no reason'}") from error


def _joined(error: Exception) -> str:
    """The words of an error in one line."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _sbatch_parameters(request: JobRequest, dependency: str | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "job_name": request.name,
        "time": request.minutes,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "cpus_per_task": request.cpus_per_rank,
        "signal_delay_s": request.grace,
        "array_parallelism": request.parallel,
        "stderr_to_stdout": True,
        "wckey": None,
        "srun_args": request.srun_arguments(),
        "setup": [*request.setup, *(f"export {name}={value}" for name, value in request.environment.items())],
        "additional_parameters": {("requeue" if request.queues_again else "no-requeue"): True, **request.options},
    }
    if request.gpus_per_node:
        parameters["gpus_per_node"] = request.gpus_per_node
    if dependency:
        parameters["dependency"] = dependency
    return parameters


def watched(jobs: list[Any], cluster: str) -> list[Any]:
    """Replace jobs on Slurm by jobs whose state comes from squeue; others are returned unchanged."""
    if cluster != "slurm":
        return jobs
    kind = _slurm_job()
    return [kind(folder=job._folder if hasattr(job, "_folder") else job.paths._folder, job_id=job.job_id) for job in jobs]


@cache
def _slurm_job() -> Any:
    from submitit.slurm import slurm

    class Watcher(slurm.SlurmInfoWatcher):
        """Asks squeue for the states of jobs; a job that Slurm has forgotten is over."""

        def update(self) -> None:
            asked = sorted(self._registered - self._finished)
            states = job_states(asked)
            for job, found in (states or {}).items():
                state = "COMPLETED" if found.state == GONE else found.state
                self._info_dict[job] = {"JobID": job, "State": state, "NodeList": found.nodes}
            self._last_status_check = time.time()

    class Job(slurm.SlurmJob):  # type: ignore[type-arg]
        """A job whose end is noticed with and without sacct."""

        watcher = Watcher(delay_s=POLL_SECONDS)
        _results_timeout_s = 5

    return Job
