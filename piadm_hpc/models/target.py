"""The form in which fields of a file can be compared with a model's, from the model's folder and its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data.matching import Target, read_like
from ..data.sequences import first_times
from ..schema.layout import STEP, Layout
from ..store.arrays import read_arrays
from ..store.conventions import DIALECTS
from .adapter_layout import read_grid
from .adapters import read_adapter
from .card import Model
from .foreign import ADAPTER

SAMPLE_DIMS = ("time", "sample", *DIALECTS.values())
"""Dimensions along which samples lie in any file, beside those of the recipe and those with dates."""

FROM_THE_RECIPE = ("select", "rename", "missing_values", "allow_outliers", "max_missing")


def target_of(folder: Path, card: Mapping[str, Any], layout: Layout) -> Target:
    """The target of a model of gridded fields: its card as a dictionary, its layout, and the arrays in its folder.

    A network of another package has no statistics of its own, so that only variables, units and grid are compared.
    Raises ValueError for a model of conformers, and for arrays that cannot be read.
    """
    if layout.topology is not None:
        raise ValueError("the model draws conformers, and fields on a grid are needed here; use `piadm verify --against`")
    dims, trained = layout.grid, bool(card.get("leading"))
    if len(dims) != 2 and not layout.on_cells:
        raise ValueError(f"the model's fields have dimensions {', '.join(dims)}; only fields over two can be read from files")
    levels = {dim: layout.coordinates[dim] for dim in layout.leading if dim != STEP}
    variables = tuple(replace(v, dims=tuple(dim for dim in v.dims if dim != STEP)) for v in layout.variables)
    rows = first_times(layout) if trained else np.arange(len(variables))
    shape = (len(rows), *(len(layout.coordinates[dim].values) for dim in dims))
    arrays = read_arrays(folder / "reference.h5")[0] if (folder / "reference.h5").is_file() else {}
    recipe: Mapping[str, Any] = card.get("training", {}).get("config", {}).get("data", {})
    mask = arrays["mask"].values.astype(bool)[rows] if "mask" in arrays else np.ones(shape, dtype=bool)
    if (folder / ADAPTER).is_file() and (data_mask := read_grid(read_adapter(folder), folder)[1]) is not None:
        mask = mask & data_mask
    anomaly = card.get("anomaly", "none") != "none"

    def masked(name: str) -> np.ndarray | None:
        if name not in arrays:
            return None
        values = arrays[name].values.astype(np.float64)
        return np.where(mask, values if name == "climatology" else values[rows], np.nan)

    # statistics of scores say nothing about values
    scores = any(name.startswith("transform_") for name in arrays)
    scale = None if scores else masked("scale_field")
    return Target(
        variables=variables,
        grid={dim: layout.coordinates[dim] for dim in dims},
        levels=levels,
        cells={name: c for name, c in layout.coordinates.items() if layout.on_cells and c.dims == dims and name not in dims},
        sequence=len(layout.coordinates[STEP].values) if STEP in layout.leading else 1,
        mask=mask,
        spread=np.full(shape[0], np.inf) if scale is None else np.sqrt(np.nanmean(scale.reshape(shape[0], -1) ** 2, axis=1)),
        anomaly=anomaly,
        mean=None if anomaly or scores else masked("mean_field"),
        removed=masked("climatology") if anomaly else None,
        sample_dims=(*recipe.get("sample_dims", ()), *SAMPLE_DIMS),
        **{key: recipe[key] for key in FROM_THE_RECIPE if key in recipe},
    )


def states_like(folder: Path, model: Model, file: str | Path) -> Tensor:
    """Fields of a file as states [n, *event] float32 of the model in `folder`; see `fields_like`."""
    return model.encode(fields_like(folder, model, file))


def fields_like(folder: Path, model: Model, file: str | Path) -> dict[str, np.ndarray]:
    """Fields of a file by variable, each [n, lat, lon], like those of the model in `folder`, all points of which it must have.

    Raises ValueError, naming the file, for fields that cannot be converted to the model's form.
    """
    try:
        found = read_like(file, target_of(folder, model.card, model.layout), sequences=True)
        if found.gaps:
            raise ValueError(f"{Path(file).name}: {found.gaps} points of the model have no data")
    except ValueError as error:
        wanted = ", ".join(variable.name for variable in model.layout.variables)
        raise ValueError(f"{error}; {model.name} needs {wanted} on its own grid") from None
    return {name: np.nan_to_num(fields) for name, fields in found.fields.items()}
