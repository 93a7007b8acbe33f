"""The settings that each solver reads, and the chains that it can solve."""

from __future__ import annotations

from collections.abc import Sequence

# the sequential solver is the oracle of all others, so it accepts the settings of each
READ_BY = {
    "linear": ("picard", "anderson", "newton"),
    "start": ("picard", "anderson", "newton"),
    "student": ("picard", "anderson", "newton"),
    "sweeps": ("picard", "paradigms", "anderson", "newton", "parareal"),
    "fixed_depth": ("picard", "anderson", "newton", "parareal"),
    "window": ("picard", "paradigms"),
    "pipelined": ("picard",),
    "alternate": ("picard",),
    "certify": ("picard",),
    "memory": ("anderson",),
    "parts": ("parareal", "chords"),
    "coarse": ("parareal",),
}
# starts of the cores of CHORDS as fractions of the chain, by the number of cores; the authors' settings for 50 steps
STARTS = {
    4: (0.0, 0.16, 0.32, 0.64),
    6: (0.0, 0.06, 0.12, 0.24, 0.48, 0.72),
    8: (0.0, 0.04, 0.08, 0.16, 0.32, 0.48, 0.64, 0.8),
}
POSITION_ONLY = ("paradigms", "newton", "parareal", "chords")


def mistakes_of(kind: str, parts: int | None, given: Sequence[str]) -> list[str]:
    """List the mistakes in the settings of a solver: impossible `parts`, and `given` keys that it does not read."""
    kind = "picard" if kind == "auto" else kind
    unread = [key for key in given if key in READ_BY and kind not in (*READ_BY[key], "sequential")]
    mistakes = []
    if unread:
        readers = "; ".join(f"{key}: {', '.join(READ_BY[key])}" for key in unread)
        mistakes.append(f"kind = {kind!r} does not read {', '.join(unread)}; leave them out, or use a kind that does ({readers})")
    if kind == "chords" and parts not in (None, *STARTS):
        mistakes.append(f"parts = {parts}: chords starts {', '.join(map(str, STARTS))} cores")
    return mistakes
