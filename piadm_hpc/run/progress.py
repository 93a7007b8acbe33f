"""What a run says: while it works a bar on a terminal or one plain line an interval in a job log, at its end a summary."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .events import EventLog

logger = logging.getLogger("piadm_hpc")


def set_up_logging(*, root: bool, file: Path | None = None) -> None:
    """Lines with a clock, from the root alone (other ranks speak up at warnings), also into the run's log.txt."""
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
    """A log that may fall short on a full disk: the shard that cannot be written then ends the run, in words."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Progress:
    """Work done out of a total, which may be parts of a unit; silent on ranks other than the root.

    `ends` is when the job meets its time limit (time.monotonic); every line is also an event of `events`. `elsewhere` counts
    what other groups of ranks have done; it is asked once an interval.
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
        # where the bar is drawn; Open MPI gives every rank a terminal for its standard output, even in a batch job
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, leave=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: float, note: str) -> None:
        """So much of the total is done here, with a word about where the work is."""
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
    """What a run did: totals over the samples it made (not those it found), and where the time went."""

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
        if self.num_samples == 0:
            return ["nothing to do: every sample of this run is there already"]
        share, steps = 100 / max(self.seconds, 1e-9), self.sequential_rounds
        in_sequence = "" if steps is None else f"; the same chain step by step: {steps} in {steps}"
        return [
            f"{self.num_samples} samples on {self.ranks}; most sweeps per block {' '.join(map(str, self.sweeps))} (tol {tol:g})",
            f"model calls {self.calls:.0f} per sample in {self.rounds:.0f} rounds (median){in_sequence}",
            f"{self.seconds / max(1, self.num_samples):.2f} s per sample (communication {share * self.communication:.0f} %, "
            f"writing {share * self.writing:.0f} %)",
        ]


def span(seconds: float) -> str:
    """Seconds in words: 41 s, 12 min 05 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
