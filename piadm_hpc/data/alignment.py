"""The coordinates of fields in one file: corrected, brought to the grid of other files, and kept for samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate, Variable, channel_slices
from .cells import aligned_cells, settled_cells
from .gridded_files import Request
from .grids import DEGREES, aligned, settled
from .regrid import regridded

CF_KEYS = ("units", "standard_name", "long_name", "positive", "cell_methods", "grid_mapping")
"""Attributes of a variable that still hold for generated fields."""

TIED = frozenset(
    {"bounds", "climatology", "formula_terms", "cell_measures", "ancillary_variables", "coordinates", "actual_range"}
)
"""Attributes of a coordinate that name other variables of its file, or say what only holds there."""


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of a file's fields: of the `grid`, of `levels` kept in every sample, and all `auxiliary` ones."""

    grid: dict[str, Coordinate]
    levels: dict[str, Coordinate]
    auxiliary: dict[str, Coordinate]

    @classmethod
    def of(cls, dataset: xr.Dataset, fields: xr.Dataset, request: Request) -> Coordinates:
        """The coordinates of the chosen `fields` of a `dataset`, with the variables that map its grid to the globe."""
        dims = (*request.spatial_dims, *request.levels)
        auxiliary = {str(name): _auxiliary(array) for name, array in fields.coords.items() if _lasts(array, name, dims)}
        mappings = {str(fields[name].attrs.get("grid_mapping", "")) for name in request.variables}
        for name in mappings & {str(name) for name in dataset.variables if dataset[name].ndim == 0}:
            attrs = {str(key): value for key, value in dataset[name].attrs.items()}
            auxiliary[name] = Coordinate((), np.asarray(0, dtype=np.int32), attrs)
        return cls(
            {dim: _along(fields, dim, whole=len(request.spatial_dims) == 1) for dim in request.spatial_dims},
            {dim: _along(fields, dim, whole=True) for dim in request.levels},
            auxiliary,
        )

    @property
    def places(self) -> dict[str, Coordinate]:
        """The coordinates that give the positions of the grid's points."""
        cells = tuple(self.grid)
        return self.grid | {name: c for name, c in self.auxiliary.items() if len(cells) == 1 and c.dims == cells}


def placed(
    dataset: xr.Dataset,
    fields: xr.Dataset,
    request: Request,
    wanted: Mapping[str, Coordinate] | None,
    notes: list[str],
    *,
    part: bool,
) -> xr.Dataset:
    """Fields with corrected coordinates, and with the rows and columns, or the cells, of the `wanted` grid; adds to `notes`.

    With `part` they may be cut out of a larger grid; they are interpolated if the request asks for it. Raises ValueError for
    coordinates that cannot be corrected, and for points that are absent.
    """
    if len(request.spatial_dims) == 1:
        fields, mended = settled_cells(dataset, fields, request.spatial_dims[0])
        notes += mended
        if wanted is None:
            return fields
        fields, mended = aligned_cells(fields, request.spatial_dims[0], wanted)
        notes += mended
        return fields
    rows, columns = request.spatial_dims
    fields, mended = settled(dataset, fields, (rows, columns))
    notes += mended
    if wanted is None:
        return fields
    grid = {dim: wanted[dim] for dim in request.spatial_dims}
    try:
        fields, mended = aligned(fields, grid, part=part)
    except ValueError:
        if request.regrid is None:
            raise
        fields, mended = regridded(fields, grid, request.regrid)
    notes += mended
    return fields


def channels_of(variables: Sequence[Variable], leading: Mapping[str, Coordinate]) -> dict[str, slice]:
    """The slice of channels of each variable: one channel for each combination of its values along `leading` dimensions."""
    return channel_slices({variable.name: variable.sizes(leading) for variable in variables})


def common(auxiliary: Sequence[Mapping[str, Coordinate]]) -> dict[str, Coordinate]:
    """The auxiliary coordinates that all files have, with the same values."""
    first, *rest = auxiliary
    return {
        name: c
        for name, c in first.items()
        if all(name in other and np.array_equal(other[name].values, c.values) for other in rest)
    }


def kept_attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """The attributes of a variable that still hold for generated fields."""
    return {key: str(attrs[key]) for key in CF_KEYS if key in attrs}


def _lasts(array: xr.DataArray, name: Any, dims: Sequence[str]) -> bool:
    """Whether a coordinate is an auxiliary one that holds for every sample and can be stored with it."""
    return name not in dims and set(array.dims) <= set(dims) and array.dtype.kind in "iufSUO" and str(name).isidentifier()


def _auxiliary(array: xr.DataArray) -> Coordinate:
    return Coordinate(tuple(map(str, array.dims)), np.asarray(array.values), _of_coordinate(array.attrs))


def _along(fields: xr.Dataset, dim: str, *, whole: bool) -> Coordinate:
    """The coordinate of a dimension: float64 for rows and columns, for levels and cells also `whole` numbers or text."""
    if dim not in fields.coords:
        index = np.arange(fields.sizes[dim], dtype=np.int64 if whole else np.float64)
        return Coordinate((dim,), index, {"long_name": f"index along {dim}"})
    attrs, values = _of_coordinate(fields[dim].attrs), fields[dim].values
    standard = {units: kind for kind, units in DEGREES.items()}.get(str(attrs.get("units", "")))
    kept = values if whole and values.dtype.kind in "iu" else values.astype(np.float64 if values.dtype.kind in "fiu" else object)
    return Coordinate((dim,), kept, attrs | ({"standard_name": standard} if standard else {}))


def _of_coordinate(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in attrs.items() if key not in TIED and not str(key).startswith("_")}
