"""Runs and trainings as jobs: submitted through submitit, one MPI rank a task, queued again until they are done."""

from .request import JobRequest
from .script import batch_script
from .status import RunStatus, read_status
from .submission import Submission, submit, submit_training

__all__ = ["JobRequest", "RunStatus", "Submission", "batch_script", "read_status", "submit", "submit_training"]
