"""Cells along one dimension, of HEALPix or any other mesh: their positions, and reordering them like those of other files."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.spatial import KDTree

from ..schema.layout import Coordinate
from .grids import DEGREES, RADIANS, SAME, kind_of
from .healpix import healpix_of


def settled_cells(dataset: xr.Dataset, fields: xr.Dataset, dim: str) -> tuple[xr.Dataset, list[str]]:
    """The chosen `fields` of a `dataset` with a latitude and a longitude in degrees for every cell along `dim`.

    Both are coordinates of the file, or else those of the HEALPix cells that it describes. Also returns a line for each
    correction. Raises ValueError for cells whose position is unknown or impossible.
    """
    found = angles_along(dataset, dim)
    if len(found) < 2:
        return _of_healpix(dataset, fields, dim)
    notes = []
    for kind, array in found.items():
        values, attrs = array.values.astype(np.float64), dict(array.attrs)
        if str(attrs.get("units", "")).lower() in RADIANS:
            values, attrs = np.rad2deg(values), attrs | {"units": DEGREES[kind]}
            notes.append(f"{array.name} converted from radians to degrees")
        limit = 90.0 if kind == "latitude" else 360.0
        if not bool((np.abs(values) <= limit + SAME).all()):
            raise ValueError(
                f"{array.name} has values that are not degrees between {-limit:g} and {limit:g}; correct them in the file"
            )
        fields = fields.assign_coords({array.name: (dim, values, {"standard_name": kind, "units": DEGREES[kind]} | attrs)})
    return fields, notes


def angles_along(dataset: xr.Dataset, dim: str) -> dict[str, xr.DataArray]:
    """The arrays of latitude and of longitude along a dimension, those that a dataset has, by kind."""
    found: dict[str, xr.DataArray] = {}
    for name, array in dataset.variables.items():
        kind = kind_of(str(name), array.attrs)
        if array.dims == (dim,) and name != dim and kind in DEGREES and array.dtype.kind in "fiu":
            found.setdefault(kind, dataset[name])
    return {kind: found[kind] for kind in DEGREES if kind in found}


def _of_healpix(dataset: xr.Dataset, fields: xr.Dataset, dim: str) -> tuple[xr.Dataset, list[str]]:
    size = fields.sizes[dim]
    grid = healpix_of(dataset, dim)
    if grid is None:
        side = math.isqrt(size // 12)
        guess = f"; {size} is the number of cells of HEALPix with nside {side}" if 12 * side**2 == size else ""
        raise ValueError(
            f"cells along {dim!r} need coordinates with their latitude and longitude, which the file lacks{guess}; add them, "
            "or, for HEALPix, the attributes healpix_nside and healpix_order ('nested' or 'ring') to its variables"
        )
    numbers = fields[dim].values if dim in fields.coords else np.arange(size)
    angles = grid.angles(numbers)
    for (kind, units), values in zip(DEGREES.items(), angles, strict=True):
        name = {"latitude": "lat", "longitude": "lon"}[kind]
        fields = fields.assign_coords({name: (dim, values, {"standard_name": kind, "long_name": kind, "units": units})})
    return fields, [f"lat and lon are those of HEALPix, nside {grid.nside}, {'nested' if grid.nested else 'in rings'}"]


def aligned_cells(fields: xr.Dataset, dim: str, wanted: Mapping[str, Coordinate]) -> tuple[xr.Dataset, list[str]]:
    """Fields with their cells in the order of the `wanted` coordinates, matched by position.

    Also returns a line for each change. Raises ValueError if the file lacks some of the cells.
    """
    there = {
        kind_of(name, c.attrs): c.values.astype(np.float64) for name, c in wanted.items() if c.dims == (dim,) and name != dim
    }
    own = angles_along(fields, dim)
    distance, nearest = KDTree(on_globe(own["latitude"].values, own["longitude"].values)).query(
        on_globe(there["latitude"], there["longitude"])
    )
    count = len(nearest)
    if len(np.unique(nearest)) < count or not bool((distance <= np.deg2rad(SAME)).all()):
        apart = int((distance > np.deg2rad(SAME)).sum())
        raise ValueError(
            f"{apart} of the grid's {count} cells are not among its {fields.sizes[dim]}; bring the file to that grid first "
            "(cdo remap, xESMF)"
        )
    if np.array_equal(nearest, np.arange(fields.sizes[dim])):
        return fields, []
    return fields.isel({dim: nearest}), [f"{dim} reordered like the grid, {count} of {fields.sizes[dim]}"]


def on_globe(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Points [n, 3] on a sphere of radius one."""
    y, x = np.deg2rad(lat.astype(np.float64)), np.deg2rad(lon.astype(np.float64))
    return np.column_stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])
