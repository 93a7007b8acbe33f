"""The exception for jobs that were not accepted. This file does not import submitit, so the command line can catch it early."""

from __future__ import annotations


class SubmissionError(RuntimeError):
    """The batch system refused a job; the message quotes it and names the jobs that were queued before."""
