"""Being asked to stop: by a file in the run's folder, by a signal, or by a time limit that comes near.

A signal handler only notes what was asked: ranks talk to each other at block ends, never inside a handler.
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
    """Who asks. A person or the scheduler that ends the job outranks a time limit, after which the job may be queued again."""

    NONE = 0
    LIMIT = 1
    PERSON = 2


MEANING = {signal.SIGUSR1: StopReason.LIMIT, signal.SIGUSR2: StopReason.LIMIT, signal.SIGTERM: StopReason.PERSON}


class StopRequested(Exception):
    """A run was asked to stop: what is finished is kept, and the same command goes on later.

    `limit` is true when a time limit asked, so that the job may put itself into the queue again.
    """

    def __init__(self, message: str, *, limit: bool = False):
        super().__init__(message)
        self.limit = limit


class StopSignals:
    """What signals have asked so far: SIGUSR1 and SIGUSR2 announce a limit, SIGTERM ends the job."""

    def __init__(self) -> None:
        self.reason = StopReason.NONE
        self.name = ""

    def note(self, number: int, frame: object) -> None:
        """The handler: nothing but a note."""
        meaning = MEANING[signal.Signals(number)]
        if meaning > self.reason:
            self.reason, self.name = meaning, signal.Signals(number).name


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Signals are noted instead of ending the process; as before afterwards. Only a process's first thread can do this."""
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
    """Ask the run in `folder` to stop: every group of ranks looks for the file."""
    with suppress(OSError):
        # in one step, so that nobody reads half a word; a full disk must not keep the run from stopping
        draft = folder / f".{STOP_FILE}-{os.getpid()}"
        draft.write_text(who.name, encoding="ascii")
        os.replace(draft, folder / STOP_FILE)


def stop_requested(folder: Path) -> StopReason:
    """Who asks by the file in `folder`; a file that says nothing was made by a person."""
    try:
        text = (folder / STOP_FILE).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return StopReason.NONE
    except OSError:
        return StopReason.PERSON
    return StopReason[text] if text in StopReason.__members__ else StopReason.PERSON
