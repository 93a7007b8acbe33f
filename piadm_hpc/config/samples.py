"""Which samples a run has, as text on the command line, and the keys that do not decide what a sample is."""

from __future__ import annotations

from .limits import LARGEST_ID, MOST_SAMPLES
from .validation import ConfigError

INDEPENDENT_KEYS = frozenset(
    {"samples", "only", "out", "allow_code", "output.batch", "output.compression", "output.log_interval"}
    | {f"compute.{key}" for key in ("time_ranks", "device", "model_batch", "in_flight", "threads", "compile")}
)
"""Dotted names of keys that change no sample beyond rounding: a run may be continued with other values of these."""


def parse_ids(text: str) -> tuple[int, ...]:
    """Read sample ids from text such as `17,42-47`. Raises ConfigError for anything else."""
    ids: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            low, high = int(first), int(last if dash else first)
            if low > high:
                raise ValueError("a range runs upwards")
            if high > LARGEST_ID or len(ids) + high - low >= MOST_SAMPLES:
                raise ConfigError(
                    f"--only {text[:60]!r}: ids go up to {LARGEST_ID}, and a run has at most {MOST_SAMPLES} samples"
                )
            ids += range(low, high + 1)
    except ConfigError:
        raise
    except ValueError:
        raise ConfigError(f"--only {text!r}: give sample ids such as 17,42-47") from None
    return tuple(ids)
