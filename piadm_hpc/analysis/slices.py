"""Fields of a file on levels, of sequences or on cells as plain fields over two dimensions, for scores.

Every level of a variable is a field of its own, the steps of a sequence are further samples, and cells are rows of one column.
`planes` finds the same fields among samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..schema.layout import STEP, Layout


def plain_arrays(fields: Mapping[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """Return fields [n, *levels, *grid] of a layout by slice, every variable or every level of it, as [n, rows, columns]."""
    shape = tuple(len(layout.coordinates[dim].values) for dim in layout.grid)
    rows = shape if len(shape) == 2 else (*shape, 1)
    found = {}
    for variable in layout.variables:
        levels = [dim for dim in variable.dims if dim in layout.leading and dim != STEP]
        values = np.moveaxis(fields[variable.name], 0, len(levels))
        for place in np.ndindex(values.shape[: len(levels)]):
            where = {dim: layout.coordinates[dim].values[k] for dim, k in zip(levels, place, strict=True)}
            found[slice_name(variable.name, where)] = values[place].reshape(-1, *rows)
    return found


def slice_name(variable: str, where: Mapping[str, Any]) -> str:
    """The variable's name, and for one of several fields its position along the levels: `ta_plev850`."""
    return "_".join([variable, *(f"{dim}{short(value)}" for dim, value in where.items())])


def short(value: Any) -> str:
    """A coordinate in few characters; for a date the day."""
    if isinstance(value, float | int | np.number):
        return f"{value:g}"
    return str(value)[:10] if isinstance(value, np.datetime64) or hasattr(value, "calendar") else str(value)
