"""Interpolation of fields to another grid of rows and columns, by xarray, if a recipe asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate
from .grids import kind_of

Method = Literal["linear", "nearest"]


def regridded(fields: xr.Dataset, grid: Mapping[str, Coordinate], method: Method) -> tuple[xr.Dataset, list[str]]:
    """Fields interpolated to the rows and columns of `grid`, across the date line if longitudes are global; and a note.

    Rows up to one step beyond the file's get the values of its edge, as at the poles. Raises ValueError for a grid that reaches
    farther than the file. A point near a missing one is missing.
    """
    own = {dim: fields[dim].values.astype(np.float64) for dim in grid}
    wanted, mistakes = {}, []
    for dim, coordinate in grid.items():
        values = coordinate.values.astype(np.float64)
        step = float(np.abs(np.diff(own[dim])).max(initial=0))
        if kind_of(dim, coordinate.attrs) == "longitude" and np.ptp(own[dim]) + 1.5 * step > 360:
            fields = _round(fields, dim)
            low = float(fields[dim].values.min())
            wanted[dim] = low + (values - low) % 360
            continue
        low, high, least, most = np.min(own[dim]), np.max(own[dim]), np.min(values), np.max(values)
        if least < low - step or most > high + step:
            mistakes.append(f"its {dim} reaches from {low:g} to {high:g}, the grid's from {least:g} to {most:g}")
        wanted[dim] = values.clip(low, high)
    if mistakes:
        raise ValueError(f"{'; '.join(mistakes)}; regrid interpolates within the file alone")
    found = fields.interp({dim: xr.DataArray(values, dims=dim) for dim, values in wanted.items()}, method=method)
    found = found.assign_coords({dim: (dim, c.values, fields[dim].attrs) for dim, c in grid.items()})
    sizes = " x ".join(str(len(values)) for values in own.values())
    return found, [f"interpolated ({method}) from {sizes} points to {' x '.join(str(len(c.values)) for c in grid.values())}"]


def _round(fields: xr.Dataset, lon: str) -> xr.Dataset:
    """Fields with their last column before the first, and their first after the last."""
    fields = fields.sortby(lon)
    values = fields[lon].values.astype(np.float64)
    before, after = fields.isel({lon: [-1]}), fields.isel({lon: [0]})
    before = before.assign_coords({lon: [values[-1] - 360]})
    after = after.assign_coords({lon: [values[0] + 360]})
    return xr.concat([before, fields, after], lon, data_vars="minimal", coords="minimal", compat="override", join="override")
