"""The positions of the points of a grid, from coordinates of any kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy.spatial import KDTree

from ..schema.layout import Coordinate
from .grids import kind_of

Wrap = bool | Literal["both"]
"""How a grid continues beyond its edges: around the globe and across its poles, not at all, or along both rows and columns."""

STRETCHED = 6.0
"""How many times a distance from north to south counts; covariances along circles of latitude, on which the zonal spectrum
depends, are then kept over further distances."""

AROUND = 8
"""Neighbours of a cell."""


def places_of(grid: Mapping[str, Coordinate], auxiliary: Mapping[str, Coordinate], *, wrap: Wrap) -> np.ndarray:
    """The positions [points, k] between which distances are computed, of rows and columns, or of cells along one dimension.

    Angles become points on a unit sphere, stretched along its axis; lengths are used unchanged; along other coordinates points
    are one apart, on a circle with `wrap`, in both directions with "both". Cells need their latitudes and
    longitudes among the `auxiliary` coordinates. Raises ValueError without these.
    """
    if len(grid) == 1:
        return _on_sphere(*angles_of_cells(next(iter(grid)), auxiliary))
    kinds = [kind_of(name, coordinate.attrs) for name, coordinate in grid.items()]
    rows, columns = (coordinate.values.astype(np.float64) for coordinate in grid.values())
    if kinds == ["latitude", "longitude"]:
        lat, lon = np.broadcast_arrays(rows[:, None], columns)
        return _on_sphere(lat.ravel(), lon.ravel())
    if kinds == ["length", "length"]:
        y, x = np.broadcast_arrays(rows[:, None], columns)
        return np.column_stack([x.ravel(), y.ravel()])
    return rectangular(len(rows), len(columns), periodic=wrap)


def neighbours_of(grid: Mapping[str, Coordinate], auxiliary: Mapping[str, Coordinate], *, wrap: Wrap) -> np.ndarray:
    """Pairs [n, 2] of points beside each other: along rows and columns, or each cell with the AROUND nearest on the sphere."""
    if len(grid) > 1:
        rows, columns = (len(coordinate.values) for coordinate in grid.values())
        return lattice(rows, columns, periodic=wrap)
    return nearest(unit_vectors(*angles_of_cells(next(iter(grid)), auxiliary)), AROUND)


def lattice(rows: int, columns: int, *, periodic: Wrap = False) -> np.ndarray:
    """Pairs [n, 2] of points beside each other in rows and columns; `periodic` closes rows, "both" columns too."""
    number = np.arange(rows * columns).reshape(rows, columns)
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    if periodic:
        pairs.append((number[:, -1:], number[:, :1]))
    if periodic == "both":
        pairs.append((number[-1:], number[:1]))
    return np.concatenate([np.column_stack([first.ravel(), second.ravel()]) for first, second in pairs])


def nearest(places: np.ndarray, count: int) -> np.ndarray:
    """Pairs [n, 2] of each of the `places` [points, k] with so many of the nearest others, or with all there are."""
    count = min(count, len(places) - 1)
    near = KDTree(places).query(places, k=np.arange(2, count + 2))[1]
    return np.column_stack([np.repeat(np.arange(len(places)), count), near.ravel()])


def rectangular(rows: int, columns: int, *, periodic: Wrap = False) -> np.ndarray:
    """Return the places [points, k] of rows and columns one apart; `periodic` lays rows round a circle, "both" columns too."""
    across = _round(columns) if periodic else np.arange(columns, dtype=np.float64)[:, None]
    down = _round(rows) if periodic == "both" else np.arange(rows, dtype=np.float64)[:, None]
    return np.column_stack([np.tile(across, (rows, 1)), np.repeat(down, columns, axis=0)])


def _round(count: int) -> np.ndarray:
    """Points one apart on a circle [count, 2]."""
    turn = 2 * math.pi * np.arange(count) / count
    return np.column_stack([np.cos(turn), np.sin(turn)]) * count / (2 * math.pi)


def unit_vectors(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Return unit vectors [n, 3] at latitudes and longitudes [n] in degrees."""
    lat, lon = np.deg2rad(latitudes), np.deg2rad(longitudes)
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _on_sphere(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    y, x = np.deg2rad(lat), np.deg2rad(lon)
    return np.column_stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), STRETCHED * y])


def angles_of_cells(dim: str, auxiliary: Mapping[str, Coordinate]) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes in degrees of the cells along a dimension. Raises ValueError where the files lack them."""
    found = {kind_of(name, c.attrs): c.values for name, c in auxiliary.items() if c.dims == (dim,)}
    if absent := [kind for kind in ("latitude", "longitude") if kind not in found]:
        raise ValueError(
            f"cells along {dim!r} need coordinates with their {' and '.join(absent)} in degrees, which the files lack; add them, "
            "for HEALPix by healpy.pix2ang(nside, cells, lonlat=True)"
        )
    return found["latitude"], found["longitude"]
