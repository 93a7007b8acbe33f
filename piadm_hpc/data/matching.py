"""Fields of any file in the form of a model: its variables and units, on its grid, as anomalies if the model draws anomalies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..schema.layout import Coordinate, Variable
from .anomalies import Level, as_anomalies, named_anomaly, require_alike, require_anomalies, require_own_units
from .gridded_files import Request
from .inputs import expand
from .mistakes import gathered, named
from .reading import RawFields, read_files
from .selection import Choice
from .sequences import starts_of
from .standard import static_mask
from .units import converted, same_units, units_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The form in which fields can be compared with those of a model.

    `variables` carry the model's units, `grid` its coordinates in order (latitude, longitude), or those of its cells, whose
    latitudes and longitudes are in `cells`; `levels` are the coordinates of further dimensions of each field, and `sequence` is
    the number of times of a sample. `mask` [channels, *grid] has a channel for each level. `removed` [1 or 12, channels, *grid]
    is the climatology that a model of anomalies (`anomaly`) was trained without, `mean` [channels, *grid] the mean of a model of
    the fields themselves, both NaN where the model has no data; `spread` [channels] is the standard deviation about them. The
    other entries come from the model's recipe, see `Request`.
    """

    variables: tuple[Variable, ...]
    grid: Mapping[str, Coordinate]
    mask: np.ndarray
    spread: np.ndarray
    anomaly: bool = False
    mean: np.ndarray | None = None
    removed: np.ndarray | None = None
    levels: Mapping[str, Coordinate] = field(default_factory=dict)
    cells: Mapping[str, Coordinate] = field(default_factory=dict)
    sequence: int = 1
    sample_dims: tuple[str, ...] = ("time",)
    select: Mapping[str, Choice] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    missing_values: tuple[float, ...] = ()
    allow_outliers: tuple[str, ...] = ()
    max_missing: float = 0.1

    def request(self, most: int | None) -> Request:
        """The request to the reader of files."""
        return Request(
            variables=tuple(variable.name for variable in self.variables),
            spatial_dims=tuple(self.grid),
            sample_dims=self.sample_dims,
            select=self.select,
            rename=self.rename,
            missing_values=self.missing_values,
            allow_outliers=self.allow_outliers,
            exact=False,
            most=most,
        ).at(self.levels)


@dataclass(frozen=True)
class MatchedFields:
    """Fields [n, *levels, *grid] float32 by variable, and the number `gaps` of the model's points without data in the file.

    Fields of sequences are [n, steps, *levels, *grid].
    """

    fields: dict[str, np.ndarray]
    gaps: int

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))


def read_like(files: str | Path, target: Target, *, most: int | None = None, sequences: bool = False) -> MatchedFields:
    """Fields of a file, or of all files that match a glob, in the form of the target; of more than `most`, evenly spaced ones.

    They are fields of single times, or all the `sequences` that the target has, which follow each other without overlap.
    Samples with gaps of their own are left out, with a line in the log. Raises ValueError listing what does not fit.
    """
    paths = [Path(files)] if Path(files).exists() else expand([str(files)], Path(), str(files)) if "*" in str(files) else []
    if not paths:
        raise ValueError(f"{files}: no such file")
    length = target.sequence if sequences else 1
    raw = read_files(paths, target.request(most if length == 1 else None), {**target.grid, **target.cells})
    mistakes: list[str] = []
    values = np.full(raw.values.shape, np.nan, dtype=np.float32)
    for number, part in enumerate(raw.channels.values()):
        with gathered(mistakes):
            values[:, part] = _as_modelled(raw, number, part, target)
    if mistakes:
        raise ValueError(f"{', '.join(raw.names)}: {'; '.join(mistakes)}")
    values[:, ~target.mask] = np.nan
    there, whole = static_mask(np.where(target.mask, values, 0), target.max_missing)
    values[:, ~there] = np.nan
    gaps = int((target.mask & ~there).sum())
    members = np.flatnonzero(whole)[:, None]
    if length > 1:
        members = starts_of(raw.dates, raw.file, members[:, 0], length, length)
        if not len(members):
            raise ValueError(f"{', '.join(raw.names)}: no {length} samples follow each other without a gap in time")
    fields = {}
    for variable, part in zip(target.variables, raw.channels.values(), strict=True):
        leading = variable.sizes(target.levels)
        steps = (length,) if length > 1 else ()
        fields[variable.name] = values[:, part][members].reshape(len(members), *steps, *leading, *values.shape[2:])
    return MatchedFields(fields, gaps)


def _as_modelled(raw: RawFields, number: int, part: slice, target: Target) -> np.ndarray:
    """A variable, its channels `part`, in the model's units, less the climatology that was removed before training."""
    variable, attrs = target.variables[number], raw.variables[number].attrs
    given, wanted = units_of(attrs), units_of(variable.attrs) or "1"
    if given is None and not same_units("", wanted):
        log.warning("%s: %s has no units; assumed to be in %r, as the model's", raw.names[0], variable.name, wanted)
    with named(variable.name):
        absolute, apart = (
            raw.values[:, part] if given is None else converted(raw.values[:, part], given, wanted, difference=difference)
            for difference in (named_anomaly(attrs), True)
        )
    if given is not None and not same_units(given, wanted):
        log.warning("%s: %s converted from %r to %r", raw.names[0], variable.name, given, wanted)
    own = Level.of(absolute, attrs)
    if not target.anomaly:
        if target.mean is not None:
            mean = target.mean[part]
            spread = float(np.hypot(np.nanstd(mean), np.sqrt(np.mean(target.spread[part] ** 2))))
            level = Level(float(np.nanmean(mean)), spread, anomaly=False)
            if given is not None:
                with named(variable.name):
                    require_own_units(float(np.nanmean(raw.values[:, part], dtype=np.float64)), own, level, (given, wanted))
            require_alike(variable.name, own, level)
        return absolute
    subtracted, fields = False, apart
    if target.removed is not None:  # models of 0.1.0 did not keep the mean that they were trained without
        months = (raw.dates or "no dimension with dates") if isinstance(raw.dates, str) else raw.dates.month
        fields, subtracted = as_anomalies(variable.name, absolute, apart, target.removed[:, part], months, anomaly=own.anomaly)
    if subtracted:
        log.warning("%s: the model's climatology is subtracted from %s", raw.names[0], variable.name)
    elif not own.anomaly:
        require_anomalies(variable.name, fields, float(target.spread[part].max()))
    return fields
