"""Failing together: an error on one rank is raised on all of them, so that no rank waits for one that has left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch

from ..host.launcher import LauncherError
from .communicator import Communicator

T = TypeVar("T")


class RankEnded(LauncherError):
    """Another rank exited by SystemExit or KeyboardInterrupt; the message names it."""


def together(comm: Communicator, action: Callable[[], T], rename: Callable[[Exception], Exception] | None = None) -> T:
    """Return the action's result once it has succeeded on every rank; collective over `comm`.

    The error of the lowest rank that failed is raised on all ranks, as `rename` words it on the rank where it was raised.
    A rank on which SystemExit or KeyboardInterrupt was raised raises it again, and the others raise RankEnded.
    """
    result, failure = None, None
    try:
        result = action()
    except BaseException as error:
        failure = error
    if float(comm.max(torch.tensor([float(failure is not None)]))) == 0:
        return cast(T, result)
    shared = failure
    if failure is not None and not isinstance(failure, Exception):
        shared = RankEnded(describe(failure, comm.world_rank))
    elif failure is not None and rename is not None:
        shared = rename(failure)
    failures = [error for error in comm.gather_objects(shared) if error is not None]
    if failure is not None and not isinstance(failure, Exception):
        raise failure
    raise failures[0]


def describe(failure: BaseException, rank: int) -> str:
    """Name the rank that exited, and the exception that made it exit."""
    return f"rank {rank} ended with {type(failure).__name__}{f' {failure}' if str(failure) else ''}"
