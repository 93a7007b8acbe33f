"""Training fields from NetCDF, HDF5 or Zarr: files to standardised states, split by file or by date.

What is needed to go back to physical units stays with the states, as a `Normalisation`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ..schema.conditions import Condition
from ..schema.layout import Coordinate, Variable
from .anomalies import absolute_names, anomaly_names
from .geometry import Wrap
from .gridded_files import Request
from .grids import geographic, why_not_global
from .inputs import PARTS, expand, require_one_way_to_hold_out
from .normalise import Normalisation
from .reading import RawFields, read_files
from .selection import Choice
from .splitting import split
from .transforms import TransformConfig, transformed

log = logging.getLogger(__name__)

Anomaly = Literal["none", "mean", "monthly"]


class DataConfig(BaseModel):
    """What to read and how to standardise it.

    `files` are paths or globs. `rename` maps names of variables and dimensions in the files to the names that all other
    keys, and the samples, use. `sample_dims` together count samples; `spatial_dims` are (latitude, longitude); `select`
    chooses one value along any other dimension. `wrap` is true for the globe, "both" for a plane that is periodic along rows
    and columns. `missing_values` are numbers that stand for missing ones, and variables in
    `allow_outliers` may have values far from all others. With `anomaly` "mean" or "monthly" the model is one of deviations
    from the mean or from each calendar month's mean, with "none" of the fields themselves. Points missing in more than
    `max_missing` of the samples are masked. Files and samples held out are named by glob (`*_files`) or by last fraction.
    Variables in `transforms` are mapped to something nearly normal first, and back in samples.
    `attributes` adds CF attributes to variables; units among them are those that all files are converted to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[str, ...] = Field(min_length=1)
    variables: tuple[str, ...] = Field(min_length=1)
    rename: dict[str, str] = {}
    sample_dims: tuple[str, ...] = ("time",)
    spatial_dims: tuple[str, str] = ("lat", "lon")
    select: dict[str, Choice] = {}
    missing_values: tuple[float, ...] = ()
    allow_outliers: tuple[str, ...] = ()
    anomaly: Anomaly = "none"
    wrap: Wrap = True
    scale: Literal["pointwise", "global"] = "pointwise"
    scale_floor: float = Field(default=0.1, gt=0, le=1)
    area_weights: bool = False
    transforms: dict[str, TransformConfig] = {}
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
        require_one_way_to_hold_out(self)
        return self

    @model_validator(mode="after")
    def _names_are_used(self) -> DataConfig:
        listed = {"allow_outliers": self.allow_outliers, "attributes": self.attributes, "transforms": self.transforms}
        for key, names in listed.items():
            unknown = [name for name in names if name not in self.variables]
            if unknown:
                raise ValueError(f"{key} names {', '.join(unknown)}, not among the variables {', '.join(self.variables)}")
        if self.transforms and self.anomaly != "none":
            raise ValueError(
                f"transforms are of the fields themselves, not of anomalies; give anomaly = 'none', not {self.anomaly!r}"
            )
        return self

    def request(self) -> Request:
        """What the reader of files is asked for."""
        return Request(
            variables=self.variables,
            spatial_dims=self.spatial_dims,
            sample_dims=self.sample_dims,
            select=self.select,
            rename=self.rename,
            missing_values=self.missing_values,
            allow_outliers=self.allow_outliers,
            units={name: attrs["units"] for name, attrs in self.attributes.items() if "units" in attrs},
        )


@dataclass(frozen=True)
class Stamps:
    """When samples are [n]: `key` rises with time, None where they have no dates; `month` is 1-12; `file` numbers their files."""

    key: np.ndarray | None
    month: np.ndarray | None
    file: np.ndarray

    @classmethod
    def of(cls, raw: RawFields, which: np.ndarray) -> Stamps:
        """Take the stamps of some samples."""
        if isinstance(raw.dates, str):
            return cls(None, None, raw.file[which])
        return cls(raw.dates.key[which], raw.dates.month[which], raw.file[which])


@dataclass(frozen=True)
class GriddedData:
    """Standardised states [n, *event] float32 for training, validation and test, and how to read them physically.

    `climatology` is what was removed: [12, variables, lat, lon] when the anomaly is monthly, [1, variables, lat, lon] when
    it is from the mean, else None; `absolute_names` has the standard and long names of the fields from which nothing is
    removed. `when` has the stamps and `conditions` the encoded
    conditions of every part's samples. `excluded` counts samples left out because they had gaps of their own. `wrap` says
    whether the grid goes round the globe and over its poles, or is periodic in both directions.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    normalisation: Normalisation
    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]
    climatology: np.ndarray | None
    absolute_names: Mapping[str, Mapping[str, str]]
    excluded: int
    files: tuple[str, ...]
    wrap: Wrap
    when: Mapping[str, Stamps] = field(default_factory=dict)
    conditions: Mapping[str, Condition] = field(default_factory=dict)


def read_fields(config: DataConfig, root: Path = Path()) -> GriddedData:
    """The states that a configuration describes; relative paths start at `root`.

    Raises ValueError listing everything that is wrong with the data.
    """
    raw = read_files(expand(config.files, root, "files"), config.request())
    raw, part = split(config, raw)
    mask, whole = static_mask(raw.values, config.max_missing)
    parts = {name: np.flatnonzero((part == name) & whole) for name in PARTS}
    if len(parts["train"]) < 2:
        raise ValueError(f"{len(parts['train'])} samples are left to train on; at least 2 are needed, hold out fewer")
    transforms, scores = transformed(config.variables, raw.values, config.transforms, parts["train"], mask)
    raw = replace(raw, values=scores)
    monthly = config.anomaly == "monthly"
    season = _seasons(raw) if monthly else np.zeros(len(whole), dtype=np.int64)
    climatology = _climatology(raw.values, parts["train"], season, 12 if monthly else 1)
    centred = raw.values - climatology[season]
    scale = _scale(config, centred[parts["train"]], mask, raw)
    states = torch.from_numpy(np.where(mask, centred / scale, 0).astype(np.float32))
    added_back = climatology[0] if config.anomaly == "none" else np.zeros_like(scale)
    normalisation = Normalisation(config.variables, np.where(mask, added_back, 0), np.where(mask, scale, 1), mask, transforms)
    states = states.reshape(len(states), *normalisation.event_shape)
    train, validation, test = (states[torch.from_numpy(parts[name])] for name in PARTS)
    return GriddedData(
        train,
        validation,
        test,
        normalisation=normalisation,
        variables=tuple(_described(v, config) for v in raw.variables),
        coordinates=raw.coordinates,
        climatology=None if config.anomaly == "none" else climatology,
        absolute_names={v.name: absolute_names(_configured(v, config)) for v in raw.variables},
        excluded=int((~whole).sum()),
        files=tuple(raw.names),
        wrap=_wrap(config.wrap, raw.coordinates),
        when={name: Stamps.of(raw, parts[name]) for name in PARTS},
    )


def _wrap(wrap: Wrap, coordinates: dict[str, Coordinate]) -> Wrap:
    """How a network continues a grid; one without angles is taken at the recipe's word. ValueError for angles both ways."""
    if not wrap or not geographic(coordinates):
        return wrap
    if wrap == "both":
        raise ValueError("data.wrap = 'both' is for planes that are periodic along rows and columns; with latitudes give true")
    reason = why_not_global(*(c.values for c in coordinates.values()))
    if reason is not None:
        log.warning("wrap = false is used, since the grid is not global: %s", reason)
    return reason is None


def static_mask(values: np.ndarray, max_missing: float) -> tuple[np.ndarray, np.ndarray]:
    """Where there are data [variables, lat, lon], and which samples have all of them [samples].

    Raises ValueError if nothing is left of the grid or of the samples.
    """
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


def _seasons(raw: RawFields) -> np.ndarray:
    """Which climatology each sample is compared with: 0 for January to 11 for December."""
    if isinstance(raw.dates, str):
        raise ValueError(
            f'anomaly = "monthly" needs a sample dimension with calendar dates, and {raw.dates}; write times as '
            '"days since 2000-01-01" with a CF calendar, or use anomaly = "mean"'
        )
    return raw.dates.month - 1


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


def _configured(variable: Variable, config: DataConfig) -> dict[str, Any]:
    """The attributes of the variable in its file, and those of the recipe in their place."""
    return {**variable.attrs, **config.attributes.get(variable.name, {})}


def _described(variable: Variable, config: DataConfig) -> Variable:
    """The variable with the configured attributes, and a long name that tells what was removed."""
    attrs = _configured(variable, config)
    if config.anomaly != "none":
        attrs = anomaly_names(attrs, variable.name, config.anomaly)
    return Variable(variable.name, variable.dims, attrs)
