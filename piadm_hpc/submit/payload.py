"""A job as its pickle holds it: words alone, so that it is read, and signals are listened to, a moment after the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Job:
    """A run or a training: the name of its record, and what that holds as JSON.

    submitit listens to signals once it has read the job. Until then a signal would end the ranks as failed, and reading
    torch from a busy file system takes a while: that is done when the job is called.
    """

    record: str
    config: str
    ranks: int = 1
    queues_again: bool = True

    @classmethod
    def of(cls, config: BaseModel, ranks: int = 1, queues_again: bool = True) -> Job:
        return cls(type(config).__name__, config.model_dump_json(), ranks, queues_again)

    def __call__(self) -> Any:
        from .work import do

        return do(self.record, self.config, self.ranks, self.queues_again)

    def checkpoint(self) -> Any:
        """What submitit queues when its signal comes before the job listens itself: the same, since all else is on disk."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
