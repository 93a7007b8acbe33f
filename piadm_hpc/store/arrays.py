"""Small files of named arrays that belong to a model: HDF5 with dimension names, readable as NetCDF-4."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate
from .shard import UNREADABLE, first_line, open_file, require_own_data


def write_arrays(path: Path, arrays: Mapping[str, Coordinate], attrs: Mapping[str, str] | None = None) -> None:
    """Write arrays with their dimensions and attributes as one HDF5 file, which appears whole or not at all.

    An array named like its only dimension becomes that dimension's coordinate. Booleans are stored as bytes 0 and 1.
    """
    dataset = xr.Dataset(attrs=dict(attrs or {}))
    for name, array in arrays.items():
        values = np.asarray(array.values)
        stored = values.astype(np.int8) if values.dtype == bool else values
        dataset[name] = xr.Variable(array.dims, stored, dict(array.attrs))
    packed = {"zlib": True, "complevel": 4, "shuffle": True}
    encoding = {name: {"_FillValue": None, **(packed if np.ndim(array.values) else {})} for name, array in arrays.items()}
    partial = path.with_name(f".{path.name}.partial")
    dataset.to_netcdf(partial, engine="h5netcdf", encoding=encoding)
    os.replace(partial, path)


def read_arrays(path: Path) -> tuple[dict[str, Coordinate], dict[str, str]]:
    """Read the arrays of such a file and its attributes.

    Raises ValueError that names the file when it is missing, is of another kind, or leads to data in other files.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with open_file(path) as file:
            require_own_data(file)
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False, mask_and_scale=False) as dataset:
            loaded = dataset.load()
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable HDF5 file with named dimensions ({first_line(error)})") from None
    arrays = {
        str(name): Coordinate(tuple(map(str, v.dims)), np.asarray(v.values), {str(k): a for k, a in v.attrs.items()})
        for name, v in loaded.variables.items()
    }
    return arrays, {str(k): str(v) for k, v in loaded.attrs.items()}


def require_replaceable(path: Path, option: str, titles: tuple[str, ...]) -> None:
    """Raise ValueError, naming the option, for anything at `path` but such a file whose title begins with one of these."""
    if not path.exists():
        return
    with suppress(ValueError):
        if read_arrays(path)[1].get("title", "").startswith(titles):
            return
    raise ValueError(f"{option} {path}: something else is there already; remove it, or give another name")
