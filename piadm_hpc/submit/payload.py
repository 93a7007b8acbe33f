"""The pickle-safe description of a job: only JSON, so that unpickling imports no torch and signals are handled early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Job:
    """A run or a training: the name of its configuration's class, and the configuration as JSON.

    submitit installs its signal handlers after it has unpickled the job. A signal before that would end the ranks as failed,
    and importing torch from a busy file system takes a while, so that is left until the job is called.
    """

    record: str
    config: str
    ranks: int = 1
    queues_again: bool = True

    @classmethod
    def of(cls, config: BaseModel, ranks: int = 1, queues_again: bool = True) -> Job:
        """Describe the job of a configuration."""
        return cls(type(config).__name__, config.model_dump_json(), ranks, queues_again)

    def __call__(self) -> Any:
        from .work import do

        return do(self.record, self.config, self.ranks, self.queues_again)

    def checkpoint(self) -> Any:
        """The job that submitit requeues when a signal arrives before the run handles it: the same, as its state is on disk."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
