"""Sample ids written as text, and the keys of a configuration that do not change its samples."""

from __future__ import annotations

from .limits import LARGEST_ID, MOST_SAMPLES
from .validation import ConfigError

INDEPENDENT_KEYS = frozenset(
    {
        "samples",
        "only",
        "out",
        "allow_code",
        "condition.file",
        "observations.file",
        "output.batch",
        "output.compression",
        "output.members",
        "output.format",
        "output.log_interval",
    }
    | {f"statistics.{key}" for key in ("kinds", "quantiles", "thresholds", "truth", "bins", "exact", "absolute", "month")}
    | {f"compute.{key}" for key in ("time_ranks", "device", "model_batch", "in_flight", "threads", "compile")}
)
"""Dotted names of the keys that change a sample by rounding at most; a run may be continued with other values of them."""


def parse_ids(text: str) -> tuple[int, ...]:
    """Parse sample ids such as `17,42-47`; ConfigError for anything else."""
    ids: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            low, high = int(first), int(last if dash else first)
            if low > high:
                raise ValueError("a range must increase")
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
