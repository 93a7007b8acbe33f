"""Training fields from NetCDF, HDF5 or Zarr: files to standardised states, split by file or by time.

What is needed to go back to physical units stays with the states, as a `Normalisation`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ..schema.layout import Coordinate, Variable
from .normalise import Normalisation
from .reading import RawFields, read_files, require_one_way_to_hold_out

log = logging.getLogger(__name__)

Anomaly = Literal["none", "mean", "monthly"]


class DataConfig(BaseModel):
    """What to read and how to standardise it.

    `files` are paths or globs; `sample_dims` together count samples; `spatial_dims` are (latitude, longitude); `select`
    picks the value nearest to a number along any other dimension. With `anomaly` "mean" or "monthly" the model is one of
    deviations from the mean or from each calendar month's mean, with "none" of the fields themselves. Points missing in
    more than `max_missing` of the samples are masked. Files and samples held out are named by glob (`*_files`) or by last
    fraction. `attributes` adds CF attributes to variables.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[str, ...] = Field(min_length=1)
    variables: tuple[str, ...] = Field(min_length=1)
    sample_dims: tuple[str, ...] = ("time",)
    spatial_dims: tuple[str, str] = ("lat", "lon")
    select: dict[str, float] = {}
    anomaly: Anomaly = "none"
    wrap: bool = True
    scale: Literal["pointwise", "global"] = "pointwise"
    scale_floor: float = Field(default=0.1, gt=0, le=1)
    area_weights: bool = False
    max_missing: float = Field(default=0.1, ge=0, lt=1)
    validation_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    attributes: dict[str, dict[str, str]] = {}
    source: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> DataConfig:
        require_one_way_to_hold_out(self.validation_files or self.test_files, self.validation_fraction + self.test_fraction)
        return self


@dataclass(frozen=True)
class GriddedData:
    """Standardised states [n, *event] float32 for training, validation and test, and how to read them physically.

    `climatology` [12, variables, lat, lon] is what was removed when the anomaly is monthly; `excluded` counts samples
    left out because they had gaps of their own.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    normalisation: Normalisation
    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]
    climatology: np.ndarray | None
    excluded: int
    files: tuple[str, ...]


def read_fields(config: DataConfig, root: Path = Path()) -> GriddedData:
    """The states a configuration describes; relative paths start at `root`. ValueError says what is wrong with the data."""
    raw = read_files(config.files, config.variables, config.sample_dims, config.spatial_dims, config.select, root)
    mask, whole = _static_mask(raw.values, config.max_missing)
    parts = _split(config, raw, whole)
    monthly = config.anomaly == "monthly"
    season = _seasons(raw) if monthly else np.zeros(len(whole), dtype=np.int64)
    climatology = _climatology(raw.values, parts["train"], season, 12 if monthly else 1)
    centred = raw.values - climatology[season]
    scale = _scale(config, centred[parts["train"]], mask, raw)
    states = torch.from_numpy(np.where(mask, centred / scale, 0).astype(np.float32))
    added_back = climatology[0] if config.anomaly == "none" else np.zeros_like(scale)
    normalisation = Normalisation(config.variables, np.where(mask, added_back, 0), np.where(mask, scale, 1), mask)
    states = states.reshape(len(states), *normalisation.event_shape)
    return GriddedData(
        **{name: states[torch.from_numpy(parts[name])] for name in ("train", "validation", "test")},
        normalisation=normalisation,
        variables=tuple(_described(v, config) for v in raw.variables),
        coordinates=raw.coordinates,
        climatology=climatology if monthly else None,
        excluded=int((~whole).sum()),
        files=tuple(raw.names),
    )


def _static_mask(values: np.ndarray, max_missing: float) -> tuple[np.ndarray, np.ndarray]:
    """Where there are data [variables, lat, lon], and which samples have all of them [samples]."""
    missing = ~np.isfinite(values)
    mask = missing.mean(0) <= max_missing
    if not mask.any():
        raise ValueError("every grid point is missing in too many samples; nothing is left to train on (see max_missing)")
    whole = ~(missing & mask).any(axis=(1, 2, 3))
    if not whole.any():
        raise ValueError(
            f"every sample has gaps of its own beyond the {int((~mask).sum())} points that are always missing; "
            "lower max_missing so that such points are masked"
        )
    if not whole.all():
        log.warning("%d of %d samples have gaps beyond the static mask and are left out", (~whole).sum(), len(whole))
    return mask, whole


def _split(config: DataConfig, raw: RawFields, whole: np.ndarray) -> dict[str, np.ndarray]:
    """Sample indices for training, validation and test, without the samples that have gaps."""
    count = len(whole)
    if config.validation_files or config.test_files:
        held = {"validation": config.validation_files, "test": config.test_files}
        part = np.full(count, "train", dtype=object)
        for name, patterns in held.items():
            matches = [i for i, file in enumerate(raw.names) if any(file == p or fnmatch(file, p) for p in patterns)]
            if patterns and not matches:
                raise ValueError(f"{name}_files {list(patterns)} match none of the files read: {', '.join(raw.names)}")
            part[np.isin(raw.file, matches)] = name
    else:
        first_test = count - round(count * config.test_fraction)
        first_validation = first_test - round(count * config.validation_fraction)
        order = np.arange(count)
        part = np.where(order >= first_test, "test", np.where(order >= first_validation, "validation", "train"))
    parts = {name: np.flatnonzero((part == name) & whole) for name in ("train", "validation", "test")}
    if len(parts["train"]) < 2:
        raise ValueError(f"{len(parts['train'])} samples are left to train on; at least 2 are needed, hold out fewer")
    return parts


def _seasons(raw: RawFields) -> np.ndarray:
    """Which climatology each sample is compared with: 0 for January to 11 for December."""
    if raw.months is None:
        raise ValueError('anomaly = "monthly" needs a sample dimension with calendar dates; use "mean" or decode the times')
    return raw.months - 1


def _climatology(values: np.ndarray, train: np.ndarray, season: np.ndarray, seasons: int) -> np.ndarray:
    """Mean training field of every season [seasons, variables, lat, lon], NaN for seasons without data."""
    absent = sorted(set(season.tolist()) - set(season[train].tolist()))
    if absent:
        months = [k + 1 for k in absent]
        raise ValueError(f"no training samples in month(s) {months}, so their climatology is unknown; hold out fewer")
    means = np.full((seasons, *values.shape[1:]), np.nan)
    for k in np.unique(season[train]):
        means[k] = values[train[season[train] == k]].mean(0, dtype=np.float64)
    return means


def _scale(config: DataConfig, centred: np.ndarray, mask: np.ndarray, raw: RawFields) -> np.ndarray:
    """Standard deviation field, floored at a fraction of its global rms: what a state of one stands for."""
    spread = np.sqrt((centred**2).mean(0, dtype=np.float64))
    rms = np.array([np.sqrt((s[m] ** 2).mean()) if m.any() else 0.0 for s, m in zip(spread, mask, strict=True)])
    flat = [v.name for v, r in zip(raw.variables, rms, strict=True) if not r > 0]
    if flat:
        raise ValueError(f"{', '.join(flat)} does not vary between the training samples; there is nothing to learn")
    level = np.broadcast_to(rms[:, None, None], spread.shape)
    scale = level.copy() if config.scale == "global" else np.maximum(spread, config.scale_floor * level)
    if config.area_weights:
        # imported here because only this branch needs the sphere's quadrature
        from ..theory.bases import SphericalHarmonics

        latitudes: Sequence[float] = raw.coordinates[config.spatial_dims[0]].values.tolist()
        nlat, nlon = mask.shape[1:]
        weights = SphericalHarmonics(nlat, nlon, 1, latitudes).sqrt_weights.numpy()
        scale = scale / weights[:, None]
    return scale


def _described(variable: Variable, config: DataConfig) -> Variable:
    """The variable with the configured attributes, and a long name that tells what was removed."""
    attrs = {**variable.attrs, **config.attributes.get(variable.name, {})}
    if config.anomaly != "none":
        removed = {"mean": "anomaly from the time mean", "monthly": "anomaly from the monthly climatology"}[config.anomaly]
        attrs = {k: v for k, v in attrs.items() if k != "standard_name"}
        attrs["long_name"] = f"{attrs.get('long_name', variable.name)}, {removed}"
    return Variable(variable.name, variable.dims, attrs)
