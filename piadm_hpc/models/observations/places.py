"""Weights of grid points for an observation of a field: at a point, averaged over a box, or of a spherical harmonic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...data.grids import geographic, why_not_global
from ...data.observation_files import cell_edges
from ...schema.layout import Coordinate
from ...theory.bases import _legendre

Weights = tuple[np.ndarray, np.ndarray]
"""Flat indices of grid points and their weights, [k] each."""

LARGEST_DEGREE = 512


@dataclass(frozen=True)
class Grid:
    """A grid of rows and columns, and the positions of its points on the sphere if the axes are latitude and longitude."""

    rows: np.ndarray
    columns: np.ndarray
    polar: bool
    whole: bool

    @classmethod
    def of(cls, coordinates: Mapping[str, Coordinate]) -> Grid:
        """The grid with two coordinates, rows first."""
        rows, columns = (np.asarray(one.values, dtype=np.float64) for one in coordinates.values())
        polar = geographic(coordinates)
        return cls(rows, columns, polar, polar and why_not_global(rows, columns) is None)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.columns)

    @cached_property
    def row_edges(self) -> np.ndarray:
        """Both edges of every row, [n, 2]; the outermost rows of a whole globe reach the poles."""
        edges = np.sort(cell_edges(self.rows, (-90.0, 90.0) if self.polar else None), axis=1)
        if self.whole:
            edges[np.argmax(self.rows), 1], edges[np.argmin(self.rows), 0] = 90.0, -90.0
        return edges

    @cached_property
    def column_edges(self) -> np.ndarray:
        """Both edges of every column, [n, 2]."""
        return np.sort(cell_edges(self.columns, None), axis=1)

    @cached_property
    def area(self) -> np.ndarray:
        """Share of the area in every cell, [rows, columns]; shares sum to one."""
        heights, widths = self._heights(self.row_edges), np.diff(self.column_edges, axis=1)
        cells = heights[:, None] * widths[:, 0]
        share: np.ndarray = cells / cells.sum()
        return share

    def _heights(self, edges: np.ndarray) -> np.ndarray:
        levels = np.sin(np.deg2rad(edges)) if self.polar else edges
        height: np.ndarray = levels[..., 1] - levels[..., 0]
        return height

    def outside(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Which places [m] are outside the grid's cells, or are not on the sphere."""
        missing: np.ndarray = ~(np.isfinite(row) & np.isfinite(column))
        if self.polar:
            missing |= (np.abs(row) > 90) | (np.abs(column) > 360)
        if self.whole:
            return missing
        low, high = self.row_edges.min(), self.row_edges.max()
        left, right = self.column_edges.min(), self.column_edges.max()
        wrapped = left + (column - left) % 360 if self.polar else column
        beyond: np.ndarray = missing | (row < low) | (row > high) | (wrapped < left) | (wrapped > right)
        return beyond

    def point(self, row: float, column: float, *, nearest: bool) -> Weights:
        """Weights of the four points around a place, bilinear, or of the nearest one; past the last row its value holds."""
        i, share_i = _between(self.rows, row)
        j, share_j = self._column(column)
        if nearest:
            share_i, share_j = round(share_i), round(share_j)
        lower, right = min(i + 1, len(self.rows) - 1), (j + 1) % len(self.columns)
        places = np.array([i, i, lower, lower]) * len(self.columns) + np.array([j, right, j, right])
        weights = np.array([1 - share_i, 1 - share_i, share_i, share_i]) * np.array([1 - share_j, share_j, 1 - share_j, share_j])
        return places[weights > 1e-9], weights[weights > 1e-9]

    def _column(self, column: float) -> tuple[int, float]:
        if not self.polar:
            return _between(self.columns, column)
        if not self.whole:
            return _between(self.columns, self.columns[0] + (column - self.columns[0] + 180) % 360 - 180)
        step = 360 / len(self.columns)
        place = (column - self.columns[0]) / step % len(self.columns)
        rounded = round(place) if abs(place - round(place)) < 1e-9 else place
        return int(rounded) % len(self.columns), float(rounded - int(rounded))

    def box(self, south: float, north: float, west: float, east: float) -> Weights:
        """Weights of the area mean over a box: all cells count in proportion to their part inside."""
        rows = np.stack([self.row_edges[:, 0].clip(south, north), self.row_edges[:, 1].clip(south, north)], axis=1)
        inside = self._heights(rows)[:, None] * self._overlap(west, east)
        places = np.flatnonzero(inside)
        return places, inside.ravel()[places] / max(inside.sum(), 1e-300)

    def _overlap(self, west: float, east: float) -> np.ndarray:
        """Width of every column between two meridians, counted eastward."""
        left, right = self.column_edges.T
        if not self.polar:
            return np.asarray((np.minimum(right, east) - np.maximum(left, west)).clip(min=0))
        width = (east - west) % 360 or 360.0
        begin = west + np.floor((left[0] - west) / 360) * 360
        turns = begin + 360 * np.arange(4)[:, None]
        common = np.minimum(right, turns + width) - np.maximum(left, turns)
        total: np.ndarray = common.clip(min=0).sum(0)
        return total

    def harmonic(self, degree: int, order: int) -> Weights:
        """Weights of the coefficient of a real spherical harmonic whose mean square over the sphere is one.

        Degree 0 gives the mean over the sphere; a positive order goes with cos(m lon), a negative one with sin(|m| lon), both
        with the phase of Condon and Shortley.
        """
        legendre = _legendre(degree + 1, np.sin(np.deg2rad(self.rows)))[abs(order), degree] * np.sqrt(4 * np.pi)
        angle = np.deg2rad(self.columns) * abs(order)
        around = np.ones_like(angle) if order == 0 else np.sqrt(2) * (np.cos(angle) if order > 0 else np.sin(angle))
        weights = self.area * legendre[:, None] * around
        return np.arange(weights.size), weights.ravel()


def _between(levels: np.ndarray, value: float) -> tuple[int, float]:
    """Return the position below a value among steady levels, and the share of the way to the next."""
    rising = levels if levels[0] < levels[-1] else -levels
    value = value if levels[0] < levels[-1] else -value
    if value <= rising[0]:
        return 0, 0.0
    if value >= rising[-1]:
        return len(levels) - 1, 0.0
    below = int(np.searchsorted(rising, value, side="right")) - 1
    return below, float((value - rising[below]) / (rising[below + 1] - rising[below]))
