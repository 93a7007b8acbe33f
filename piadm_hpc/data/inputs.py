"""The files that a recipe names, and their split into training, validation and test samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

import numpy as np

from ..config.paths import matching

PARTS = ("train", "validation", "test")


class HoldOut(Protocol):
    """The keys of a recipe that hold data out: globs of files, or the last fractions of the samples."""

    @property
    def validation_files(self) -> tuple[str, ...]: ...

    @property
    def test_files(self) -> tuple[str, ...]: ...

    @property
    def validation_fraction(self) -> float: ...

    @property
    def test_fraction(self) -> float: ...


def expand(files: Sequence[str], root: Path, key: str) -> list[Path]:
    """Existing paths for names and globs, each file once; numbers in the names of a glob's matches count by value.

    Raises ValueError naming the configuration's `key` for names without a match.
    """
    found: dict[Path, Path] = {}
    absent = []
    for name in files:
        matches = sorted(matching(name, root), key=_by_number)
        if not matches:
            absent.append(name)
        for path in matches:
            found.setdefault(path.resolve(), path)
    if absent:
        raise ValueError(f"no file matches {', '.join(absent)} (looked from {root.resolve()}); check `{key}`")
    return list(found.values())


def _by_number(path: Path) -> list[tuple[int, str]]:
    """A sort key under which year_2 comes before year_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def require_one_way_to_hold_out(config: HoldOut) -> None:
    """Raise ValueError for data held out by files and by fractions at once, and for fractions that leave nothing."""
    share = config.validation_fraction + config.test_fraction
    if (config.validation_files or config.test_files) and share:
        raise ValueError("hold out either by files or by fractions, not both")
    if share >= 1:
        raise ValueError(f"validation_fraction + test_fraction = {share} leaves nothing to train on")


def parts_by_file(config: HoldOut, names: Sequence[str], file: np.ndarray) -> np.ndarray:
    """The part, "train", "validation" or "test", of every sample [n], by the number of its file.

    Raises ValueError if a pattern matches none of the files.
    """
    part = np.full(len(file), "train", dtype=object)
    for name, patterns in {"validation": config.validation_files, "test": config.test_files}.items():
        matches = [i for i, read in enumerate(names) if any(read == pattern or fnmatch(read, pattern) for pattern in patterns)]
        if patterns and not matches:
            raise ValueError(f"{name}_files {list(patterns)} match none of the files read: {', '.join(names)}")
        part[np.isin(file, matches)] = name
    return part


def parts_by_fraction(config: HoldOut, order: np.ndarray) -> np.ndarray:
    """The part of every sample [n] when the last fractions are held out.

    `order` [n] never falls; samples equal in it (members of an ensemble on one date) stay in one part.
    """
    count = len(order)
    first_test = count - round(count * config.test_fraction)
    first_validation = first_test - round(count * config.validation_fraction)
    cuts = [int(np.searchsorted(order, order[k])) if k < count else count for k in (first_validation, first_test)]
    places = np.arange(count)
    return np.where(places >= cuts[1], "test", np.where(places >= cuts[0], "validation", "train"))
