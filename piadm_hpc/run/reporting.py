"""The reports of a run: a log and a progress bar for people, events for programs, and a summary at the end."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

logger = logging.getLogger("piadm_hpc")
EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class EventLog:
    """The file events.jsonl in a run's folder, one JSON object a line: {"time", "event", "job", ...}.

    Only the rank that `speaks` writes, unless an event says otherwise.
    """

    folder: Path
    speaks: bool

    def write(self, event: str, *, always: bool = False, **more: Any) -> None:
        """Add an event, with `always` from any rank. An event is lost if the disk is full; the writer of samples reports that."""
        if not (self.speaks or always):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        job = {"job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {}
        line = json.dumps({"time": now, "event": event, **job, **more})
        with suppress(OSError):
            handle = os.open(self.folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                # in one call, so that lines of two processes never mix
                os.write(handle, f"{line}\n".encode())
            finally:
                os.close(handle)


def how_to_open(folder: Path, *, statistics: bool = False) -> str:
    """The line of Python that opens the samples of a run, or its statistics."""
    return f'piadm_hpc.open("{folder}"{", statistics=True" if statistics else ""})'


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the events of a run, oldest first, leaving out lines that a kill or a full disk cut short."""
    try:
        lines = (folder / EVENTS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def set_up_logging(*, root: bool, file: Path | None = None) -> None:
    """Log to the standard output and to `file`, with the time of day; ranks other than the root log only warnings."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if root and file is not None:
        handlers.append(_LogFile(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    for old in logger.handlers:
        old.close()
    logger.handlers = handlers
    logger.setLevel(logging.INFO if root else logging.WARNING)
    logger.propagate = False


class _LogFile(logging.FileHandler):
    """A log file that ignores a full disk: the shard that cannot be written then ends the run with a message."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Progress:
    """Progress through a total, as a bar on a terminal and as a line every `interval` seconds elsewhere.

    Args:
        total: the amount of work, in `unit`; the amount done may be a fraction.
        unit: the plural noun that messages use.
        interval: seconds between two lines of the log.
        enabled: whether this rank reports.
        ends: when the job reaches its time limit, on the clock of time.monotonic.
        events: where every line is also written as an event.
        elsewhere: counts what other groups of ranks have done; called once an interval.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str,
        interval: float,
        enabled: bool,
        ends: float | None = None,
        events: EventLog | None = None,
        elsewhere: Callable[[], float] | None = None,
    ):
        self.total, self.unit, self.interval, self.enabled = total, unit, interval, enabled
        self.ends, self.events, self.elsewhere, self.others = ends, events, elsewhere, 0.0
        self.done, self.began, self.spoke = 0.0, time.monotonic(), time.monotonic()
        self.bar = None
        # a bar is drawn on the standard error; Open MPI makes every rank's standard output a terminal, even in a batch job
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, leave=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: float, note: str) -> None:
        """Report the amount done here, with a note on the present work."""
        due = self.enabled and time.monotonic() - self.spoke >= self.interval
        if due and self.elsewhere is not None:
            self.others = max(self.others, self.elsewhere())
        done += self.others
        if self.bar is not None:
            self.bar.set_postfix_str(note)
            self.bar.update(done - self.done)
        self.done = done
        if due:
            self.spoke = time.monotonic()
            self._speak(note)

    def _speak(self, note: str) -> None:
        rate = self.done / max(1e-9, self.spoke - self.began)
        left = (self.total - self.done) / rate if rate else None
        limit = None if self.ends is None else self.ends - self.spoke
        if self.events is not None:
            done = round(self.done, 3)
            self.events.write(
                "progress", done=done, total=self.total, unit=self.unit, note=note, rate=rate, left=left, limit=limit
            )
        if self.bar is None:
            speed = "" if left is None else f"  {rate:.3g} {self.unit}/s  about {span(left)} left"
            until = "" if limit is None else f"{',' if speed else ' '} limit in {span(max(0, limit))}"
            logger.info("%d/%d %s  %s%s%s", int(self.done), self.total, self.unit, note, speed, until)


@dataclass(frozen=True)
class Summary:
    """The cost of the samples that a run drew, without those it found finished.

    Attributes:
        num_samples: samples drawn.
        not_converged: samples that did not meet the tolerance by themselves.
        rounds: sequential network function evaluations (NFE) of a sample, median.
        calls: network function evaluations (NFE) of a sample, median.
        sequential_rounds: NFE of a sample that is made step by step; None where only sweeps make samples.
        sweeps: largest number of sweeps of every block.
        seconds: wall-clock time.
        communication: seconds in collective operations, mean over ranks.
        writing: seconds of writing shards, maximum over groups.
        ranks: the arrangement of ranks, in words.
    """

    num_samples: int
    not_converged: int
    rounds: float
    calls: float
    sequential_rounds: int | None
    sweeps: list[int]
    seconds: float
    communication: float
    writing: float
    ranks: str

    def lines(self, tol: float) -> list[str]:
        """Describe the cost in a few lines for the log."""
        if self.num_samples == 0:
            return ["nothing to do: every sample of this run has already been drawn"]
        share, steps = 100 / max(self.seconds, 1e-9), self.sequential_rounds
        in_sequence = "" if steps is None else f"; the same chain step by step: {steps} in {steps}"
        sweeps = f"most sweeps per block {' '.join(map(str, self.sweeps))} (tol {tol:g})" if any(self.sweeps) else "step by step"
        return [
            f"{self.num_samples} samples on {self.ranks}; {sweeps}",
            f"model calls {self.calls:g} per sample in {self.rounds:g} rounds (median){in_sequence}",
            f"{self.seconds / max(1, self.num_samples):.2f} s per sample (communication {share * self.communication:.0f} %, "
            f"writing {share * self.writing:.0f} %)",
        ]


def span(seconds: float) -> str:
    """Format a duration for people: 41 s, 12 min 05 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
