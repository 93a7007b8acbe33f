"""Statistics of training and held-out fields, kept with a model so that its samples can be scored without the data."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dctn

from ...data.gridded import GriddedData
from ...data.grids import kind_of, row_areas, why_not_global
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


def cosine_power(fields: np.ndarray) -> np.ndarray:
    """Mean power per wavenumber, [k + 1] with k the shorter side, of fields [samples, rows, columns] of a region.

    Fields are developed into cosines, which end with no slope at the edges, so that a trend across the region does not leak
    into small scales as in a Fourier series (Denis, Cote and Laprise 2002, doi:10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2).
    A mode of m and n half waves along rows and columns counts for the wavenumber k of the ellipse k / min(rows, columns)
    <= sqrt((m / rows)^2 + (n / columns)^2), and the last wavenumber has all beyond. The powers add up to the mean square.
    """
    rows, columns = fields.shape[-2:]
    power = dctn(fields, axes=(-2, -1), norm="ortho") ** 2 / (rows * columns)
    shorter = min(rows, columns)
    ellipse = np.hypot(np.arange(rows)[:, None] / rows, np.arange(columns) / columns) * shorter
    number = np.floor(ellipse + 1e-9).astype(int).clip(max=shorter)  # rounding must not move a wave into the ellipse before
    found: np.ndarray = np.bincount(number.ravel(), weights=power.mean(0).ravel(), minlength=shorter + 1)
    return found


def data_statistics(data: GriddedData, examples: int = 20) -> dict[str, Coordinate]:
    """The arrays of a model's statistics.h5, in physical units, for each part of the data.

    They are fields of the mean and the standard deviation, power of the deviations from the training mean, area means
    of every field, and evenly spaced held-out fields. Power is zonal, and that of cosines too on grids that are not global.
    Points without data count as zero deviation in power and area means.
    """
    lat, lon = data.coordinates.values()
    dims = tuple(data.coordinates)
    area = row_areas(dims[0], lat.values, lat.attrs)
    angles = [kind_of(dim, coordinate.attrs) for dim, coordinate in data.coordinates.items()] == ["latitude", "longitude"]
    regional = not angles or why_not_global(lat.values, lon.values) is not None
    centre = _physical(data, data.train).mean(0)
    arrays: dict[str, Coordinate] = dict(data.coordinates)
    arrays["zonal_wavenumber"] = Coordinate(("zonal_wavenumber",), np.arange(len(lon.values) // 2 + 1))
    if regional:
        arrays["cosine_wavenumber"] = Coordinate(("cosine_wavenumber",), np.arange(min(len(lat.values), len(lon.values)) + 1))
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
        if regional:
            power = np.stack([cosine_power(apart[:, v]) for v in range(fields.shape[1])])
            arrays[f"{part}_cosine_power"] = Coordinate(("variable", "cosine_wavenumber"), power, about)
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
