"""The inputs of a conditional model: their description in a recipe, and their values for every sample of the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..schema.layout import Variable
from .classes import require_declared
from .dates import Dates, dates_of
from .gridded import DataConfig, GriddedData, Stamps
from .gridded_files import Request, open_fields, renamed
from .grids import geographic
from .inputs import PARTS, expand
from .mistakes import gathered, named
from .reading import read_files

Kind = Literal["lag", "map", "scalar", "class", "month", "ensemble_mean"]
MAPS = ("lag", "map")


class InputConfig(BaseModel):
    """One input of a condition.

    "lag" is the field of the model's own `variable` `lag` samples earlier; "map" and "scalar" are a `variable` of `files`, one
    field or one number per sample; "class" a whole number there below `classes`; "month" the calendar month of the sample;
    "ensemble_mean" the mean over the training samples of one date of the area mean of `variable`. Values from files are matched
    by date, or by position if there are no dates. By default `variable` is the first of the model's for "lag"
    and "ensemble_mean", and has the input's own name for the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    variable: str | None = None
    files: tuple[str, ...] = ()
    lag: int = Field(default=1, ge=1)
    classes: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        from_files = self.kind in ("map", "scalar", "class")
        if from_files != bool(self.files):
            raise ValueError(f'kind = "{self.kind}" {"needs `files`" if from_files else "takes no `files`"}')
        require_declared(self.kind, self.classes)
        if self.kind != "lag" and self.lag != 1:
            raise ValueError(f'`lag` belongs to kind = "lag", not "{self.kind}"')
        return self


class ConditionConfig(BaseModel):
    """The section `condition` of a recipe: its inputs by name, and the share of training states without a condition.

    With `dropout` above 0 a network also learns the unconditional score, which guidance needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[str, InputConfig] = Field(min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Input(Protocol):
    """The description of an input: see `models.record.InputCard` and `models.adapter_condition.InputSpec`."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def variable(self) -> str: ...

    @property
    def units(self) -> str: ...

    @property
    def lag(self) -> int: ...

    @property
    def classes(self) -> int: ...

    @property
    def mean(self) -> float: ...

    @property
    def spread(self) -> float: ...

    @property
    def own_dims(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class InputValues:
    """One input in its own units: for each part of the data [n, lat, lon] or [n], NaN where a sample has none."""

    kind: Kind
    variable: str
    units: str
    lag: int
    classes: int
    parts: Mapping[str, np.ndarray]


def read_inputs(config: ConditionConfig, recipe: DataConfig, data: GriddedData, root: Path) -> dict[str, InputValues]:
    """The inputs' values for all samples of the data; ValueError listing everything that does not fit."""
    mistakes: list[str] = []
    found = {}
    for name, given in config.inputs.items():
        with gathered(mistakes), named(f"condition.inputs.{name}:"):
            found[name] = _read(name, given, recipe, data, root)
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return found


def _read(name: str, given: InputConfig, recipe: DataConfig, data: GriddedData, root: Path) -> InputValues:
    variable = given.variable or (recipe.variables[0] if given.kind in ("lag", "ensemble_mean") else name)
    if given.kind == "month":
        return _values(given, name, "1", {part: _month(data.when[part]) for part in PARTS})
    if given.kind in ("lag", "ensemble_mean"):
        if variable not in recipe.variables:
            raise ValueError(f"{variable} is not among the variables {', '.join(recipe.variables)}")
        _require_single(given.kind, data.variables[recipe.variables.index(variable)], data)
        units = str(data.variables[recipe.variables.index(variable)].attrs.get("units", "1"))
        fields = {part: data.normalisation.decode(getattr(data, part))[variable] for part in PARTS}
        parts = _lagged(given.lag, fields, data.when) if given.kind == "lag" else _ensemble_mean(fields, data)
        return _values(given, variable, units, parts)
    values, stamps, units = _from_files(given, variable, recipe, data, root)
    return _values(given, variable, units, {part: _matched(values, stamps, data, part) for part in PARTS})


def _require_single(kind: str, variable: Variable, data: GriddedData) -> None:
    """Raise ValueError for a variable with levels or steps, whose earlier fields and means are not single maps and numbers."""
    leading = [f"{len(data.leading[dim].values)} values of {dim}" for dim in variable.dims if dim in data.leading]
    if leading:
        raise ValueError(
            f"a sample of {variable.name} has {' and '.join(leading)}, and kind = {kind!r} takes a variable that is one field a "
            'sample; give what the samples follow from as files (kind = "map" or "scalar", matched by the date of the first step)'
        )


def _values(given: InputConfig, variable: str, units: str, parts: Mapping[str, np.ndarray]) -> InputValues:
    return InputValues(given.kind, variable, units, given.lag if given.kind == "lag" else 0, given.classes or 0, parts)


def _month(when: Stamps) -> np.ndarray:
    if when.month is None:
        raise ValueError("the samples have no dates, so their month is unknown")
    return when.month.astype(np.float64)


def _lagged(lag: int, fields: Mapping[str, np.ndarray], when: Mapping[str, Stamps]) -> dict[str, np.ndarray]:
    """The field `lag` samples before each sample: of the same file where dates repeat, and across no gap."""
    days = [stamps.day for stamps in when.values() if stamps.day is not None]
    if len(days) != len(when):
        raise ValueError("the samples have no dates, so what came before them is unknown")
    day, series = np.concatenate(days), np.concatenate([stamps.series for stamps in when.values()])
    if len(np.unique(day)) == len(day):
        series = np.zeros_like(series)
    everything = np.concatenate([fields[part] for part in when])
    order = np.lexsort((day, series))
    gap = np.diff(day[order])[np.diff(series[order]) == 0]
    usual = float(np.median(gap)) if len(gap) else 0.0
    before = np.full(everything.shape, np.nan, dtype=np.float32)
    here, there = order[lag:], order[:-lag] if lag < len(order) else order[:0]
    near = (series[here] == series[there]) & (day[here] - day[there] <= (lag + 0.5) * usual)
    before[here[near]] = everything[there[near]]
    counts = np.cumsum([len(fields[part]) for part in when])[:-1]
    return dict(zip(when, np.split(before, counts), strict=True))


def _ensemble_mean(fields: Mapping[str, np.ndarray], data: GriddedData) -> dict[str, np.ndarray]:
    """For every sample the mean over the training samples of its date of the area mean [n]."""
    means = {part: area_mean(values, data) for part, values in fields.items()}
    dates = {part: data.when[part].key for part in PARTS}
    trained = dates["train"]
    if trained is None:
        raise ValueError("the samples have no dates, so it is unknown which belong together")
    unique, place = np.unique(trained, return_inverse=True)
    mean = np.bincount(place, means["train"]) / np.bincount(place)
    out = {}
    for part, key in dates.items():
        assert key is not None
        at = np.searchsorted(unique, key).clip(max=len(unique) - 1)
        out[part] = np.where(unique[at] == key, mean[at], np.nan)
    return out


def area_mean(fields: np.ndarray, data: GriddedData) -> np.ndarray:
    """The mean [n] of fields [n, *grid] over the points with data, by area on a geographic grid."""
    latitudes = next(iter(data.coordinates.values())).values
    weights = np.cos(np.deg2rad(latitudes)) if geographic(data.coordinates) else np.ones(len(latitudes))
    rows = np.nan_to_num(fields).reshape(*fields.shape[:2], -1)
    full = np.where(np.isfinite(fields).reshape(rows.shape), weights[:, None], 0.0)
    return np.asarray((rows * full).sum((1, 2)) / full.sum((1, 2)))


def _from_files(
    given: InputConfig, variable: str, recipe: DataConfig, data: GriddedData, root: Path
) -> tuple[np.ndarray, Stamps, str]:
    paths = expand(given.files, root, "files")
    if given.kind == "map":
        request = Request((variable,), recipe.spatial_dims, recipe.sample_dims, rename=recipe.rename)
        raw = read_files(paths, request, {**data.auxiliary, **data.coordinates})
        stamps = Stamps.of(raw, np.arange(len(raw.values)))
        return raw.values[:, 0], stamps, str(raw.variables[0].attrs.get("units", "1"))
    series = [_series(renamed(open_fields(path), recipe.rename), variable, recipe.sample_dims) for path in paths]
    units = {unit for _, _, unit in series}
    if len(units) > 1:
        raise ValueError(f"{variable} is in {' and '.join(sorted(units))}; convert the files to one")
    dates = [found for _, found, _ in series if not isinstance(found, str)]
    file = np.repeat(np.arange(len(series)), [len(values) for values, _, _ in series])
    dated = len(dates) == len(series)
    key, month = (np.concatenate([getattr(d, name) for d in dates]) if dated else None for name in ("key", "month"))
    stamps = Stamps(key, month, file)
    return np.concatenate([values for values, _, _ in series]), stamps, units.pop()


def _series(dataset: xr.Dataset, variable: str, sample_dims: tuple[str, ...]) -> tuple[np.ndarray, Dates | str, str]:
    """The numbers of a variable along the sample dimensions, their dates, and their units."""
    if variable not in dataset:
        raise ValueError(f"there is no {variable}; the file has {', '.join(map(str, dataset.data_vars))}")
    array = dataset[variable]
    others = [str(dim) for dim in array.dims if dim not in sample_dims]
    if others:
        raise ValueError(
            f"{variable} has the dimension(s) {', '.join(others)} beside {', '.join(sample_dims)}; it must be one number a sample"
        )
    dims = [dim for dim in sample_dims if dim in array.dims]
    dates = dates_of(dataset, dims, variable)
    return array.transpose(*dims).values.ravel().astype(np.float64), dates, str(array.attrs.get("units", "1"))


def _matched(values: np.ndarray, stamps: Stamps, data: GriddedData, part: str) -> np.ndarray:
    """The values [n, ...] of a part's samples by their dates, or all values in order where neither has dates."""
    wanted = data.when[part]
    if wanted.key is None or stamps.key is None:
        counts = [len(data.when[name].file) for name in PARTS]
        if wanted.key is not None or stamps.key is not None or sum(counts) != len(values):
            raise ValueError("values and samples cannot be matched: both need dates, or neither and equal numbers")
        start = sum(counts[: PARTS.index(part)])
        return values[start : start + len(wanted.file)]
    unique, first, counts_of = np.unique(stamps.key, return_index=True, return_counts=True)
    if (counts_of > 1).any():
        raise ValueError(f"{int((counts_of > 1).sum())} dates occur more than once in its files; give one value a date")
    at = np.searchsorted(unique, wanted.key).clip(max=len(unique) - 1)
    found: np.ndarray = values[first[at]].astype(np.float64)
    found[unique[at] != wanted.key] = np.nan
    return found
