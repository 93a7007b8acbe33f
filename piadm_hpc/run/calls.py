"""Seconds of a network call by its number of rows, timed on all ranks of a run at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..comm.communicator import Communicator
from ..comm.failure import together
from ..solvers.sampler import Sampler
from .build import ROWS

TIMED = 1 / 48  # share of the predicted time of a run that further timed calls may take
STEP = 8  # ratio of one timed number of rows to the one before it
GAIN = 0.9  # time per row, relative to that with fewer rows, at which more rows still pay
REPEATS, SHORT = 3, 0.02  # of a call, as long as they have taken fewer seconds
SHORTEST = 1e-6  # seconds of a call, below which clocks tell nothing
NEAR = 1.05  # time per row, relative to the shortest, at which a call counts as equally good

# predicted seconds of the run, from what is known of a call
Predict = Callable[["CallTimes"], float]


@dataclass(frozen=True)
class CallTimes:
    """Seconds of a call with `rows` rows, rising from 1, on an idle processor; between them a call's time is linear.

    While all ranks call, each call takes `crowding` times as long, because ranks share the processors of a host. The
    first call of a network is slow, so times are `warm` only from the second one on.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    crowding: float = 1.0
    warm: bool = False

    def after(self, rows: int, seconds: float, crowding: float) -> CallTimes:
        """Return the times with those of further calls, of one row again or of more rows."""
        crowding = min(self.crowding, crowding) if self.warm else crowding
        if rows == self.rows[-1]:
            return CallTimes(self.rows, (min(seconds, self.seconds[0]),), crowding, warm=True)
        return CallTimes((*self.rows, rows), (*self.seconds, max(seconds, self.seconds[-1])), crowding, warm=True)

    def of(self, rows: float, most: int) -> float:
        """Seconds of `rows` rows, an average over sweeps, in calls of at most `most` rows."""
        calls, rest = divmod(rows, most)
        return calls * self._one(most) + self._one(rest)

    def best_rows(self, *, untried: bool) -> int:
        """The largest timed number of rows whose time per row is near the shortest.

        With `untried` it exceeds all timed numbers while more rows still pay: when a GPU runs out of memory calls are halved,
        whereas a process that runs out of the host's memory is killed.
        """
        each = [seconds / rows for rows, seconds in zip(self.rows, self.seconds, strict=True)]
        if len(each) == 1:
            return ROWS
        if untried and each[-1] <= GAIN * each[-2]:
            return STEP * self.rows[-1]
        return max(rows for rows, one in zip(self.rows, each, strict=True) if one <= NEAR * min(each))

    def _one(self, rows: float) -> float:
        """One call; a call of less than a row, where some sweeps have none, is that share of a call of one row."""
        if rows < 1:
            return rows * self.seconds[0]
        if rows > self.rows[-1]:
            return self.seconds[-1] * rows / self.rows[-1]
        return float(np.interp(rows, self.rows, self.seconds))


def time_calls(sampler: Sampler, comm: Communicator, predict: Predict, useful: int) -> CallTimes:
    """Time calls of 1, STEP, ... rows as far as `useful` and as long as more rows pay; collective over `comm`.

    Calls after the first are only made if one is expected to take at most TIMED of the predicted time of the run. The first rank
    decides, and the slowest rank counts. Raises what the score raises, on all ranks.
    """
    times, rows = None, 1
    while rows:
        try:
            measured = together(comm, partial(_timed, sampler, rows, 1 if times is None else REPEATS))
        except torch.OutOfMemoryError:
            if times is None:
                raise
            break
        own, wall = comm.max(torch.tensor(measured, dtype=torch.float64)).tolist()
        crowding = 1.0 if comm.size == 1 else wall / own
        times = CallTimes((1,), (own,), crowding) if times is None else times.after(rows, own, crowding)
        rows = comm.bcast_object(_following(times, predict(times), useful))
    assert times is not None
    return times


def _following(times: CallTimes, predicted: float, useful: int) -> int:
    """The number of rows to time next: one a second time, because a first call is slow, then more of them; 0 to stop."""
    last, seconds = times.rows[-1], times.seconds[-1]
    affordable = TIMED * predicted / (times.crowding * seconds)
    if not times.warm:
        return int(affordable >= 1)
    if len(times.rows) > 1 and seconds / last > GAIN * times.seconds[-2] / times.rows[-2]:
        return 0
    more = min(STEP * last, useful, int(last * affordable))
    return more if more >= 2 * last else 0


def _timed(sampler: Sampler, rows: int, repeats: int) -> tuple[float, float]:
    """Seconds of the shortest of some calls, without the time spent waiting for a processor, and with it.

    Only short calls are repeated, because waiting disturbs them most.
    """
    first = sampler.prior_states([0])
    x = first[:, 0] if sampler.chain.reads == 1 else first[:, : sampler.chain.reads]
    x = x if sampler.project is None else sampler.project(x.flatten(0, x.ndim - len(sampler.event_shape) - 1)).reshape(x.shape)
    x = x.expand(rows, *x.shape[1:]).clone()
    t = sampler.chain.t[:1].to(x).expand(rows).clone()
    found: list[tuple[float, float]] = []
    while len(found) < repeats and sum(wall for _, wall in found) < SHORT:
        waited, began = _waited(), time.perf_counter()
        with torch.no_grad():
            sampler.score(x.clone(), t.clone())
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        wall = time.perf_counter() - began
        found.append((max(wall - (_waited() - waited), SHORTEST), wall))
    return min(own for own, _ in found), min(wall for _, wall in found)


def _waited() -> float:
    """Seconds for which this process was ready and had no processor, from the kernel's record; 0 where there is none."""
    try:
        return 1e-9 * int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
