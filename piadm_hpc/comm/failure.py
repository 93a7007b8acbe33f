"""Failing together: an error on one rank becomes an error on all of them, so that nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch

from .communicator import Communicator

T = TypeVar("T")


class RankEnded(RuntimeError):
    """Another rank was told to exit; the message says which."""


def together(comm: Communicator, action: Callable[[], T]) -> T:
    """Return what the action gives once it has succeeded on every rank; collective over `comm`.

    The first failure is raised on all ranks. A rank on which SystemExit or KeyboardInterrupt was raised raises it again, and
    the others raise RankEnded.
    """
    result, failure = None, None
    try:
        result = action()
    except BaseException as error:
        failure = error
    if float(comm.max(torch.tensor([float(failure is not None)]))) == 0:
        return cast(T, result)
    told = failure if failure is None or isinstance(failure, Exception) else RankEnded(_words(failure, comm.world_rank))
    failures = [found for found in comm.gather_objects(told) if found is not None]
    if failure is not None and not isinstance(failure, Exception):
        raise failure
    raise failures[0]


def _words(failure: BaseException, rank: int) -> str:
    return f"rank {rank} ended with {type(failure).__name__}{f' {failure}' if str(failure) else ''}"
