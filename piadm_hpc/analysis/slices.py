"""Fields of a file on levels, of sequences or on cells as plain fields over two dimensions, which scores are made of.

Every level of a variable is a field of its own, the steps of a sequence are further samples, and cells are rows of one column.
`planes` finds the same fields among samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..schema.layout import STEP, Layout, Variable


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
            name = "_".join([variable.name, *(f"{dim}{short(c.values[k])}" for dim, c, k in words)])
            at = ", ".join(f"{dim} {short(c.values[k])} {c.attrs.get('units', '')}".strip() for dim, c, k in words)
            yield Slice(name, variable, place, at)


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


def short(value: Any) -> str:
    """A coordinate in few characters; of a date the day."""
    if isinstance(value, float | int | np.number):
        return f"{value:g}"
    return str(value)[:10] if isinstance(value, np.datetime64) or hasattr(value, "calendar") else str(value)
