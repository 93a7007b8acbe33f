"""Queries to Slurm through squeue and scontrol, which every site has; sacct, which many lack, is not needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

ALIVE = frozenset(
    "PENDING RUNNING SUSPENDED COMPLETING CONFIGURING REQUEUED REQUEUE_HOLD REQUEUE_FED SPECIAL_EXIT SIGNALING STAGE_OUT STOPPED "
    "RESIZING RESV_DEL_HOLD PREEMPTED".split()
)
GONE = "GONE"
PATIENCE = 30.0


@dataclass(frozen=True)
class JobState:
    """The state of a job in Slurm; GONE means that Slurm has forgotten it, so it is over. `left` is the time to its limit [s]."""

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    left: float | None = None
    start: str = ""
    command: str = ""

    @property
    def alive(self) -> bool:
        """Whether the job is queued, running, or may run again."""
        return self.state in ALIVE


def this_job() -> str:
    """The number of the job that this process belongs to; empty outside of jobs."""
    return os.environ.get("SLURM_JOB_ID", "")


def job_states(jobs: Sequence[str]) -> dict[str, JobState] | None:
    """Query the states of `jobs` (numbers, or ARRAY_TASK); None when Slurm does not answer, so that nothing is known."""
    if not jobs:
        return {}
    columns = "%i|%A|%T|%r|%N|%L|%S|%o"
    numbers = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    answer = _ask(["squeue", "--noheader", "--array", "--states=all", f"--jobs={numbers}", f"--format={columns}"])
    if answer is None:
        return None
    found: dict[str, JobState] = {}
    for line in answer.splitlines():
        columns_of_line = line.strip().split("|", 7)
        if len(columns_of_line) < 8:
            continue  # a message among the rows
        name, number, state, reason, nodes, left, start, command = columns_of_line
        for key in (name, number):
            found[key] = JobState(key, state, reason, nodes, seconds(left), start, command)
    return {job: found.get(job, JobState(job, GONE)) for job in jobs}


def step_over(job: str, step: str) -> bool:
    """Whether Slurm reports that a job, or its step, is over; False also when it does not answer."""
    states = job_states([job])
    if states is None:
        return False
    if not states[job].alive:
        return True
    if states[job].state != "RUNNING" or not step.isdigit():
        return False
    answer = _ask(["squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i"])
    return answer is not None and f"{job}.{step}" not in answer.split()


def seconds_left() -> float | None:
    """Seconds to the time limit of this job; None when there is no limit, or no job."""
    states = job_states([this_job()]) if this_job() else None
    return None if not states else states[this_job()].left


def warning_signal(job: str) -> str:
    """The signal that sbatch was asked to send before the time limit of a job; empty when there is none or Slurm is silent."""
    answer = _ask(["scontrol", "show", "job", "-dd", job]) or ""
    words = [word for word in answer.split() if word.startswith("Signal=")]
    return f"signal {words[0].removeprefix('Signal=')} before it" if words else ""


def accounting(job: str) -> bool:
    """Whether sacct answers, which nothing here needs."""
    return _ask(["sacct", "--noheader", f"--jobs={job}"]) is not None


def requeue(job: str) -> str:
    """Requeue a job; returns why that was refused, empty when it was not."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return " ".join(done.stderr.split()) if done.returncode else ""


def start_up_list() -> list[str]:
    """The values that `srun --mpi` accepts here; empty when srun does not say."""
    try:
        done = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if "error:" in done.stderr:  # the exit code says nothing
        return []
    lines = (done.stdout + done.stderr).replace("srun:", "").replace("specific pmix plugin versions available:", "").splitlines()
    return [word.strip(",") for line in lines if "types are" not in line for word in line.split()]


def seconds(text: str) -> float | None:
    """Convert Slurm's [days-]hours:minutes:seconds to seconds; None for words such as UNLIMITED."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return 86_400.0 * int(days or 0) + total


def _ask(command: Sequence[str]) -> str | None:
    """The output of a Slurm command; "" when Slurm does not know the job, None when it does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout
    return "" if "Invalid job id" in done.stderr else None
