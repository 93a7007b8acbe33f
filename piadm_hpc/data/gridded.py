"""Training fields from NetCDF, HDF5 or Zarr: files to standardised states, split by file or by date.

A `Normalisation`, kept with the states, converts them back to physical units.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from ..schema.conditions import Condition
from ..schema.layout import STEP, Coordinate, Variable
from .anomalies import absolute_names, anomaly_names
from .geometry import Wrap
from .gridded_files import Request
from .grids import geographic, why_not_global
from .inputs import PARTS, expand, require_one_way_to_hold_out
from .normalise import Normalisation, channel_labels
from .reading import RawFields, read_files
from .regrid import Method
from .selection import Choice
from .sequences import joined, repeated, require_sequences, starts_of, step_coordinate
from .splitting import split
from .standard import area_weighted, climatology_of, scale_of, seasons_of, static_mask
from .transforms import TransformConfig, transformed

log = logging.getLogger(__name__)

Anomaly = Literal["none", "mean", "monthly"]


class DataConfig(BaseModel):
    """The data to read, and how to standardise them.

    `files` are paths or globs. `rename` maps names of variables and dimensions in the files to the names that all other keys,
    and the samples, use. `sample_dims` are the dimensions along which samples lie; `spatial_dims` are (latitude, longitude),
    or the cells of an unstructured grid; `select` chooses one value along any other dimension, and `levels` keeps some, or
    "all", in every sample. With `sequence` n a sample is n consecutive times, beginning `stride` times apart (default n:
    without overlap). With `regrid` "linear" or "nearest" files on other rows and columns are interpolated to those of the
    first. `missing_values` are numbers that mean missing values, and variables in `allow_outliers` may have values far from
    all others. With `anomaly` "mean" or "monthly" the model is one of deviations from the mean or from each calendar month's
    mean, with "none" of the fields themselves. Points missing in more than `max_missing` of the samples are masked. Files and
    samples held out are named by glob (`*_files`) or by last fraction. Variables in `transforms` are first mapped to nearly
    normal values, and samples are mapped back. `wrap` is true for the globe, "both" for a plane that is periodic along rows
    and columns. `attributes` adds CF attributes to variables; units among them are those that all files are converted to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[str, ...] = Field(min_length=1)
    variables: tuple[str, ...] = Field(min_length=1)
    rename: dict[str, str] = {}
    sample_dims: tuple[str, ...] = ("time",)
    spatial_dims: tuple[str, ...] = Field(default=("lat", "lon"), min_length=1, max_length=2)
    select: dict[str, Choice] = {}
    levels: dict[str, Literal["all"] | tuple[Choice, ...]] = {}
    sequence: int = Field(default=1, ge=1)
    stride: int | None = Field(default=None, ge=1)
    missing_values: tuple[float, ...] = ()
    allow_outliers: tuple[str, ...] = ()
    anomaly: Anomaly = "none"
    regrid: Method | None = None
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

    @field_validator("levels", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {value: "all"} if isinstance(value, str) else value

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
        """The request to the reader of files."""
        return Request(
            variables=self.variables,
            spatial_dims=self.spatial_dims,
            sample_dims=self.sample_dims,
            select=self.select,
            levels={dim: () if values == "all" else tuple(values) for dim, values in self.levels.items()},
            rename=self.rename,
            regrid=self.regrid,
            missing_values=self.missing_values,
            allow_outliers=self.allow_outliers,
            units={name: attrs["units"] for name, attrs in self.attributes.items() if "units" in attrs},
        )


@dataclass(frozen=True)
class Stamps:
    """Dates of samples [n]: `key` rises with time, None if they have no dates; `month` is 1-12; `file` numbers their files.

    `day` counts days, and `series` numbers the samples that follow each other in time: the ensemble members of each file.
    """

    key: np.ndarray | None
    month: np.ndarray | None
    file: np.ndarray
    day: np.ndarray | None = None
    series: np.ndarray | None = None

    @classmethod
    def of(cls, raw: RawFields, which: np.ndarray) -> Stamps:
        """Take the stamps of some samples."""
        if isinstance(raw.dates, str):
            return cls(None, None, raw.file[which])
        dates = raw.dates.taken(which)
        return cls(dates.key, dates.month, raw.file[which], dates.day, dates.series)


@dataclass(frozen=True)
class GriddedData:
    """Standardised states [n, *event] float32 for training, validation and test, and their conversion to physical units.

    `coordinates` are those of the grid, `leading` those of the levels and steps before it, `auxiliary` all others of the fields.
    `climatology` is the mean that was removed from single times: [12, channels, *grid] for monthly anomalies, [1, channels,
    *grid] for anomalies from the time mean, else None; `absolute_names` has the standard and long names of the fields from which
    nothing is removed. `when` has the stamps (of a sequence those of its first time) and `conditions` the encoded conditions of
    every part's samples. `excluded` counts samples left out because they had gaps of their own. `wrap` tells whether the grid
    continues around the globe and across its poles, or is periodic in both directions. Among `overlap` consecutive sequences all
    but one repeat times of the others.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    normalisation: Normalisation
    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]
    leading: dict[str, Coordinate]
    auxiliary: dict[str, Coordinate]
    climatology: np.ndarray | None
    absolute_names: Mapping[str, Mapping[str, str]]
    excluded: int
    files: tuple[str, ...]
    wrap: Wrap
    when: Mapping[str, Stamps] = field(default_factory=dict)
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    overlap: int = 1
    calendar: str = ""


def read_fields(config: DataConfig, root: Path = Path()) -> GriddedData:
    """The states that a configuration describes; relative paths start at `root`.

    Raises ValueError that lists all mistakes in the data.
    """
    raw, part = split(config, read_files(expand(config.files, root, "files"), config.request()))
    mask, whole = static_mask(raw.values, config.max_missing)
    parts = {name: np.flatnonzero((part == name) & whole) for name in PARTS}
    if len(parts["train"]) < 2:
        raise ValueError(f"{len(parts['train'])} samples are left to train on; at least 2 are needed, hold out fewer")
    states, normalisation, climatology = _standardised(config, raw, parts["train"], mask)
    leading, when = raw.levels, {name: Stamps.of(raw, parts[name]) for name in PARTS}
    if config.sequence == 1:
        split_states = {name: states[torch.from_numpy(parts[name])] for name in PARTS}
    else:
        stride = config.stride or config.sequence
        windows = {name: starts_of(raw.dates, raw.file, parts[name], config.sequence, stride) for name in PARTS}
        require_sequences(windows["train"], parts["train"], config.sequence)
        split_states = {name: joined(states, windows[name], normalisation.channels) for name in PARTS}
        normalisation = repeated(normalisation, config.sequence)
        leading = {STEP: step_coordinate(raw.dates, np.concatenate(list(windows.values()))), **raw.levels}
        when = {name: Stamps.of(raw, windows[name][:, 0]) for name in PARTS}
    train, validation, test = (split_states[name].reshape(-1, *normalisation.event_shape) for name in PARTS)
    return GriddedData(
        train,
        validation,
        test,
        normalisation=normalisation,
        variables=tuple(_described(v, config) for v in raw.variables),
        coordinates=raw.coordinates,
        leading=leading,
        auxiliary=raw.auxiliary,
        climatology=None if config.anomaly == "none" else climatology,
        absolute_names={v.name: absolute_names(_configured(v, config)) for v in raw.variables},
        excluded=int((~whole).sum()),
        files=tuple(raw.names),
        wrap=_wrap(config.wrap, raw.coordinates),
        when=when,
        overlap=-(-config.sequence // (config.stride or config.sequence)),
        calendar="" if isinstance(raw.dates, str) else raw.dates.calendar,
    )


def _standardised(
    config: DataConfig, raw: RawFields, train: np.ndarray, mask: np.ndarray
) -> tuple[Tensor, Normalisation, np.ndarray]:
    """States of single times [n, channels, *grid] float32, their normalisation, the climatology [12 or 1, channels, *grid]."""
    labels = channel_labels(raw.channels)
    wanted = {label: one for name, one in config.transforms.items() for label in labels[raw.channels[name]]}
    transforms, scores = transformed(labels, raw.values, wanted, train, mask)
    monthly = config.anomaly == "monthly"
    season = seasons_of(raw) if monthly else np.zeros(len(scores), dtype=np.int64)
    climatology = climatology_of(scores, train, season, 12 if monthly else 1)
    centred = scores - climatology[season]
    scale = scale_of(centred[train], mask, labels, config.scale, config.scale_floor)
    if config.area_weights:
        scale = area_weighted(scale, raw.coordinates[config.spatial_dims[0]].values.tolist())
    states = torch.from_numpy(np.where(mask, centred / scale, 0).astype(np.float32))
    added_back = climatology[0] if config.anomaly == "none" else np.zeros_like(scale)
    shapes = {v.name: v.sizes(raw.levels) for v in raw.variables}
    mean, scale = np.where(mask, added_back, 0), np.where(mask, scale, 1)
    return states, Normalisation(config.variables, mean, scale, mask, transforms, shapes), climatology


def _wrap(wrap: Wrap, coordinates: dict[str, Coordinate]) -> Wrap:
    """How a network continues a grid; without angles, as the recipe says. ValueError for angles that wrap both ways."""
    if not wrap or not geographic(coordinates):
        return wrap
    if wrap == "both":
        raise ValueError("data.wrap = 'both' is for planes that are periodic along rows and columns; with latitudes give true")
    reason = why_not_global(*(c.values for c in coordinates.values()))
    if reason is not None:
        log.warning("wrap = false is used, since the grid is not global: %s", reason)
    return reason is None


def _configured(variable: Variable, config: DataConfig) -> dict[str, Any]:
    """The attributes of the variable in its file, and those of the recipe in their place."""
    return {**variable.attrs, **config.attributes.get(variable.name, {})}


def _described(variable: Variable, config: DataConfig) -> Variable:
    """The variable with the configured attributes, and a long name that states what was removed."""
    attrs = _configured(variable, config)
    if config.anomaly != "none":
        attrs = anomaly_names(attrs, variable.name, config.anomaly)
    return Variable(variable.name, (STEP, *variable.dims) if config.sequence > 1 else variable.dims, attrs)
