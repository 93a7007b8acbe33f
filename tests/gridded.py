"""Small gridded files for the tests of the reader: smooth monthly temperatures, and functions that read them by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from piadm_hpc.data.gridded import DataConfig, GriddedData, read_fields
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.training.fields import train

LAT, LON = np.linspace(-75.0, 75.0, 6), np.arange(12) * 30.0


def temperatures(count: int = 36, seed: int = 0, start: str = "2000-01-01") -> xr.Dataset:
    """Return monthly temperatures in K, [count, 6, 12], with a gradient from pole to pole and a seasonal cycle."""
    generator = np.random.default_rng(seed)
    lat, lon = np.deg2rad(LAT)[:, None], np.deg2rad(LON)
    patterns = np.stack([np.cos(lat) * np.cos(k * lon + phase) for k in range(3) for phase in (0, 1.5)])
    fields = 288 - 40 * np.sin(lat) ** 2 + 2 * np.einsum("nk,kyx->nyx", generator.normal(size=(count, 6)), patterns)
    time = xr.date_range(start, periods=count, freq="MS")
    fields += 8 * np.sin(2 * np.pi * time.month.values / 12)[:, None, None] * np.sin(lat)
    fields += 0.3 * generator.normal(size=fields.shape)
    return xr.Dataset(
        {"tas": (("time", "lat", "lon"), fields.astype(np.float32), {"units": "K", "long_name": "air temperature"})},
        {
            "time": time,
            "lat": ("lat", LAT, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", LON, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )


def with_values(dataset: xr.Dataset, values: np.ndarray, **attrs: Any) -> xr.Dataset:
    """Return the dataset with other values of tas, and with further attributes."""
    return dataset.assign(tas=(dataset.tas.dims, values.astype(np.float32), {**dataset.tas.attrs, **attrs}))


def bare(dataset: xr.Dataset, path: Path) -> None:
    """Write a file that declares no missing value."""
    dataset.to_netcdf(path, encoding={"tas": {"_FillValue": None}})


def read(folder: Path, *files: str, **options: Any) -> GriddedData:
    """Return what a recipe reads from files of a folder."""
    return read_fields(DataConfig(**{"files": files or ("a.nc",), "variables": ("tas",), **options}), folder)


def decoded(data: GriddedData) -> np.ndarray:
    """Return the training fields [n, lat, lon] in physical units."""
    return data.normalisation.decode(data.train)["tas"]


def gaussian_model(folder: Path, **sections: Any) -> Path:
    """Train a Gaussian model on a.nc in a folder, with further sections of its recipe."""
    data = {"files": ["a.nc"], "variables": ["tas"], **sections.pop("data", {})}
    record = {"name": "gaussian", "output": str(folder / "gaussian"), "network": "none", "data": data, "reference": {"rank": 4}}
    return train(TrainConfig.model_validate(record | sections), root=folder, report=lambda line: None)
