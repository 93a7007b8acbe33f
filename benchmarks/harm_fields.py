"""Damage done to gridded files and to tables, for benchmarks/given.py: defects that files of other programs may have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from harm import harmed

Change = Callable[[Random, xr.Dataset, str], xr.Dataset]

ODD_ATTRIBUTES: list[Any] = ["", "K", "degC", "m s-1", "not a unit", "1", 0, -1, 3.5, np.nan, np.array([0.0, 1.0]), "é" * 40]
ODD_ATTRIBUTES += ["days since 2000-01-01", "months since 0000-00-00", "degrees_north", "time: mean", "a\nb", "anomaly"]
ATTRIBUTES = ["units", "standard_name", "long_name", "cell_methods", "valid_min", "valid_max", "valid_range", "missing_value"]
ATTRIBUTES += [
    "scale_factor",
    "add_offset",
    "calendar",
    "bounds",
    "coordinates",
    "positive",
    "_FillValue",
    "dtype",
    "flag_values",
]
ODD_CELLS: list[Any] = [np.nan, np.inf, 1e20, 9.96921e36, -9999, -999, 0, 1e-300, -1e300]
NAMES = ["tas", "before", "forcing", "kind", "month", "lat", "lon", "time", "x", "", "a b", "realization", "é"]
TYPES = ["f8", "i2", "i8", "u1", "S4", "U4", "bool", "complex64", "datetime64[ns]", "f2"]
CALENDARS = ["noleap", "360_day", "julian", "standard"]


def harm_fields(dice: Random, dataset: xr.Dataset) -> xr.Dataset:
    """One to three changes of a dataset: of names, dimensions, coordinates, types, values and attributes."""
    for _ in range(dice.choice([0, 1, 1, 2, 3])):
        change = dice.choice(CHANGES)
        names = sorted(map(str, dataset.variables))
        # not every change fits every dataset
        with contextlib.suppress(Exception):
            dataset = change(dice, dataset, dice.choice(names))
    return dataset


def write_fields(dice: Random, dataset: xr.Dataset, path: Path) -> Path:
    """Write a dataset as NetCDF-4, NetCDF-3 or Zarr, now and then with damaged bytes; return its path."""
    kind = dice.choice(["netcdf4", "netcdf4", "netcdf3", "zarr"])
    where = path.with_suffix(".zarr" if kind == "zarr" else ".nc")
    try:
        if kind == "zarr":
            dataset.to_zarr(where)
        else:
            dataset.to_netcdf(where, engine="scipy" if kind == "netcdf3" else "h5netcdf")
    except Exception:  # a format that cannot store it
        path.with_suffix(".nc").write_bytes(dice.randbytes(100))
        return path.with_suffix(".nc")
    if dice.random() < 0.15:
        files = sorted(part for part in [where, *where.rglob("*")] if part.is_file())
        chosen = dice.choice(files)
        chosen.write_bytes(harmed(dice, chosen.read_bytes()))
    return where


def _values(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Odd numbers in a few places or in all."""
    array = dataset[name].astype("f8")
    values = array.values.copy()
    if values.size:
        places = slice(None) if dice.random() < 0.3 else dice.sample(range(values.size), min(values.size, dice.choice([1, 5])))
        values.reshape(-1)[places] = dice.choice(ODD_CELLS)
    return dataset.assign({name: (array.dims, values, array.attrs)})


def _scaled(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Numbers in other units than their attribute states, or with the opposite sign or order."""
    array = dataset[name]
    changed: xr.DataArray = dice.choice([array * 1e6, array - 273.15, np.deg2rad(array), -array, array * 0, array[::-1]])
    return dataset.assign({name: (array.dims, changed.values, array.attrs)})


def _type(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    array = dataset[name]
    return dataset.assign({name: (array.dims, array.values.astype(dice.choice(TYPES)), array.attrs)})


def _attribute(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    changed = dataset.copy()
    changed[name].attrs[dice.choice(ATTRIBUTES)] = dice.choice(ODD_ATTRIBUTES)
    return changed


def _name(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    return dataset.rename({name: dice.choice(NAMES)})


def _lost(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    return dataset.drop_vars(name)


def _part(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    """No entry, one or a few along a dimension, or entries in another order or repeated."""
    dim = dice.choice(sorted(map(str, dataset.sizes)))
    size = dataset.sizes[dim]
    kept = dice.choice([[], [0], [0, 1], list(range(size))[::-1], [0] * size, list(range(size - 1)), [0, *range(size)]])
    return dataset.isel({dim: kept})


def _dimensions(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Dimensions in another order, one added or one removed."""
    how = dice.randrange(4)
    if how == 0:
        return dataset.transpose(*dice.sample(list(dataset.sizes), len(dataset.sizes)))
    if how == 1:
        return dataset.expand_dims({dice.choice(["level", "realization", "x", "member"]): dice.choice([1, 2])})
    if how == 2:
        return dataset.mean(dice.choice(sorted(map(str, dataset.sizes))), numeric_only=True)
    return dataset.rename({dice.choice(sorted(map(str, dataset.sizes))): dice.choice(NAMES)})


def _curvilinear(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Two-dimensional coordinates."""
    lat, lon = xr.broadcast(dataset["lat"], dataset["lon"])
    found = dataset.rename({"lat": "y", "lon": "x"}).drop_vars(["y", "x"])
    return found.assign_coords(lat=(("y", "x"), lat.values), lon=(("y", "x"), lon.values))


def _dates(dice: Random, dataset: xr.Dataset, name: str) -> xr.Dataset:
    """Dates of another calendar, one missing or one repeated."""
    count = dataset.sizes["time"]
    if dice.random() < 0.5:
        times = xr.date_range("0001-01-01", periods=count, freq="MS", calendar=dice.choice(CALENDARS), use_cftime=True)
        return dataset.assign_coords(time=times)
    times = dataset["time"].values.copy()
    times[dice.randrange(count)] = dice.choice([np.datetime64("NaT"), times[0]])
    return dataset.assign_coords(time=times)


CHANGES: list[Change] = [_values, _values, _scaled, _type, _attribute, _attribute, _name, _lost, _part, _dimensions, _dimensions]
CHANGES += [_curvilinear, _dates]

ODD_WORDS: list[Any] = [
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "x",
    "90.1",
    "-181",
    "361",
    "2000-13-01",
    "é",
    '"',
    "K",
    "degC",
    "m",
]
ODD_WORDS += ["tas", "psl", None, 1e20, "1,5", "mean", "box", "group 1", "TRUE", "#", "'; --", "\x00"]
COLUMNS = ["lat", "lon", "value", "std", "units", "variable", "south", "north", "west", "east", "group", "correlation"]
COLUMNS += ["latitude", "degree", "order", "atoms", "kind", "x", "", "date", "time", "cell_lat"]


def harm_table(dice: Random, table: pd.DataFrame) -> pd.DataFrame:
    """One to four changes of a table: of single cells, whole columns, names, and rows."""
    table = table.astype(object)
    for _ in range(dice.choice([0, 1, 1, 2, 4])):
        if table.shape[1] == 0:
            break
        column, how = dice.randrange(table.shape[1]), dice.randrange(6)
        if how == 0 and len(table):
            table.iloc[dice.randrange(len(table)), column] = dice.choice(ODD_WORDS)
        elif how == 1:
            table.isetitem(column, [dice.choice(ODD_WORDS)] * len(table))
        elif how == 2:
            table.columns = pd.Index([dice.choice(COLUMNS) if k == column else name for k, name in enumerate(table.columns)])
        elif how == 3:
            table.insert(0, dice.choice(COLUMNS), dice.choice(ODD_WORDS), allow_duplicates=True)
        elif how == 4:
            table = table.iloc[:, [k for k in range(table.shape[1]) if k != column]]
        else:
            table = table.iloc[dice.choice([[], [0], [0, 0], list(range(len(table)))[::-1]]) if len(table) else []]
    return table
