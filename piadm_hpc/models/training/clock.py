"""The time of a training: the elapsed and the remaining time, and lines that report them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..config import OptimiserConfig

FORWARDS = 3  # cost of a training step, in calls of the network with as many rows


class Clock:
    """Minutes of training, those before an interruption included; reports progress every `every` seconds.

    The network will be called with `afterwards` rows when training is over, and `max_minutes` includes them; their time is
    estimated from the steps since the last start.
    """

    def __init__(
        self, options: OptimiserConfig, minutes: float, report: Callable[[str], None], *, afterwards: int = 0, every: float = 30.0
    ):
        self.options, self.report, self.every, self.minutes = options, report, every, minutes
        self.afterwards, self.steps = afterwards, 0
        self.start = self.spoken = time.monotonic()
        self.before, self.losses = minutes, list[float]()

    @property
    def spent(self) -> float:
        """Share of the time for training that has passed; above one when it is over, zero without a limit."""
        per_step = (self.minutes - self.before) / max(1, self.steps)
        calls = self.afterwards * per_step / (FORWARDS * self.options.batch)
        left = self.options.max_minutes - calls
        return self.minutes / left if left > 0 else 1.0

    def tick(self, step: int, loss: float) -> float:
        """Count one step, the last of `step` in all; returns the minutes."""
        now = time.monotonic()
        self.minutes, self.steps = self.before + (now - self.start) / 60, self.steps + 1
        self.losses.append(loss)
        if now - self.spoken > self.every:
            rate, total = len(self.losses) / (now - self.spoken), self.options.steps
            spent = self.spent
            limit = self.minutes * (1 / spent - 1) if spent > 0 else float("inf")
            left = max(0.0, min((total - step) / rate / 60, limit))
            mean = sum(self.losses) / len(self.losses)
            self.report(
                f"step {step}/{total}  loss {mean:.4f}  {rate:.2f} steps/s  {self.minutes:.1f} min, at most {left:.1f} min left"
            )
            self.spoken, self.losses = now, []
        return self.minutes
