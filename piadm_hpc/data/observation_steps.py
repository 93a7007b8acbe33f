"""Which steps of a sequence, and which level, the rows of a table of observations are of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..schema.layout import STEP, Coordinate
from .mistakes import few
from .selection import matches

FIRST, LAST = "first_step", "last_step"


def columns_along(along: Mapping[str, Coordinate]) -> tuple[str, ...]:
    """Return the columns that say where a row lies along the dimensions of a model's fields before those of the grid."""
    steps = (STEP, FIRST, LAST) if STEP in along else ()
    return (*steps, *(dim for dim in along if dim != STEP))


def places_along(
    frame: pd.DataFrame, along: Mapping[str, Coordinate], steps: tuple[int, int] | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return where rows lie along the dimensions `along`, columns by name, and what is wrong.

    Of sequences these are `first_step` and `last_step`, both included in the mean that a row is, -1 where it says nothing; a file
    may give `step` for both, and `steps` holds for rows without any. Of another dimension it is the model's value that a row
    names in the column of that dimension; NaN, or empty text, where it names none.
    """
    found: dict[str, np.ndarray] = {}
    mistakes: list[str] = []
    for dim, coordinate in along.items():
        if dim == STEP:
            found[FIRST], found[LAST], wrong = _steps(frame, coordinate.values, steps)
        else:
            found[dim], wrong = _values(frame, dim, coordinate)
        mistakes += wrong
    return found, mistakes


def _steps(frame: pd.DataFrame, numbers: np.ndarray, steps: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The first and the last step of every row, and what is wrong."""
    one, first, last = (_numbers(frame, name) for name in (STEP, FIRST, LAST))
    ranged = ~(np.isnan(first) & np.isnan(last))
    unclear = (ranged & ~np.isnan(one)) | (np.isnan(first) != np.isnan(last))
    given = ranged | ~np.isnan(one) | (steps is not None)
    begin, end = (
        np.where(ranged, own, np.where(np.isnan(one), np.nan if general is None else general, one))
        for own, general in zip((first, last), steps or (None, None), strict=True)
    )
    known = np.isin(begin, numbers) & np.isin(end, numbers) & (begin <= end)
    absent = given & ~known & ~unclear
    mistakes = []
    if unclear.any():
        mistakes.append(f"give either {STEP}, or both {FIRST} and {LAST}: {few(list(frame.index[unclear]))}")
    if absent.any():
        mistakes.append(
            f"steps must be whole numbers from {numbers[0]} to {numbers[-1]}, in order: {few(list(frame.index[absent]))}"
        )
    first_step, last_step = (np.where(known, part, -1).astype(np.int64) for part in (begin, end))
    return first_step, last_step, mistakes


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """The numbers of a column, NaN where it has none; text becomes infinity, which is no step."""
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isnan(numbers) & frame[name].notna().to_numpy(), np.inf, numbers)


def _values(frame: pd.DataFrame, dim: str, coordinate: Coordinate) -> tuple[np.ndarray, list[str]]:
    """The value of every row along a dimension, as the model has it, and what is wrong."""
    numbers = coordinate.values.dtype.kind in "fiu"
    found = np.full(len(frame), np.nan) if numbers else np.full(len(frame), "", dtype=object)
    if dim not in frame.columns:
        return found, []
    wrong = np.zeros(len(frame), dtype=bool)
    for value, rows in frame.groupby(frame[dim].to_numpy(), sort=False).indices.items():
        places = matches(coordinate.values, value)
        wrong[rows] = len(places) != 1
        if len(places) == 1:
            found[rows] = coordinate.values[places[0]]
    values = ", ".join(f"{value:g}" if numbers else str(value) for value in coordinate.values[:12])
    units = f" {coordinate.attrs['units']}" if "units" in coordinate.attrs else ""
    return found, [f"{dim} must be one of {values}{units}: {few(list(frame.index[wrong]))}"] if wrong.any() else []
