"""The reader of all gridded fields: every file is opened, its fields selected, corrected and checked here.

Mistakes that can be corrected in only one way are corrected, with a line in the log; all others are reported at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate, Variable
from .alignment import Coordinates, channels_of, common, kept_attributes, placed
from .anomalies import Level, named_anomaly, require_alike, require_own_units
from .dates import Dates, dates_of
from .gridded_files import Request, chosen, open_fields, renamed, thinning
from .missing import Outliers, declared_missing, equal_to, outliers, outside_valid, where
from .mistakes import gathered, named, undamaged
from .units import are_known, converted, same_units, units_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawFields:
    """Fields as they are in the files: `values` [samples, channels, *grid] float32, NaN where missing.

    A variable has a channel for each of its levels. `file` [samples] numbers the file each sample came from, `names` are those
    files' names. `dates` has the date of every sample, in order, or is a text with the reason why there are none. `coordinates`
    are those of the grid, `levels` those of dimensions kept in every sample, and `auxiliary` all others of the fields.
    """

    values: np.ndarray
    file: np.ndarray
    names: tuple[str, ...]
    dates: Dates | str
    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]
    levels: dict[str, Coordinate]
    auxiliary: dict[str, Coordinate]

    @property
    def channels(self) -> dict[str, slice]:
        """The slice of channels that belongs to each variable."""
        return channels_of(self.variables, self.levels)


@dataclass(frozen=True)
class _Part:
    """The content of a file: `single` has values along dimensions of length one, `sizes` mean and spread of every variable."""

    values: np.ndarray
    dates: Dates | str
    variables: tuple[Variable, ...]
    grid: Coordinates
    single: dict[str, Any]
    sizes: tuple[Level, ...]
    notes: list[str]


def read_files(paths: Sequence[Path], request: Request, grid: Mapping[str, Coordinate] | None = None) -> RawFields:
    """The requested variables of all files, on the first file's grid or on `grid`, in order of their dates.

    Among the coordinates of `grid` those of cells have their latitudes and longitudes.

    Samples without dates keep the order of the files. Raises ValueError listing everything that does not fit.
    """
    parts: list[_Part] = []
    mistakes: list[str] = []
    names: set[str] = set()
    for path in paths:
        with gathered(mistakes), named(f"{path.name or path}:"), undamaged(), open_fields(path) as dataset:
            names |= {str(name) for name in (*dataset.variables, *dataset.dims)}
            part = _read(renamed(dataset, request.rename), request, grid, parts[0] if parts else None)
            for own, first, variable in zip(part.sizes, (parts or [part])[0].sizes, request.variables, strict=True):
                require_alike(variable, own, first)
            parts.append(part)
            request = request.at(parts[0].grid.levels)
            for note in part.notes:
                log.warning("%s: %s", path.name, note)
    unknown = sorted(set(request.rename) - names) if request.exact else []
    mistakes += [f"rename: no file has a {name!r}" for name in unknown]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    counts = [len(part.values) for part in parts]
    together = RawFields(
        values=np.concatenate([part.values for part in parts]),
        file=np.repeat(np.arange(len(parts)), counts),
        names=tuple(path.name for path in paths),
        dates=_all_dates([part.dates for part in parts], [path.name for path in paths]),
        variables=parts[0].variables,
        coordinates=parts[0].grid.grid,
        levels=parts[0].grid.levels,
        auxiliary=common([part.grid.auxiliary for part in parts]),
    )
    return together if isinstance(together.dates, str) else taken(together, np.argsort(together.dates.key, kind="stable"))


def taken(raw: RawFields, which: np.ndarray) -> RawFields:
    """Some of the samples, by index."""
    dates = raw.dates if isinstance(raw.dates, str) else raw.dates.taken(which)
    return replace(raw, values=raw.values[which], file=raw.file[which], dates=dates)


def _read(dataset: xr.Dataset, request: Request, grid: Mapping[str, Coordinate] | None, first: _Part | None) -> _Part:
    """One file, in the units and on the grid of the first; the caller logs the corrections."""
    fields, sample_dims = chosen(dataset, request)
    some = thinning(fields, sample_dims, request.most)
    fields, dataset = fields.isel(some), dataset.isel(some)
    notes: list[str] = []
    mistakes: list[str] = []
    dates: Dates | str = ""
    for variable in request.variables:
        with gathered(mistakes):
            values = _present(fields[variable], request, notes)
            fields = fields.assign({variable: (fields[variable].dims, values, fields[variable].attrs)})
    with gathered(mistakes):
        dates = dates_of(dataset, sample_dims, request.variables[0])
    with gathered(mistakes):
        fields = placed(dataset, fields, request, grid if first is None else first.grid.places, notes, part=first is None)
    single = {str(dim): fields[dim].values for dim in fields.coords if dim in dataset.dims and fields[dim].ndim == 0}
    if first is not None:
        mistakes += _other_values(single, first.single)
    for k, variable in enumerate(request.variables):
        with gathered(mistakes):
            given = None if first is None else first.variables[k].attrs.get("units", "")
            level = None if first is None else first.sizes[k]
            fields = fields.assign({variable: _in_units(fields[variable], request.units.get(variable, given), level, notes)})
    if mistakes:
        raise ValueError("; ".join(mistakes))
    shape = tuple(fields.sizes[dim] for dim in request.spatial_dims)
    count = prod(fields.sizes[dim] for dim in sample_dims)
    parts = [fields[variable].values.reshape(count, -1, *shape) for variable in request.variables]
    variables = tuple(
        Variable(name, tuple(str(d) for d in fields[name].dims if d not in sample_dims), kept_attributes(fields[name].attrs))
        for name in request.variables
    )
    sizes = tuple(Level.of(part, variable.attrs) for part, variable in zip(parts, variables, strict=True))
    notes += [] if isinstance(dates, str) else dates.notes
    coordinates = Coordinates.of(dataset, fields, request)
    return _Part(np.concatenate(parts, axis=1), dates, variables, coordinates, single, sizes, notes)


def _present(array: xr.DataArray, request: Request, notes: list[str]) -> np.ndarray:
    """Values float32 with NaN for all missing values; ValueError for those that are not declared."""
    name = str(array.name)
    outside = outside_valid(array)
    values = array.values.astype(np.float32)
    by_file = equal_to(values, declared_missing(array)) & ~outside
    declared = equal_to(values, request.missing_values) & ~outside & ~by_file
    found_missing = (outside, "outside its valid range"), (by_file, "declared missing"), (declared, "in missing_values")
    for found, why in found_missing:
        if found.any():
            notes.append(f"{int(found.sum())} values of {name} are {why}, and taken as missing")
    values[outside | by_file | declared] = np.nan
    if not np.isfinite(values).any():
        left = "value within its valid range" if outside.any() else "finite value at all"
        raise ValueError(f"{name} has no {left}")
    groups = [] if name in request.allow_outliers else outliers(values)
    if groups:
        listed = "; ".join(_outliers(array, values, group) for group in groups)
        raise ValueError(f"{listed}; {_advice(name, groups, request)}")
    return values


def _advice(name: str, groups: Sequence[Outliers], request: Request) -> str:
    """How to declare outliers as missing, or as real."""
    if not request.exact:
        return "mark them as missing in the file, with _FillValue, missing_value or valid_range"
    single = [f"{group.lowest:g}" for group in groups if group.lowest == group.highest]
    declare = f"declare data.missing_values = [{', '.join(single)}]" if single else "give the file a valid_range"
    return f"{declare} or, if they are real, data.allow_outliers = [{name!r}]"


def _outliers(array: xr.DataArray, values: np.ndarray, group: Outliers) -> str:
    place = np.unravel_index(int(np.argmax(where(values, group))), values.shape)
    at = ", ".join(f"{dim} {k}" for dim, k in zip(array.dims, place, strict=True))
    rest = f"{group.rest[0]:g} to {group.rest[1]:g}"
    return f"{array.name} has {group.count} values of {group.value}, first at {at}, far from all others ({rest})"


def _other_values(own: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """Dimensions of length one with another value in the first file, which could not be distinguished later."""
    differing = [dim for dim in own.keys() & first.keys() if not _equal(own[dim], first[dim])]
    return [
        f"its {dim} is {own[dim]}, and {first[dim]} in the first file; name {dim} in sample_dims, or use files of one"
        for dim in sorted(differing)
    ]


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    numbers = a.dtype.kind in "fiu" and b.dtype.kind in "fiu"
    return bool(np.isclose(a, b, rtol=1e-3)) if numbers else bool(a == b)


def _in_units(array: xr.DataArray, wanted: str | None, first: Level | None, notes: list[str]) -> xr.DataArray:
    """An array in the wanted units; ValueError if it was in these before, by its mean and that of the `first` file."""
    given = units_of(array.attrs)
    if wanted is None:
        if given is not None and not are_known(given):
            notes.append(f"{array.name} is in {given!r}, which pint does not know; kept, but nothing is converted to it")
        return array
    if wanted == "" and given is not None:
        notes.append(f"{array.name} is in {given!r}; earlier files have no units, and are assumed to be in the same")
        return array
    if given is None:
        if same_units("", wanted):
            return array
        notes.append(f"{array.name} has no units; assumed to be in {wanted!r}")
        return array.assign_attrs(units=wanted)
    with named(str(array.name)):
        values = converted(array.values, given, wanted, difference=named_anomaly(array.attrs))
        if first is not None:
            own = Level.of(values, array.attrs)
            require_own_units(float(np.nanmean(array.values, dtype=np.float64)), own, first, (given, wanted))
    if not same_units(given, wanted):
        notes.append(f"{array.name} converted from {given!r} to {wanted!r}")
    return array.copy(data=values).assign_attrs(units=wanted)


def _all_dates(dates: Sequence[Dates | str], names: Sequence[str]) -> Dates | str:
    """The dates of all files, or the reason why they cannot be put in order."""
    found = [date for date in dates if not isinstance(date, str)]
    if len(found) == len(dates):
        return Dates.joined(found)
    reasons = [f"{name}: {date}" for name, date in zip(names, dates, strict=True) if isinstance(date, str)]
    if found or any(" since " in reason for reason in reasons):
        log.warning("samples are taken in the order of the files, since not all have dates: %s", "; ".join(reasons))
    return "; ".join(reasons)
