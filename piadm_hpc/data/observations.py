"""Tables of observations from CSV or NetCDF files: places, variables, values and errors.

A table has one observation a row. Its columns are `value`, `std` (the standard deviation of the error), `variable`, and a place:
`lat` and `lon` of a point, `south`, `north`, `west` and `east` of a box that is averaged over, or `degree` and `order` of a
spherical harmonic. Of sequences and levels it also has the columns of `observation_steps`. Optional are `units`, `group` and
`correlation`. A file may also be wide, with a column for each variable
and `NAME_std` beside it, or hold fields over latitude and longitude.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..schema.layout import Coordinate
from .mistakes import few
from .observation_files import SEPARATORS, read_csv, read_netcdf, renamed
from .observation_steps import places_along
from .selection import Choice

PLACES: dict[str, tuple[str, ...]] = {
    "point": ("lat", "lon"),
    "box": ("south", "north", "west", "east"),
    "harmonic": ("degree", "order"),
}
"""Columns that give the place of an observation, by its kind."""

AXES = ("x", "y", "z")
"""Columns of the observed position of an atom."""

CELL = ("cell_lat", "cell_lon", "south", "north", "west", "east")


@dataclass(frozen=True)
class ObservationTable:
    """Observations as they are in a file, one entry per row.

    `columns` holds at least value and std [m] float64, variable and units [m] (text; units empty where none are given), kind
    [m] (a key of PLACES, "cell" for the value of a field, or "function"), group and correlation [m], and the columns of the
    places, NaN where a row has none, and of sequences and levels those of `places_along`. `lead` (numbers), `time`, `axis` and
    `average` (text) are there where the file has them. `labels` [m] name the rows in messages.
    """

    columns: Mapping[str, np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @property
    def sha256(self) -> str:
        """Digest of all rows, which distinguishes these observations from others."""
        digest = hashlib.sha256()
        for name in sorted(self.columns):
            values = self.columns[name]
            digest.update(name.encode())
            digest.update("\n".join(values).encode() if values.dtype == object else values.tobytes())
        return digest.hexdigest()

    @property
    def dates(self) -> np.ndarray:
        """Return lead and time of the rows, [m] text; empty where the file has neither."""
        parts = [self.columns[name].astype(str) for name in ("lead", "time") if name in self.columns]
        return np.array([" ".join(row) for row in zip(*parts, strict=True)] or [""] * len(self), dtype=object)

    def keep(self, which: np.ndarray) -> ObservationTable:
        """Return the rows where `which` [m] is true."""
        return ObservationTable({name: values[which] for name, values in self.columns.items()}, self.labels[which])

    def of_mistake(self, wrong: np.ndarray, shown: int = 4) -> str:
        """Return the labels of the rows where `wrong` [m] is true, the first few of them."""
        return few(list(self.labels[wrong]), shown)


def read_observations(
    path: str | Path,
    variables: Sequence[str],
    *,
    select: Mapping[str, Choice] | None = None,
    std: float | None = None,
    placed: bool = True,
    along: Mapping[str, Coordinate] | None = None,
    steps: tuple[int, int] | None = None,
) -> ObservationTable:
    """Read observations of some `variables` from a CSV file, or from anything that xarray opens.

    `select` chooses one value along further dimensions of a NetCDF file. `std` holds where the file gives none. Rows without a
    value are left out. With `placed` false the rows need no place, because a function gives the observed values. `along` has the
    dimensions that fields have before those of the grid, and `steps` the first and last step of rows that name none. Raises
    ValueError with all mistakes of the file at once.
    """
    path, along = Path(path), along or {}
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"{path}: no such file")
    try:
        frame = read_csv(path) if path.suffix.lower() in SEPARATORS else read_netcdf(path, variables, select or {}, along)
        frame = _by_axis(_long(frame, variables))
        return _table(frame, variables, std, placed, *places_along(frame, along, steps))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _long(frame: pd.DataFrame, variables: Sequence[str]) -> pd.DataFrame:
    """A wide table, with a column for each variable, as one with columns variable and value."""
    frame = frame.rename(columns=lambda name: renamed(str(name)))
    if "value" in frame.columns:
        return frame
    given = [name for name in variables if name in frame.columns]
    if not given:
        return frame
    own = {f"{name}{end}" for name in given for end in ("", "_std", "_units")}
    shared = frame[[name for name in frame.columns if name not in own]]
    parts = []
    for name in given:
        part = shared.assign(variable=name, value=frame[name])
        for end, column in (("_std", "std"), ("_units", "units")):
            if f"{name}{end}" in frame.columns:
                part = part.assign(**{column: frame[f"{name}{end}"]})
        parts.append(part)
    return pd.concat(parts)


def _by_axis(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose positions of atoms, rows with x, y and z, are three rows each, with a column axis."""
    if not {"atoms", *AXES} <= set(frame.columns):
        return frame
    there = frame[list(AXES)].notna().any(axis=1)
    parts = [frame[~there]] if not there.all() else []
    for axis in AXES:
        part = frame[there].assign(value=frame.loc[there, axis], axis=axis)
        parts.append(part.set_index(pd.Index([f"{label} {axis}" for label in part.index])))
    return pd.concat(parts).drop(columns=list(AXES))


def _table(
    frame: pd.DataFrame, variables: Sequence[str], std: float | None, placed: bool,
    along: Mapping[str, np.ndarray], misplaced: Sequence[str],
) -> ObservationTable:  # fmt: skip
    """The columns with their types, rows without a value left out; ValueError with all mistakes of the table."""
    mistakes = list(misplaced)
    if "value" not in frame.columns:
        there = ", ".join(map(str, frame.columns))
        raise ValueError(f"has no column value, nor one named {' or '.join(variables)}; it has {there}")
    if "std" not in frame.columns and std is None:
        mistakes.append("has no column std; give one, or observations.std for all")
    if placed and "variable" not in frame.columns and len(variables) > 1:
        mistakes.append(f"has no column variable, and the model has {', '.join(variables)}")
    kind, absent = _kinds(frame, placed)
    if absent:
        mistakes.append(absent)
    columns: dict[str, np.ndarray] = {"kind": kind, **along}
    for name, default in (("value", np.nan), ("std", std), ("correlation", 0.0), *((name, np.nan) for name in _numeric())):
        columns[name], wrong = _numbers(frame, name, default)
        mistakes += wrong
    columns["variable"] = _texts(frame, "variable", variables[0])
    columns["units"] = _texts(frame, "units", "")
    columns["atoms"] = _texts(frame, "atoms", "")
    if "lead" in frame.columns:
        columns["lead"], wrong = _numbers(frame, "lead", None)
        mistakes += wrong
    columns |= {name: _texts(frame, name, "") for name in ("time", "axis", "average") if name in frame.columns}
    columns["group"] = _groups(frame)
    table = ObservationTable(columns, np.asarray(frame.index, dtype=object))
    table = table.keep(np.isfinite(table["value"]))
    if not mistakes and len(table) == 0:
        mistakes.append("has no row with a value; NaN means missing")
    if not mistakes:
        mistakes += _unusable(table)
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return table


def _numeric() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*PLACES["point"], *CELL, *PLACES["harmonic"])))


def _kinds(frame: pd.DataFrame, placed: bool) -> tuple[np.ndarray, str]:
    """The kind of every row, and the mistake where a row has none or several."""
    if not placed:
        return np.full(len(frame), "function", dtype=object), ""
    if "cell_lat" in frame.columns:
        return np.full(len(frame), "cell", dtype=object), ""
    has = {name: _all_given(frame, columns) for name, columns in PLACES.items()}
    count = sum(found.astype(int) for found in has.values())
    kind = np.select(list(has.values()), list(has), default="").astype(object)
    wrong = (count != 1) & frame["value"].notna().to_numpy()
    if not wrong.any():
        return kind, ""
    ways = "; or ".join(", ".join(columns) for columns in PLACES.values())
    return kind, f"{int(wrong.sum())} rows without exactly one place ({few(list(frame.index[wrong]))}): give {ways}"


def _all_given(frame: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    if not set(columns) <= set(frame.columns):
        return np.zeros(len(frame), dtype=bool)
    given: np.ndarray = frame[list(columns)].notna().all(axis=1).to_numpy()
    return given


def _numbers(frame: pd.DataFrame, name: str, default: float | None) -> tuple[np.ndarray, list[str]]:
    if name not in frame.columns:
        return np.full(len(frame), np.nan if default is None else default, dtype=np.float64), []
    numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.isnan(numbers) & frame[name].notna().to_numpy()
    first = few([f"{frame[name].iloc[i]!r} in {frame.index[i]}" for i in np.flatnonzero(wrong)], 3)
    filled = numbers if default is None or name == "value" else np.where(np.isnan(numbers), default, numbers)
    return filled, [f"{name}: {int(wrong.sum())} entries are no numbers ({first})"] if wrong.any() else []


def _texts(frame: pd.DataFrame, name: str, default: str) -> np.ndarray:
    if name not in frame.columns:
        return np.full(len(frame), default, dtype=object)
    return np.array([default if pd.isna(text) else str(text).strip() for text in frame[name]], dtype=object)


def _groups(frame: pd.DataFrame) -> np.ndarray:
    """Groups of correlated errors as numbers, -1 for none."""
    if "group" not in frame.columns:
        return np.full(len(frame), -1, dtype=np.int64)
    codes, _ = pd.factorize(frame["group"], sort=True)
    return np.asarray(codes, dtype=np.int64)


def _unusable(table: ObservationTable) -> list[str]:
    """The mistakes in errors and correlations."""
    std, correlation, group = table["std"], table["correlation"], table["group"]
    checks = {
        "std must be a positive number": ~(np.isfinite(std) & (std > 0)),
        "value must be finite": ~np.isfinite(table["value"]),
        "correlation must be at least 0 and below 1": ~((correlation >= 0) & (correlation < 1)),
        "a correlation needs a group": (correlation > 0) & (group < 0),
    }
    mistakes = [f"{text}: {table.of_mistake(wrong)}" for text, wrong in checks.items() if wrong.any()]
    for number in np.unique(group[group >= 0]):
        if np.ptp(correlation[group == number]) > 0:
            mistakes.append(f"one correlation a group: {table.of_mistake(group == number)} have several")
    return mistakes
