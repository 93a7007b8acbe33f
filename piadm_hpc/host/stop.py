"""Requests to stop a run: by a file in its folder, by a signal, or because of an approaching time limit.

A signal handler only records the request: ranks communicate between sweeps, never inside a handler.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

STOP_FILE = "STOP"


class StopReason(IntEnum):
    """Who asks for a stop. A person, or a scheduler that ends the job, outranks a time limit, after which a job may requeue."""

    NONE = 0
    LIMIT = 1
    PERSON = 2


MEANING = {signal.SIGUSR1: StopReason.LIMIT, signal.SIGUSR2: StopReason.LIMIT, signal.SIGTERM: StopReason.PERSON}


class StopRequested(Exception):
    """A run stopped on request: finished work is kept, and the same command continues it later.

    `limit` is true when the reason was a time limit, so that the job may requeue itself.
    """

    def __init__(self, message: str, *, limit: bool = False):
        super().__init__(message)
        self.limit = limit


class StopSignals:
    """The requests that signals have made so far: SIGUSR1 and SIGUSR2 announce a time limit, SIGTERM ends the job."""

    def __init__(self) -> None:
        self.reason = StopReason.NONE
        self.name = ""

    def note(self, number: int, frame: object) -> None:
        """Handle a signal: record it, and do nothing else."""
        meaning = MEANING[signal.Signals(number)]
        if meaning > self.reason:
            self.reason, self.name = meaning, signal.Signals(number).name


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Record signals instead of being ended by them, and restore the handlers afterwards; only the main thread can do this."""
    noted = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, noted.note) for number in MEANING}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def request_stop(folder: Path, who: StopReason) -> None:
    """Ask the run in `folder` to stop, by a file that every group of ranks looks for."""
    with suppress(OSError):
        # renamed, so that nobody reads half of it; a full disk must not keep the run from stopping
        draft = folder / f".{STOP_FILE}-{os.getpid()}"
        draft.write_text(who.name, encoding="ascii")
        os.replace(draft, folder / STOP_FILE)


def stop_requested(folder: Path) -> StopReason:
    """Read the reason from the stop file in `folder`; a file without a known word counts as the request of a person."""
    try:
        text = (folder / STOP_FILE).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return StopReason.NONE
    except OSError:
        return StopReason.PERSON
    return StopReason[text] if text in StopReason.__members__ else StopReason.PERSON
