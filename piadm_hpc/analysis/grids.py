"""The positions of the points of fields: rows and columns, curved rows, or cells along one dimension."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..data.grids import kind_of, why_not_global
from .scores import row_weights

ROTATED = ("grid_latitude", "grid_longitude")
NAMES_OF_ROTATED = ("rlat", "rlon")


@dataclass(frozen=True)
class MapGrid:
    """The points of a field on a map, over the dimensions `dims`.

    `y` and `x` are the axes [rows] and [columns] of a rectangular grid, or the places of all points: [rows, columns] of a grid
    whose rows are curved, [cells] of one whose cells lie along one dimension. They are degrees latitude and longitude if
    `geographic`, and otherwise have the names and units `labels`. `weights` [rows], or [cells], are shares of the area.
    """

    dims: tuple[str, ...]
    y: np.ndarray
    x: np.ndarray
    weights: np.ndarray
    geographic: bool
    labels: tuple[str, str]

    @property
    def rectangular(self) -> bool:
        """Whether rows and columns have one coordinate each."""
        return len(self.dims) == 2 and self.y.ndim == 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a field; cells are rows of one column."""
        if self.rectangular:
            return len(self.y), len(self.x)
        return (len(self.y), 1) if self.y.ndim == 1 else self.y.shape

    @property
    def whole(self) -> bool:
        """Whether rows and columns cover the globe."""
        return self.geographic and self.rectangular and why_not_global(self.y, self.x) is None

    @property
    def transform(self) -> str | None:
        """The transform with which spectra are computed.

        Fourier series along whole circles of latitude ("zonal"), cosines in a region ("cosine"), and None for cells and for
        rows without neighbours.
        """
        if min(self.shape) < 2:
            return None
        return "zonal" if self.whole else "cosine"


def horizontal_dims(array: xr.DataArray, others: Collection[str] = ()) -> tuple[str, ...]:
    """The dimensions of a map: latitude and longitude, y and x, or the one of cells; else the last two that are not `others`."""
    free = [str(dim) for dim in array.dims if dim not in others]
    kinds = {dim: kind_of(dim, array[dim].attrs) if dim in array.coords else None for dim in free}
    named = {kind: dim for dim, kind in kinds.items()}
    if "latitude" in named and "longitude" in named:
        return named["latitude"], named["longitude"]
    for dim in free:
        if _places(array, (dim,)) is not None:
            return (dim,)
    lengths = [dim for dim, kind in kinds.items() if kind == "length"]
    return tuple(lengths[-2:] if len(lengths) > 1 else free[-2:])


def grid_of(dataset: xr.Dataset, name: str, others: Collection[str] = ()) -> MapGrid:
    """The grid of a variable of a dataset, whose dimensions `others` are no part of a map.

    Raises ValueError for a variable without two dimensions, or one of cells that have latitudes and longitudes.
    """
    array = dataset[name]
    dims = horizontal_dims(array, others)
    places = _places(array, dims)
    if places is None and len(dims) < 2:
        raise ValueError(f"{name} over {' x '.join(map(str, array.dims))} has no place on a map: no latitudes and longitudes")
    if places is not None:
        weights = np.full(len(places[0]), 1 / len(places[0])) if len(dims) == 1 else row_weights(dataset, dims[0])
        return MapGrid(dims, *places, weights, True, ("latitude", "longitude"))
    axes = [_axis(array, dim) for dim in dims]
    kinds = [kind_of(dim, axis.attrs) for dim, axis in zip(dims, axes, strict=True)]
    geographic = kinds == ["latitude", "longitude"] and not any(_rotated(axis) for axis in axes)
    labels = [_label(axis, kind) for axis, kind in zip(axes, kinds, strict=True)]
    y, x = (_values(axis) for axis in axes)
    return MapGrid(dims, y, x, row_weights(dataset, dims[0]), geographic, (labels[0], labels[1]))


def _places(array: xr.DataArray, dims: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Latitude and longitude of every point of these dimensions from auxiliary coordinates; None without them."""
    found: dict[str, np.ndarray] = {}
    for name, coordinate in array.coords.items():
        kind = kind_of(str(name), coordinate.attrs)
        if kind in ("latitude", "longitude") and name not in dims and set(coordinate.dims) == set(dims):
            found.setdefault(kind, coordinate.transpose(*dims).values.astype(np.float64))
    return (found["latitude"], found["longitude"]) if len(found) == 2 else None


def _axis(array: xr.DataArray, dim: str) -> xr.DataArray:
    return array[dim] if dim in array.coords else xr.DataArray(np.arange(array.sizes[dim]), dims=dim, name=dim)


def _rotated(axis: xr.DataArray) -> bool:
    return axis.attrs.get("standard_name") in ROTATED or axis.name in NAMES_OF_ROTATED


def _values(axis: xr.DataArray) -> np.ndarray:
    values = axis.values
    if values.dtype.kind not in "fiu":
        return np.arange(len(values), dtype=np.float64)
    metres = str(axis.attrs.get("units", "")) in ("m", "metre", "meter", "metres", "meters")
    return values.astype(np.float64) / (1000 if metres else 1)


def _label(axis: xr.DataArray, kind: str | None) -> str:
    if kind == "length":
        return f"{axis.name} [km]" if str(axis.attrs["units"]).lower().startswith(("m", "k")) else str(axis.name)
    if _rotated(axis):
        return f"rotated {kind} [°]"
    return kind or str(axis.name)
