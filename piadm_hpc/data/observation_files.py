"""Rows of observations from files: CSV, tables in NetCDF, and fields over latitude and longitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..schema.layout import STEP, Coordinate
from .gridded_files import open_fields
from .grids import kind_of
from .observation_steps import columns_along
from .selection import Choice, selected
from .units import converted, same_units, units_of

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": r"\s+"}
"""The separator of the columns of a table, by the ending of its name."""

OTHER_NAMES = {"latitude": "lat", "longitude": "lon", "error": "std", "sigma": "std", "uncertainty": "std"}


def renamed(name: str) -> str:
    """Return the name of a column in its canonical form."""
    plain = name.strip()
    return OTHER_NAMES.get(plain.lower(), plain)


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file with labelled rows; ValueError for a file that is not a table."""
    try:
        frame = pd.read_csv(path, comment="#", sep=SEPARATORS[path.suffix.lower()], skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"cannot be read as a table ({str(error).splitlines()[0]})") from None
    frame.index = pd.Index([f"row {number + 1}" for number in range(len(frame))])
    return frame


def read_netcdf(
    path: Path, variables: Sequence[str], select: Mapping[str, Choice], along: Mapping[str, Coordinate]
) -> pd.DataFrame:
    """Read fields of some variables cell by cell, or a table along one dimension; ValueError for a file that has neither.

    Fields may have the dimensions `along`, or others along which the file says which steps or levels they are.
    """
    with open_fields(path) as dataset:
        found, wrong = selected(dataset, {dim: value for dim, value in select.items() if dim in dataset.dims}, ())
        if wrong:
            raise ValueError("; ".join(wrong))
        fields = [name for name in variables if name in found.data_vars and _horizontal(found[name]) is not None]
        return _of_fields(found, fields, along) if fields else _of_rows(found, variables)


def _horizontal(array: xr.DataArray) -> tuple[str, str] | None:
    """The dimensions of latitude and longitude, or of any two lengths, that an array has coordinates along."""
    kinds = {kind_of(str(dim), array[dim].attrs): str(dim) for dim in array.dims if dim in array.coords}
    if "latitude" in kinds and "longitude" in kinds:
        return kinds["latitude"], kinds["longitude"]
    lengths = [str(dim) for dim in array.dims if dim in array.coords and kind_of(str(dim), array[dim].attrs) == "length"]
    return (lengths[0], lengths[1]) if len(lengths) == 2 else None


def _of_rows(dataset: xr.Dataset, variables: Sequence[str]) -> pd.DataFrame:
    """A table stored as variables along one dimension."""
    columns = {str(name): array for name, array in dataset.variables.items() if array.ndim == 1}
    sizes = {len(array) for name, array in columns.items() if renamed(name) in ("value", *variables)}
    if len(sizes) != 1:
        listed = ", ".join(f"{name} over {' x '.join(map(str, array.dims))}" for name, array in dataset.variables.items())
        raise ValueError(
            f"holds neither fields of {', '.join(variables)} nor a table with value, variable, lat and lon along one dimension; "
            f"it has {listed or 'nothing'}"
        )
    count = sizes.pop()
    data: dict[str, Any] = {name: np.asarray(array.values) for name, array in columns.items() if len(array) == count}
    data |= {f"{name}_units": [str(columns[name].attrs["units"])] * count for name in variables if _has_units(columns.get(name))}
    if "units" not in data and _has_units(columns.get("value")):
        data["units"] = [str(columns["value"].attrs["units"])] * count
    frame = pd.DataFrame({name: [_text(v) for v in values] for name, values in data.items()})
    frame.index = pd.Index([f"entry {number}" for number in range(count)])
    return frame


def _has_units(array: Any) -> bool:
    return array is not None and "units" in array.attrs


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _of_fields(dataset: xr.Dataset, names: Sequence[str], along: Mapping[str, Coordinate]) -> pd.DataFrame:
    """Every value of some fields as a row, with its place, the bounds of its cell, and its step and level."""
    parts = []
    for name in names:
        array, dims = dataset[name], _horizontal(dataset[name])
        assert dims is not None
        array, named = _placed_along(dataset, array, dims, along)
        order = [*(str(dim) for dim in array.dims if dim not in dims), *dims]
        array = array.transpose(*order)
        lat, lon = (array[dim].values.astype(np.float64) for dim in dims)
        polar = kind_of(dims[0], array[dims[0]].attrs) == "latitude"
        edges = cell_edges(lat, (-90.0, 90.0) if polar else None), cell_edges(lon, None)
        places = [part.ravel() for part in np.indices(array.shape)]
        rows, columns = places[-2:]
        data: dict[str, Any] = {
            "variable": name, "value": array.values.astype(np.float64).ravel(),
            "cell_lat": lat[rows], "cell_lon": lon[columns],
            "south": edges[0].min(1)[rows], "north": edges[0].max(1)[rows],
            "west": edges[1].min(1)[columns], "east": edges[1].max(1)[columns],
        }  # fmt: skip
        data |= {column: _spread(values, array) for column, values in named.items()}
        if f"{name}_std" in dataset:
            data["std"] = _spread(dataset[f"{name}_std"].squeeze(drop=True), array).astype(np.float64)
        if "units" in array.attrs:
            data["units"] = str(array.attrs["units"])
        frame = pd.DataFrame(data)
        frame.index = pd.Index([f"{name}[{', '.join(map(str, place))}]" for place in zip(*places, strict=True)])
        parts.append(frame[np.isfinite(frame["value"])])
    return pd.concat(parts)


def _placed_along(
    dataset: xr.Dataset, array: xr.DataArray, dims: tuple[str, str], along: Mapping[str, Coordinate]
) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """A field without dimensions of one value, and what says which step and level each value of it is, by column.

    Raises ValueError for a dimension that nothing describes, and for levels in units that do not convert.
    """
    if STEP in array.dims and STEP in along and STEP not in array.coords:
        array = array.assign_coords({STEP: np.arange(array.sizes[STEP])})
    array = array.squeeze([dim for dim in array.dims if dim not in dims and array.sizes[dim] == 1])
    found = {name: array.coords[name] if name in array.coords else dataset.get(name) for name in columns_along(along)}
    named = {name: c for name, c in found.items() if c is not None and set(c.dims) <= set(array.dims) - set(dims)}
    known = {dim for c in named.values() for dim in c.dims}
    further = [f"{dim} of {array.sizes[dim]} values" for dim in array.dims if dim not in dims and dim not in known]
    if further:
        raise ValueError(f"{array.name} has a dimension {', '.join(further)}; choose one with observations.select")
    return array, {name: _in_units(c, along.get(name)) for name, c in named.items()}


def _in_units(values: xr.DataArray, wanted: Coordinate | None) -> xr.DataArray:
    """Levels in the units of the model's."""
    given, units = units_of(values.attrs), None if wanted is None else units_of(wanted.attrs)
    if given is None or units is None or same_units(given, units):
        return values
    try:
        return values.copy(data=converted(values.values, given, units))
    except ValueError as error:
        raise ValueError(f"{values.name} {error}") from None


def _spread(values: xr.DataArray, array: xr.DataArray) -> np.ndarray:
    """Values along some dimensions of an array for each of its entries, in order."""
    bare, like = (one.drop_vars(list(one.coords)) for one in (values, array))
    return np.asarray(bare.broadcast_like(like).transpose(*array.dims).values).ravel()


def cell_edges(centres: np.ndarray, ends: tuple[float, float] | None) -> np.ndarray:
    """Return both edges of every cell, [n, 2]: half way between neighbours, and within `ends`."""
    if len(centres) < 2:
        raise ValueError("a field of one row or column has no cells; give its observations as a table")
    middle = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
    edges = edges if ends is None else edges.clip(*ends)
    return np.stack([edges[:-1], edges[1:]], axis=1)
