"""Longitudes of files put in order: rising, each meridian once, and a region in one piece."""

from __future__ import annotations

import numpy as np
import xarray as xr

SAME = 1e-3
"""Coordinates this close are the same, in degrees or the grid's own units."""

WIDE = 1.5
"""A step from one column to the next is a gap where it is longer than this many of the others."""


def round_the_globe(fields: xr.Dataset, lat: str, lon: str) -> tuple[xr.Dataset, list[str]]:
    """Longitudes rising from the lowest, each meridian once, and a region in one piece."""
    fields, notes = _rising(fields, lon)
    values = fields[lon].values.astype(np.float64)
    if np.ptp(values) >= 720:
        raise ValueError(f"{lon} reaches from {np.min(values):g} to {np.max(values):g}; longitudes go round the globe once")
    if len(values) > 2:
        fields, note = _once(fields, lon)
        notes += note
    values = fields[lon].values.astype(np.float64)
    steps, seam = np.diff(values) % 360, (values[0] - values[-1]) % 360
    falls = np.flatnonzero(np.diff(values) < 0)
    if len(values) < 2 or seam <= WIDE * np.max(steps):
        if len(falls) == 1 and values[-1] < values[0]:
            fields = fields.roll({lon: -int(falls[0] + 1)}, roll_coords=True)
            notes.append(f"{lon} shifted to begin at {fields[lon].values[0]:g}")
        return _together(fields, lon, steps, seam, notes) if len(values) > 1 else (fields, notes)
    return _counted_on(fields, lon, notes) if len(falls) == 1 and values[-1] < values[0] else (fields, notes)


def _rising(fields: xr.Dataset, lon: str) -> tuple[xr.Dataset, list[str]]:
    """Columns from west to east."""
    steps = np.diff(fields[lon].values.astype(np.float64))
    falling = (steps < 0).all() if (steps < 0).all() or (steps > 0).all() else (-steps % 360).sum() < (steps % 360).sum()
    return (fields.isel({lon: slice(None, None, -1)}), [f"{lon} reversed to rise"]) if len(steps) and falling else (fields, [])


def _once(fields: xr.Dataset, lon: str) -> tuple[xr.Dataset, list[str]]:
    """Columns without those at the end that repeat others after a turn round the globe."""
    values = fields[lon].values.astype(np.float64)
    along = np.append(0, np.cumsum(np.diff(values) % 360))
    again = np.flatnonzero(along >= 360 - SAME)
    for k in again:
        apart = np.abs(along - (along[k] - 360))
        twin = int(apart.argmin())
        one, other = fields.isel({lon: twin}, drop=True), fields.isel({lon: k}, drop=True)
        differing = [str(name) for name in fields.data_vars if not np.array_equal(one[name], other[name], equal_nan=True)]
        if apart[twin] > SAME:
            raise ValueError(f"{lon} is not in order: {values[k]:g} comes after a whole turn round the globe; sort the columns")
        if differing:
            raise ValueError(
                f"{lon} has {values[twin]:g} twice, with different values of {', '.join(differing)}; keep one of them"
            )
    if not len(again):
        return fields, []
    last = f"the last {lon} is the first once more (a cyclic point)"
    last = last if len(again) == 1 else f"the last {len(again)} of {lon} are the first once more (cyclic points)"
    return fields.isel({lon: slice(0, int(again[0]))}), [f"{last}; left out"]


def _together(fields: xr.Dataset, lon: str, steps: np.ndarray, seam: float, notes: list[str]) -> tuple[xr.Dataset, list[str]]:
    """A region that its file cuts in two, as at the meridian of Greenwich, in one piece."""
    cut = int(np.argmax(steps))
    if steps[cut] <= WIDE * max(seam, np.delete(steps, cut).max(initial=0)):
        return fields, notes
    return _counted_on(fields.roll({lon: -(cut + 1)}, roll_coords=True), lon, notes)


def _counted_on(fields: xr.Dataset, lon: str, notes: list[str]) -> tuple[xr.Dataset, list[str]]:
    """A region whose longitudes rise across the meridian at which its file begins them anew."""
    values = fields[lon].values.astype(np.float64)
    along = values[0] + np.append(0, np.cumsum(np.diff(values) % 360))
    along -= 360 if along[-1] > 360 else 0
    fields = fields.assign_coords({lon: (lon, along, fields[lon].attrs)})
    return fields, [*notes, f"{lon} counted on from {along[0]:g} to {along[-1]:g}, so that neighbours stay together"]
