"""Statistics of training and held-out fields, kept with a model so that its samples can be scored without the data."""

from __future__ import annotations

import numpy as np
import torch

from ...data.gridded import GriddedData
from ...schema.layout import Coordinate


def zonal_power(fields: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Mean one-sided power per zonal wavenumber, [nlon // 2 + 1], of fields [samples, lat, lon].

    Rows are weighted by `area` [lat]; the powers add up to the area-weighted mean square of the fields.
    """
    nlon = fields.shape[-1]
    power = np.abs(np.fft.rfft(fields, axis=-1) / nlon) ** 2
    power[..., 1 : (nlon + 1) // 2] *= 2
    weighted: np.ndarray = np.einsum("nyk,y->k", power, area / area.sum()) / len(fields)
    return weighted


def data_statistics(data: GriddedData, examples: int = 20) -> dict[str, Coordinate]:
    """The arrays of a model's statistics.h5, in physical units, for each part of the data.

    They are fields of the mean and the standard deviation, zonal power of the deviations from the training mean, area means
    of every field, and evenly spaced held-out fields. Points without data count as zero deviation in power and area means.
    """
    lat, lon = data.coordinates.values()
    area = np.cos(np.deg2rad(lat.values)).clip(min=0) if np.abs(lat.values).max() <= 90 else np.ones(len(lat.values))
    dims = tuple(data.coordinates)
    centre = _physical(data, data.train).mean(0)
    arrays: dict[str, Coordinate] = dict(data.coordinates)
    arrays["zonal_wavenumber"] = Coordinate(("zonal_wavenumber",), np.arange(len(lon.values) // 2 + 1))
    for part in ("train", "validation", "test"):
        states: torch.Tensor = getattr(data, part)
        if not len(states):
            continue
        fields = _physical(data, states)
        apart = np.nan_to_num(fields - centre)
        power = np.stack([zonal_power(apart[:, v], area) for v in range(fields.shape[1])])
        area_mean = np.einsum("nvyx,y->nv", apart, area) / area.sum() / len(lon.values)
        about = {"long_name": "one-sided power of deviations from the training mean"}
        arrays |= {
            f"{part}_mean": Coordinate(("variable", *dims), fields.mean(0)),
            f"{part}_std": Coordinate(("variable", *dims), fields.std(0)),
            f"{part}_zonal_power": Coordinate(("variable", "zonal_wavenumber"), power, about),
            f"{part}_area_mean": Coordinate((f"{part}_sample", "variable"), area_mean),
        }
    return arrays | _examples(data, dims, examples)


def _examples(data: GriddedData, dims: tuple[str, ...], count: int) -> dict[str, Coordinate]:
    states = data.test if len(data.test) else data.validation
    if not len(states):
        return {}
    chosen = np.unique(np.linspace(0, len(states) - 1, count).round().astype(int))
    fields = _physical(data, states[torch.from_numpy(chosen)])
    return {"held_out_examples": Coordinate(("example", "variable", *dims), fields.astype(np.float32))}


def _physical(data: GriddedData, states: torch.Tensor) -> np.ndarray:
    """[samples, variables, lat, lon] float64."""
    fields = data.normalisation.decode(states)
    return np.stack([fields[v.name] for v in data.variables], axis=1).astype(np.float64)
