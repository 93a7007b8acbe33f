"""Horizontal grids as files describe them: radians, latitudes past the pole, cyclic points, two-dimensional coordinates.

Mistakes that can be corrected in only one way are corrected, with a line for the log; all others are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate
from .meridians import SAME, round_the_globe
from .mistakes import few

OVERSHOOT = 0.01
"""Degrees by which rounding may carry a latitude past the pole."""

KINDS = {
    "latitude": ({"latitude", "grid_latitude"}, {"lat", "lats", "latitude", "latitudes", "nav_lat", "rlat", "tlat", "ylat"}),
    "longitude": ({"longitude", "grid_longitude"}, {"lon", "lons", "longitude", "longitudes", "nav_lon", "rlon", "tlon", "xlon"}),
}
"""Standard names, and usual names, of the angles of a grid."""

LENGTHS = {"m", "km", "metre", "metres", "meter", "meters", "kilometre", "kilometres", "kilometer", "kilometers"}
RADIANS = {"radian", "radians", "rad"}
DEGREES = {"latitude": "degrees_north", "longitude": "degrees_east"}
UNITS = {
    f"{degree}{join}{side}": kind
    for degree in ("degree", "degrees")
    for join in ("_", "")
    for sides, kind in ((("north", "N"), "latitude"), (("east", "E"), "longitude"))
    for side in sides
}
"""Units that identify the angle by themselves (CF sections 4.1 and 4.2)."""


def kind_of(name: str, attrs: Mapping[Any, Any]) -> str | None:
    """What a coordinate is by its attributes or its usual name: "latitude", "longitude", "length", or None.

    A usual name does not count for numbers in units of "1", such as the index along a dimension without a coordinate.
    """
    units = str(attrs.get("units", ""))
    if units in UNITS:
        return UNITS[units]
    if units.lower() in LENGTHS:
        return "length"
    for kind, (standard, usual) in KINDS.items():
        if attrs.get("standard_name") in standard or ("standard_name" not in attrs and units != "1" and name.lower() in usual):
            return kind
    return None


def settled(dataset: xr.Dataset, variables: xr.Dataset, dims: tuple[str, str]) -> tuple[xr.Dataset, list[str]]:
    """The chosen `variables` of a `dataset` with one coordinate in degrees along both `dims`, in order around the globe.

    Also returns a line for each correction. Raises ValueError that lists what could not be corrected.
    """
    fields, notes = _with_coordinates(dataset, variables, dims)
    kinds = [kind_of(dim, fields[dim].attrs) if dim in fields.coords else None for dim in dims]
    if kinds[0] == "longitude" or kinds[1] == "latitude":
        raise ValueError(f"spatial_dims are {list(dims)}, and {dims[1]!r} is the latitude; give latitude first, then longitude")
    mistakes = [_bad_values(dim, fields[dim].values) for dim in dims if dim in fields.coords]
    if kinds == ["latitude", "longitude"]:
        mistakes += [_bad_units(dim, fields[dim].attrs, kind) for dim, kind in zip(dims, DEGREES, strict=True)]
    if any(mistakes):
        raise ValueError("; ".join(filter(None, mistakes)))
    if kinds == ["latitude", "longitude"]:
        notes += _indices(fields, dims)
        for mend in (_degrees, _poles, round_the_globe):
            fields, note = mend(fields, *dims)
            notes += note
    unordered = [dim for dim in dims if dim in fields.coords and not _steady(fields[dim].values)]
    if unordered:
        raise ValueError(f"the values of {' and '.join(unordered)} do not rise or fall steadily; sort the file by them")
    return fields, notes


def _with_coordinates(dataset: xr.Dataset, variables: xr.Dataset, dims: tuple[str, str]) -> tuple[xr.Dataset, list[str]]:
    """The variables with a coordinate named like each dimension, made from auxiliary coordinates if it has no useful one."""
    known = {dim for dim in dims if dim in variables.coords and kind_of(dim, variables[dim].attrs) is not None}
    if len(known) == 2:
        return variables, []
    found = _angles(dataset, dims)
    if len(found) < 2:
        return variables, []
    lines = []
    for dim, kind, (name, array) in zip(dims, KINDS, found.items(), strict=True):
        values = _along(array, dim)
        if values is None:
            other = ", ".join(found)
            raise ValueError(
                f"{other} are two-dimensional, and rows of {dims[0]!r} are not circles of latitude; "
                "bring the file to a regular grid first (cdo remapbil, xESMF)"
            )
        attrs = {"standard_name": kind, "units": DEGREES[kind]} | array.attrs
        variables = variables.assign_coords({dim: (dim, values, attrs)})
        lines.append(f"{dim} is given by {name}")
    return variables, ["; ".join(lines)]


def _angles(dataset: xr.Dataset, dims: tuple[str, str]) -> dict[str, xr.DataArray]:
    """Latitude and longitude of a dataset along these dimensions, whatever their names."""
    found: dict[str, xr.DataArray] = {}
    for kind in KINDS:
        for name, array in dataset.variables.items():
            if array.ndim in (1, 2) and set(array.dims) <= set(dims) and kind_of(str(name), array.attrs) == kind:
                found[str(name)] = dataset[name]
                break
    return found


def _along(array: xr.DataArray, dim: str) -> np.ndarray | None:
    """The values of a coordinate along one dimension, or None if they change along the other too."""
    if dim not in array.dims:
        return None
    values = array.transpose(dim, ...).values.reshape(array.sizes[dim], -1).astype(np.float64)
    low, high = reduce(np.fmin, values.T), reduce(np.fmax, values.T)  # points of land may have no angles
    return None if (high - low > SAME).any() else low


def _bad_values(dim: str, values: np.ndarray) -> str | None:
    if values.dtype.kind not in "fiu":
        return f"{dim} holds {values.dtype}, not numbers"
    bad = np.flatnonzero(~np.isfinite(values))
    if not len(bad):
        return None
    return f"{dim} has {len(bad)} values that are not finite, at positions {few(bad.tolist(), 5)}; correct them in the file"


def _bad_units(dim: str, attrs: Mapping[Any, Any], kind: str) -> str | None:
    """What is wrong with the units of an angle; CF's and those that are common are fine, and none, which are degrees."""
    units = str(attrs.get("units", "")).lower().strip()
    degrees = units.startswith(("deg", "\N{DEGREE SIGN}")) and not units.endswith(("west", "south", "_w", "_s"))
    if degrees or units in RADIANS | {"", "1", "none"}:
        return None
    return f"{dim} is in {attrs['units']!r}; put it into {DEGREES[kind]} or radians"


def _indices(fields: xr.Dataset, dims: tuple[str, str]) -> list[str]:
    """A note if angles look like the numbers of rows and columns."""
    described = any(attr in fields[dim].attrs for dim in dims for attr in ("units", "standard_name"))
    if described or not all(np.array_equal(fields[dim].values, np.arange(fields.sizes[dim])) for dim in dims):
        return []
    return [f"{dims[0]} and {dims[1]} count from 0 and name no units; taken as degrees, and areas are those of such a region"]


def _degrees(fields: xr.Dataset, lat: str, lon: str) -> tuple[xr.Dataset, list[str]]:
    """Convert angles from radians to degrees: by their units, or if they cover a globe in radians whatever the units."""
    length = np.ptp(fields[lon].values)
    whole = np.abs(fields[lat].values).max() <= np.pi / 2 + 1e-3 and 0.9 * 2 * np.pi < length < 2 * np.pi + 1e-3
    step = length / max(fields.sizes[lon] - 1, 1)
    closed = (
        whole and np.ptp(fields[lat].values) > 0.8 * np.pi and np.isclose([length, length + step], 2 * np.pi, atol=1e-3).any()
    )
    in_radians = [dim for dim in (lat, lon) if closed or _in_radians(fields[dim], whole)]
    for dim in in_radians:
        attrs = fields[dim].attrs | {"units": DEGREES["latitude" if dim == lat else "longitude"]}
        fields = fields.assign_coords({dim: (dim, np.rad2deg(fields[dim].values), attrs)})
    return fields, [f"{' and '.join(in_radians)} converted from radians to degrees"] if in_radians else []


def _in_radians(coordinate: xr.DataArray, whole: bool) -> bool:
    units = str(coordinate.attrs.get("units", "")).lower()
    return units in RADIANS or (not units and whole)


def _poles(fields: xr.Dataset, lat: str, lon: str) -> tuple[xr.Dataset, list[str]]:
    values = fields[lat].values
    past = float(np.abs(values).max()) - 90
    if past <= 0:
        return fields, []
    if past > OVERSHOOT:
        raise ValueError(f"{lat} reaches from {values.min():g} to {values.max():g}; latitudes end at -90 and 90 degrees")
    clipped = (lat, values.clip(-90, 90), fields[lat].attrs)
    return fields.assign_coords({lat: clipped}), [f"{lat} reaches past the pole by {past:.2g} degrees; set to 90"]


def _steady(values: np.ndarray) -> bool:
    steps = np.diff(values)
    return bool((steps > 0).all() or (steps < 0).all())


def aligned(fields: xr.Dataset, grid: Mapping[str, Coordinate], *, part: bool = False) -> tuple[xr.Dataset, list[str]]:
    """Fields with the rows and columns of `grid`: flipped, shifted to another first meridian, with `part` also cut out.

    Also returns a line for each change. Raises ValueError if the file lacks some of the grid's points.
    """
    places, notes, mistakes = {}, [], []
    for dim, coordinate in grid.items():
        own = _coordinate_values(fields, dim)
        found = _positions(own, coordinate.values, kind_of(dim, coordinate.attrs) == "longitude")
        if found is None or (len(own) != len(found) and not part):
            wanted = f"{len(coordinate.values)} values, {coordinate.values[0]:g} to {coordinate.values[-1]:g}"
            mistakes.append(
                f"its {dim} ({len(own)} values) differs from the grid's ({wanted}); nothing is regridded here: bring the file to "
                'that grid first (cdo remapbil, xESMF), or have a recipe interpolate its files (data.regrid = "linear")'
            )
        elif not np.array_equal(found, np.arange(len(own))):
            places[dim] = found
            notes.append(f"{dim} reordered like the grid" + (f", {len(found)} of {len(own)}" * (len(own) != len(found))))
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return fields.isel(places), notes


def _coordinate_values(fields: xr.Dataset, dim: str) -> np.ndarray:
    return fields[dim].values.astype(np.float64) if dim in fields.coords else np.arange(fields.sizes[dim], dtype=np.float64)


def _positions(own: np.ndarray, wanted: np.ndarray, meridians: bool) -> np.ndarray | None:
    """The position of every wanted value among those of a file, or None if one is absent."""
    apart = own[None] - wanted[:, None]
    apart = np.abs((apart + 180) % 360 - 180 if meridians else apart)
    nearest = apart.argmin(1)
    return nearest if (apart[np.arange(len(wanted)), nearest] <= SAME).all() else None


def geographic(grid: Mapping[str, Coordinate]) -> bool:
    """Whether the axes of a grid are latitude and longitude."""
    return [kind_of(dim, coordinate.attrs) for dim, coordinate in grid.items()] == ["latitude", "longitude"]


def why_not_global(latitudes: np.ndarray, longitudes: np.ndarray | None = None) -> str | None:
    """The reason why rows at these degrees do not reach from pole to pole, or columns not around the globe; None if they do."""
    rows = np.sort(np.asarray(latitudes, dtype=np.float64))
    if np.abs(rows).max() > 90:
        return f"latitudes reach from {rows[0]:g} to {rows[-1]:g}"
    step = np.diff(rows).max(initial=0.0) * (1 + SAME)
    if 90 - rows[-1] > step or rows[0] + 90 > step:
        return f"rows reach from {rows[0]:g} to {rows[-1]:g} degrees, not from pole to pole"
    if longitudes is None:
        return None
    columns = np.asarray(longitudes, dtype=np.float64)
    steps = np.diff(columns)
    if not np.allclose(steps, 360 / len(columns), rtol=0, atol=max(SAME, 0.01 * 360 / len(columns))):
        return f"{len(columns)} columns reach from {columns[0]:g} to {columns[-1]:g} degrees, not evenly once round the globe"
    return None


def row_shares(dim: str, values: np.ndarray, attrs: Mapping[Any, Any]) -> np.ndarray:
    """The share of the area in each row of a grid, summing to one: cos(latitude) for latitudes, equal for anything else."""
    latitude = kind_of(dim, attrs) == "latitude"
    area = np.cos(np.deg2rad(values)).clip(min=0) if latitude else np.ones(len(values))
    share: np.ndarray = area / area.sum()
    return share
