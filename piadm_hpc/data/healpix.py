"""The positions of the cells of HEALPix grids (Gorski et al. 2005), and how files describe such a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

NESTED, RING = {"nested", "nest"}, {"ring"}

FIRST_RING = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
FIRST_MERIDIAN = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])
"""For each of the twelve faces: the ring and the meridian of its southern corner, in units of the face's side."""


@dataclass(frozen=True)
class Healpix:
    """A HEALPix grid: `nside` cells along the side of a face, numbered in nested order or by rings of latitude.

    Raises ValueError for sides that are not positive, or, in nested order, no power of two.
    """

    nside: int
    nested: bool

    def __post_init__(self) -> None:
        if self.nside < 1 or (self.nested and self.nside & (self.nside - 1)):
            raise ValueError(f"a HEALPix grid of nside {self.nside}: give a positive one, in nested order a power of two")

    def angles(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return latitude and longitude in degrees of the centres of cells [n]; ValueError for numbers that do not exist."""
        number = np.asarray(cells).astype(np.int64)
        if number.size and (np.min(number) < 0 or np.max(number) >= 12 * self.nside**2):
            raise ValueError(
                f"cells {np.min(number)} to {np.max(number)}: HEALPix of nside {self.nside} has 0 to {12 * self.nside**2 - 1}"
            )
        ring, place, shift = self._nested(number) if self.nested else self._rings(number)
        n, around = self.nside, self._around(ring)
        cap = 1 - around**2 / (3 * n**2)
        sine = np.where(around < n, np.where(ring < n, cap, -cap), (2 * n - ring) * 2 / (3 * n))
        longitude = (place - (shift + 1) / 2) * 90 / around
        return np.rad2deg(np.arcsin(sine)), longitude % 360

    def _around(self, ring: np.ndarray) -> np.ndarray:
        """A quarter of the number of cells around each ring, [n]: the side, and less in the polar caps."""
        around: np.ndarray = np.minimum(ring, 4 * self.nside - ring).clip(max=self.nside)
        return around

    def _rings(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ring from the north [n], place along it from 1 on, and whether the ring is shifted by half a cell."""
        n = self.nside
        cap = 2 * n * (n - 1)
        from_south = 12 * n**2 - 1 - number
        north, south = number < cap, from_south < cap
        counted = np.where(north, number, from_south)
        ring = (1 + np.floor(np.sqrt(1 + 2 * np.where(north | south, counted, 0))).astype(np.int64)) // 2
        along = counted - 2 * ring * (ring - 1)
        belt = number - cap
        rows = np.where(north, ring, np.where(south, 4 * n - ring, belt // (4 * n) + n))
        place = np.where(north, along + 1, np.where(south, 4 * ring - along, belt % (4 * n) + 1))
        return rows, place, np.where(north | south, 0, (rows + n) % 2)

    def _nested(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, from the face and the place on it, whose digits take turns in the number."""
        n = self.nside
        face, inside = np.divmod(number, n**2)
        east, north = (sum(((inside >> (2 * bit + k)) & 1) << bit for bit in range(n.bit_length())) for k in (0, 1))
        ring = FIRST_RING[face] * n - east - north - 1
        around = self._around(ring)
        shift = np.where(around < n, 0, (ring - n) % 2)
        return ring, (FIRST_MERIDIAN[face] * around + east - north + 1 + shift) // 2, shift


def healpix_of(dataset: xr.Dataset, dim: str) -> Healpix | None:
    """Return the HEALPix grid in which, by its attributes, a dataset numbers its cells along `dim`, or None.

    The attributes are those of CF's grid mapping "healpix" (refinement_level and indexing_scheme, or healpix_nside and
    healpix_order), of xdggs, or nside and ordering. Raises ValueError for an order that is neither ring nor nested.
    """
    for attrs in _described(dataset, dim):
        sides = [attrs[key] for key in ("healpix_nside", "nside") if key in attrs]
        sides += [2 ** int(attrs[key]) for key in ("refinement_level", "healpix_refinement_level", "level") if key in attrs]
        orders = [str(attrs[key]).lower() for key in ("healpix_order", "indexing_scheme", "ordering", "order") if key in attrs]
        orders += ["nested" if bool(attrs["nest"]) else "ring"] if "nest" in attrs else []
        if not sides or not orders:
            continue
        if orders[0] not in NESTED | RING:
            raise ValueError(f"its HEALPix cells are in the order {orders[0]!r}; accepted are 'nested' and 'ring'")
        return Healpix(int(sides[0]), orders[0] in NESTED)
    return None


def _described(dataset: xr.Dataset, dim: str) -> Iterator[Mapping[Any, Any]]:
    """Attributes that may describe a HEALPix grid: of grid mappings, of what lies along the cells, and of the file."""
    for array in dataset.variables.values():
        if str(array.attrs.get("grid_mapping_name", array.attrs.get("grid_name", ""))).lower() == "healpix":
            yield array.attrs
    for array in dataset.variables.values():
        if dim in array.dims:
            yield array.attrs
    yield dataset.attrs
