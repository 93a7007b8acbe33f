"""Fields on levels, of sequences or on cells as plain fields over two dimensions, which scores and figures are made of.

Every level of a variable is a field of its own, the steps of a sequence are further samples, and cells are rows of one column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from scipy.spatial import KDTree

from ..data.cells import on_globe
from ..data.grids import kind_of
from ..models.record import VariableCard
from ..schema.layout import STEP, Layout, Variable

COLUMN = "column"
"""The second dimension of fields on cells."""


@dataclass(frozen=True)
class Slice:
    """One level of a variable: its name, where it stands along the levels, and a text that tells the level."""

    name: str
    variable: Variable
    place: Mapping[str, int]
    at: str


def slices_of(layout: Layout) -> Iterator[Slice]:
    """Yield every variable of a layout of fields on a grid, or every level of it."""
    for variable in layout.variables:
        levels = [dim for dim in variable.dims if dim in layout.leading and dim != STEP]
        for places in product(*(range(len(layout.coordinates[dim].values)) for dim in levels)):
            place = dict(zip(levels, places, strict=True))
            words = [(dim, layout.coordinates[dim], k) for dim, k in place.items()]
            name = "_".join([variable.name, *(f"{dim}{_short(c.values[k])}" for dim, c, k in words)])
            at = ", ".join(f"{dim} {_short(c.values[k])} {c.attrs.get('units', '')}".strip() for dim, c, k in words)
            yield Slice(name, variable, place, at)


def plain_fields(
    dataset: xr.Dataset, cards: Sequence[VariableCard], layout: Layout
) -> tuple[xr.Dataset, tuple[VariableCard, ...]]:
    """Return samples with every slice as a variable over the two dimensions of a grid, and the slices' cards.

    `cards` describe the variables of the layout. Steps stay a dimension of the samples. A layout without levels and cells
    comes back as it is.
    """
    known = {card.name: card for card in cards}
    if not layout.leading and not layout.on_cells:
        return dataset, tuple(cards)
    dims = (*layout.grid, COLUMN) if layout.on_cells else layout.grid
    made, found = {}, []
    for one in slices_of(layout):
        array, card = dataset[one.variable.name].isel(one.place, drop=True), known[one.variable.name]
        made[one.name] = array.expand_dims({COLUMN: 1}, -1) if layout.on_cells else array
        long_name = f"{card.long_name or card.name}{', ' * bool(one.at)}{one.at}"
        found.append(card.model_copy(update={"name": one.name, "dims": dims, "long_name": long_name}))
    dataset = dataset.drop_vars([v.name for v in layout.variables]).assign(made)
    if layout.on_cells:
        cell = layout.grid[0]
        dataset = dataset.assign_coords({COLUMN: [0]})
        if "cell_weight" not in dataset:
            dataset = dataset.assign_coords(cell_weight=(cell, np.full(dataset.sizes[cell], 1 / dataset.sizes[cell])))
    return dataset.assign_attrs(variables=" ".join(card.name for card in found)), tuple(found)


def plain_arrays(fields: Mapping[str, np.ndarray], layout: Layout, *, steps: bool = False) -> dict[str, np.ndarray]:
    """Return fields [n, *levels, *grid] by slice as [n, rows, columns]; with `steps` they are sequences [n, steps, ...]."""
    shape = tuple(len(layout.coordinates[dim].values) for dim in layout.grid)
    rows = shape if len(shape) == 2 else (*shape, 1)
    found = {}
    for one in slices_of(layout):
        values = fields[one.variable.name]
        place = (slice(None),) * (1 + steps) + tuple(one.place.values())
        found[one.name] = values[place].reshape(-1, *rows)
    return found


def raster_of(coordinates: Mapping[Any, Any], cell: str, rows: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latitudes, longitudes and the nearest cell of every point of a map of the globe, to draw fields on cells.

    `coordinates` are those of the samples, with values and attrs.
    """
    found = {
        kind_of(str(n), c.attrs): np.asarray(c.values) for n, c in coordinates.items() if tuple(c.dims) == (cell,) and n != cell
    }
    lat, lon = np.linspace(-90 + 90 / rows, 90 - 90 / rows, rows), (np.arange(2 * rows) + 0.5) * 180 / rows
    points = on_globe(*(values.ravel() for values in np.broadcast_arrays(lat[:, None], lon)))
    _, nearest = KDTree(on_globe(found["latitude"], found["longitude"])).query(points)
    return lat, lon, np.asarray(nearest).reshape(rows, 2 * rows)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | int | np.number) else str(value)
