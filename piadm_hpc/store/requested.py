"""The samples that a folder is to hold: those requested last, and those that earlier calls of the same run have drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from ..config.limits import LARGEST_ID, MOST_SAMPLES
from ..config.validation import parse_toml
from ..data.mistakes import few
from .files import write_text
from .settings import RUN_FILE

REQUESTED = "requested.json"
SHOWN = 5
DRAW_AGAIN = "run the same `piadm sample` again, which draws only what is missing"
JOIN = "run `piadm join`"
UNREADABLE = (ValueError, TypeError, KeyError, RecursionError)


def write_requested(folder: Path, ids: Sequence[int], *, members: bool = True) -> None:
    """Record rising `ids` as the samples that the folder is to hold, or to count without `members`. Raises OSError."""
    samples = {"samples": [[first, last + 1] for first, last in _runs(ids)]}
    text = json.dumps(samples if members else samples | {"members": False})
    if _text(folder / REQUESTED) != text:
        write_text(folder / REQUESTED, text)


def members_wanted(folder: Path) -> bool:
    """Whether samples are to be stored, and not only counted for statistics."""
    try:
        return json.loads(_text(folder / REQUESTED)).get("members") is not False
    except (*UNREADABLE, AttributeError):
        return True


def requested(folder: Path) -> tuple[int, ...] | None:
    """The ids that the folder is to hold, rising; None when the folder does not record them.

    Folders of version 0.1.0 have only their run.toml.
    """
    try:
        ranges = json.loads(_text(folder / REQUESTED))["samples"]
        if all(0 <= first < stop <= LARGEST_ID + 1 for first, stop in ranges):
            return _ids(ranges)
    except UNREADABLE:
        pass
    try:
        config = parse_toml(_text(folder / RUN_FILE))
        return _ids([(i, i + 1) for i in config["only"]] if "only" in config else [(0, config["samples"])])
    except UNREADABLE:
        return None


def _ids(ranges: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """The ids in ranges of first and stop, rising; None for more than a run can have."""
    if sum(stop - first for first, stop in ranges) > MOST_SAMPLES:
        return None
    return tuple(sorted({sample for first, stop in ranges for sample in range(first, stop)}))


def absent(wanted: Iterable[int], there: Iterable[int]) -> tuple[int, ...]:
    """The ids of `wanted` that are not `there`, rising."""
    return tuple(sorted(set(wanted) - set(there)))


def in_words(ids: Sequence[int]) -> str:
    """Rising ids as text: 0-3, 7, 9-11 and 4 more ranges."""
    runs = [f"{first}-{last}" if last > first else f"{first}" for first, last in _runs(ids)]
    return few(runs, SHOWN, more="more ranges")


def _runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last id of every unbroken range."""
    if not ids:
        return []
    breaks = [(a, b) for a, b in pairwise(ids) if b != a + 1]
    return list(zip([ids[0], *(b for _, b in breaks)], [*(a for a, _ in breaks), ids[-1]], strict=True))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
