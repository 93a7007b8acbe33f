"""Runs and trainings as jobs, submitted through submitit with one MPI rank a task, and requeued until they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.lazy import loader

# imported on first use: a job that starts must handle signals before it imports all of this
_HOMES = {
    "JobRequest": "request",
    "RunStatus": "status",
    "Submission": "submission",
    "SubmissionError": "errors",
    "batch_script": "script",
    "read_status": "status",
    "submit": "submission",
    "submit_training": "submission",
}

if TYPE_CHECKING:
    from .errors import SubmissionError as SubmissionError
    from .request import JobRequest as JobRequest
    from .script import batch_script as batch_script
    from .status import RunStatus as RunStatus
    from .status import read_status as read_status
    from .submission import Submission as Submission
    from .submission import submit as submit
    from .submission import submit_training as submit_training

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
