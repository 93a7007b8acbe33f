"""Statistics of training and held-out fields, stored with a model so that its samples can be scored without the data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...data.gridded import GriddedData
from ...data.grids import geographic, row_shares, why_not_global
from ...data.power import cosine_power, zonal_power
from ...schema.layout import STEP, Coordinate


def channel_correlations(fields: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Mean over area of the correlations between the channels of fields [n, channels, rows, columns], [channels, channels].

    Rows count by `area`, and points that are missing in any channel not at all.
    """
    apart = fields - fields.mean(0)
    spread = apart.std(0)
    weight = np.where((spread > 0).all(0), area[:, None], 0.0)
    scaled = np.where(weight > 0, apart / np.where(spread > 0, spread, 1), 0) * np.sqrt(weight / weight.sum() / len(fields))
    rows = scaled.transpose(1, 0, 2, 3).reshape(fields.shape[1], -1)
    return np.asarray(rows @ rows.T)


def data_statistics(data: GriddedData, examples: int = 20) -> dict[str, Coordinate]:
    """The arrays of a model's statistics.h5, in physical units, for each part of the data.

    They are fields of the mean and the standard deviation, power of the deviations from the training mean, area means
    of every field, evenly spaced held-out fields, and correlations between levels and steps. Power is zonal; on rows and columns
    that are not global there is also a cosine spectrum. A variable counts once for each of its levels, and every time of a
    sequence is a field of its own. Points without data count as zero deviation in power and area
    means; cells count as rows of one column.
    """
    area = row_areas(data.coordinates)
    arrays: dict[str, Coordinate] = dict(data.coordinates)
    dims = tuple(data.coordinates)
    centre = _physical(data, data.train).mean(0)
    columns = 1 if len(dims) == 1 else len(data.coordinates[dims[1]].values)
    arrays["zonal_wavenumber"] = Coordinate(("zonal_wavenumber",), np.arange(columns // 2 + 1))
    regional = len(dims) == 2 and not _on_the_globe(data.coordinates)
    if regional:
        arrays["cosine_wavenumber"] = Coordinate(("cosine_wavenumber",), np.arange(min(len(area), columns) + 1))
    for part in ("train", "validation", "test"):
        states: torch.Tensor = getattr(data, part)
        if not len(states):
            continue
        fields = _physical(data, states)
        apart = np.nan_to_num(fields - centre).reshape(*fields.shape[:2], len(area), columns)
        power = np.stack([zonal_power(apart[:, v], area) for v in range(fields.shape[1])])
        area_mean = np.einsum("nvyx,y->nv", apart, area) / area.sum() / columns
        about = {"long_name": "one-sided power of deviations from the training mean"}
        arrays |= {
            f"{part}_mean": Coordinate(("variable", *dims), fields.mean(0)),
            f"{part}_std": Coordinate(("variable", *dims), fields.std(0)),
            f"{part}_zonal_power": Coordinate(("variable", "zonal_wavenumber"), power, about),
            f"{part}_area_mean": Coordinate((f"{part}_sample", "variable"), area_mean),
        }
        if regional:
            power = np.stack([cosine_power(apart[:, v]) for v in range(fields.shape[1])])
            arrays[f"{part}_cosine_power"] = Coordinate(("variable", "cosine_wavenumber"), power, about)
    if data.leading:
        whole = data.normalisation.decode(data.train)
        channels = np.concatenate(
            [whole[v.name].reshape(len(data.train), -1, len(area), columns) for v in data.variables], axis=1
        )
        about = {"long_name": "mean over area of the correlations between all levels and steps"}
        arrays["train_correlation"] = Coordinate(("channel", "other_channel"), channel_correlations(channels, area), about)
    return arrays | _examples(data, dims, examples)


def row_areas(grid: Mapping[str, Coordinate]) -> np.ndarray:
    """The share of the area in each row of a grid [rows]: by the cosine of its latitude, else equal, as for cells."""
    name, rows = next(iter(grid.items()))
    return np.full(len(rows.values), 1 / len(rows.values)) if len(grid) == 1 else row_shares(name, rows.values, rows.attrs)


def _on_the_globe(grid: Mapping[str, Coordinate]) -> bool:
    """Whether rows and columns cover the globe."""
    rows, columns = (coordinate.values for coordinate in grid.values())
    return geographic(grid) and why_not_global(rows, columns) is None


def _examples(data: GriddedData, dims: tuple[str, ...], count: int) -> dict[str, Coordinate]:
    states = data.test if len(data.test) else data.validation
    if not len(states):
        return {}
    fields = _physical(data, states)
    chosen = np.unique(np.linspace(0, len(fields) - 1, count).round().astype(int))
    return {"held_out_examples": Coordinate(("example", "variable", *dims), fields[chosen].astype(np.float32))}


def _physical(data: GriddedData, states: torch.Tensor) -> np.ndarray:
    """Fields of single times [times, slices, *grid] float64, from so few sequences that hardly any time occurs twice."""
    sequences = states[:: data.overlap]
    fields = data.normalisation.decode(sequences)
    grid = tuple(len(c.values) for c in data.coordinates.values())
    steps = len(data.leading[STEP].values) if STEP in data.leading else 1
    times = steps * len(sequences)
    return np.concatenate([fields[v.name].reshape(times, -1, *grid) for v in data.variables], axis=1).astype(np.float64)
