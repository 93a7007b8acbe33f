"""Correlations between the levels of a variable, and between the steps of sequences, of samples and of the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...data.matching import read_like
from ...models.card import STATISTICS
from ...models.target import target_of
from ...models.training.statistics import channel_correlations, row_areas
from ...models.variables import described
from ...schema.layout import STEP, Layout, channel_slices
from ...store.arrays import read_arrays
from ..pages import Section, number

SHOWN = 12
"""Largest number of rows of a table."""


def coupling_sections(dataset: xr.Dataset, model: Path, against: str | None) -> tuple[list[Section], dict[str, Any]]:
    """Sections for every variable with levels or steps, and the numbers in them; none for a model without.

    The data are the fields of the file `against`, or else the statistics in the model's folder.
    """
    card, layout = described(model)
    if not layout.leading:
        return [], {}
    dim, area = str(dataset.attrs["sample_dim"]), row_areas({name: layout.coordinates[name] for name in layout.grid})
    own = {v.name: dataset[v.name].transpose(dim, *v.dims).values for v in layout.variables}
    ours, theirs = _correlations(own, layout, area), _of_data(card, layout, model, against, area)
    sections: list[Section] = []
    record: dict[str, Any] = {}
    shapes = {variable.name: layout.channels(variable) for variable in layout.variables}
    parts = channel_slices(shapes)
    for variable in layout.variables:
        sizes, part = shapes[variable.name], parts[variable.name]
        dims = [name for name in variable.dims if name in layout.leading]
        for axis, name in enumerate(dims):
            rows = {"samples": _first_row(ours[part, part], sizes, axis)}
            rows |= {} if theirs is None else {"data": _first_row(theirs[part, part], sizes, axis)}
            record.setdefault(variable.name, {})[f"correlation_{name}"] = {key: row.tolist() for key, row in rows.items()}
            sections.append(_section(variable.name, name, layout.coordinates[name].values, rows))
    return sections, record


def _correlations(fields: Mapping[str, np.ndarray], layout: Layout, area: np.ndarray) -> np.ndarray:
    columns = _columns(layout)
    parts = [fields[v.name].reshape(len(fields[v.name]), -1, len(area), columns) for v in layout.variables]
    return channel_correlations(np.concatenate(parts, axis=1, dtype=np.float64), area)


def _columns(layout: Layout) -> int:
    return 1 if len(layout.grid) == 1 else len(layout.coordinates[layout.grid[1]].values)


def _of_data(card: Mapping[str, Any], layout: Layout, model: Path, against: str | None, area: np.ndarray) -> np.ndarray | None:
    if against is not None:
        return _correlations(read_like(Path(against), target_of(model, card, layout), sequences=True).fields, layout, area)
    stored = read_arrays(model / STATISTICS)[0] if (model / STATISTICS).is_file() else {}
    return stored["train_correlation"].values if "train_correlation" in stored else None


def _first_row(matrix: np.ndarray, sizes: tuple[int, ...], axis: int) -> np.ndarray:
    """Correlations of the first value along a leading dimension with all of them, means over the other dimensions."""
    blocks = matrix.reshape(*sizes, *sizes)
    others = [k for k in range(len(sizes)) if k != axis]
    for k in reversed(others):
        blocks = np.diagonal(blocks, axis1=k, axis2=k + blocks.ndim // 2).mean(-1)
    return np.asarray(blocks[0])


def _section(variable: str, dim: str, values: np.ndarray, rows: Mapping[str, np.ndarray]) -> Section:
    chosen = np.unique(np.linspace(1, len(values) - 1, min(SHOWN, len(values) - 1)).round().astype(int))
    table = [[f"{dim} {values[0]} and {values[k]}", *(number(float(row[k])) for row in rows.values())] for k in chosen]
    note = "Correlations in time and over samples at every point, averaged by area."
    what = "steps" if dim == STEP else f"levels of {dim}"
    return Section(f"{variable}: correlations between {what}", ("", *rows), table, [note])
