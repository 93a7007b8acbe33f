"""Fields of any file as a model has them: its variables and units, on its grid, as anomalies if the model is one of anomalies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..schema.layout import Coordinate, Variable
from .anomalies import DECISIVE, Level, named_anomaly, nearer_zero, require_alike
from .gridded import static_mask
from .gridded_files import Request
from .inputs import expand
from .mistakes import gathered, named
from .reading import RawFields, read_files
from .selection import Choice
from .units import converted, same_units, units_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What fields have to be like to be compared with a model's.

    `variables` carry the model's units, `grid` its coordinates in order (latitude, longitude). `removed` [1 or 12,
    variables, lat, lon] is the climatology that a model of anomalies (`anomaly`) was trained without, `mean` [variables,
    lat, lon] the mean of a model of the fields themselves, both NaN where the model has no data; `spread` [variables] is the
    standard deviation about them. The other entries come from the model's recipe, see `Request`.
    """

    variables: tuple[Variable, ...]
    grid: Mapping[str, Coordinate]
    mask: np.ndarray
    spread: np.ndarray
    anomaly: bool = False
    mean: np.ndarray | None = None
    removed: np.ndarray | None = None
    sample_dims: tuple[str, ...] = ("time",)
    select: Mapping[str, Choice] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    missing_values: tuple[float, ...] = ()
    allow_outliers: tuple[str, ...] = ()
    max_missing: float = 0.1

    def request(self, most: int | None) -> Request:
        """What the reader of files is asked for."""
        latitude, longitude = self.grid
        return Request(
            variables=tuple(variable.name for variable in self.variables),
            spatial_dims=(latitude, longitude),
            sample_dims=self.sample_dims,
            select=self.select,
            rename=self.rename,
            missing_values=self.missing_values,
            allow_outliers=self.allow_outliers,
            exact=False,
            most=most,
        )


@dataclass(frozen=True)
class MatchedFields:
    """Fields [n, lat, lon] float32 by variable, and how many points of the model's, `gaps`, the file has no data at."""

    fields: dict[str, np.ndarray]
    gaps: int

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))


def read_like(files: str | Path, target: Target, *, most: int | None = None) -> MatchedFields:
    """Fields of a file, or of all files that match a glob, as the target has them; evenly spaced ones if there are over `most`.

    Samples with gaps of their own are left out, with a line in the log. Raises ValueError listing what does not fit.
    """
    paths = [Path(files)] if Path(files).exists() else expand([str(files)], Path(), str(files)) if "*" in str(files) else []
    if not paths:
        raise ValueError(f"{files}: no such file")
    raw = read_files(paths, target.request(most), target.grid)
    mistakes: list[str] = []
    values = np.full(raw.values.shape, np.nan, dtype=np.float32)
    for k in range(len(target.variables)):
        with gathered(mistakes):
            values[:, k] = _as_modelled(raw, k, target)
    if mistakes:
        raise ValueError(f"{', '.join(raw.names)}: {'; '.join(mistakes)}")
    values[:, ~target.mask] = np.nan
    there, whole = static_mask(np.where(target.mask, values, 0), target.max_missing)
    values[:, ~there] = np.nan
    fields = {variable.name: values[whole, k] for k, variable in enumerate(target.variables)}
    return MatchedFields(fields, int((target.mask & ~there).sum()))


def _as_modelled(raw: RawFields, k: int, target: Target) -> np.ndarray:
    """Variable number `k` in the model's units, less the climatology that the model was trained without."""
    variable, attrs = target.variables[k], raw.variables[k].attrs
    given, wanted = units_of(attrs), units_of(variable.attrs) or "1"
    if given is None and not same_units("", wanted):
        log.warning("%s: %s names no units; taken to be in %r, as the model's", raw.names[0], variable.name, wanted)
    with named(variable.name):
        absolute, apart = (
            raw.values[:, k] if given is None else converted(raw.values[:, k], given, wanted, difference=difference)
            for difference in (named_anomaly(attrs), True)
        )
    if given is not None and not same_units(given, wanted):
        log.warning("%s: %s converted from %r to %r", raw.names[0], variable.name, given, wanted)
    own = Level.of(absolute, attrs)
    if not target.anomaly:
        if target.mean is not None:
            mean = target.mean[k]
            spread = float(np.hypot(np.nanstd(mean), target.spread[k]))
            require_alike(variable.name, own, Level(float(np.nanmean(mean)), spread, anomaly=False))
        return absolute
    if target.removed is None:  # models of 0.1.0 did not keep the mean that they were trained without
        if abs(own.mean) > DECISIVE * max(own.std, float(target.spread[k])):
            raise ValueError(f"{variable.name} holds absolute values, and the model anomalies; subtract the mean first")
        return apart
    return _anomalies(raw, variable.name, absolute, apart, target.removed[:, k], anomaly=own.anomaly)


def _anomalies(
    raw: RawFields, name: str, absolute: np.ndarray, apart: np.ndarray, removed: np.ndarray, *, anomaly: bool
) -> np.ndarray:
    """Anomalies as they are in the file, or absolute values less the climatology `removed` [1 or 12, lat, lon]."""
    dated = not isinstance(raw.dates, str)
    months = raw.dates.month - 1 if not isinstance(raw.dates, str) and len(removed) == 12 else None
    climatology = removed[months] if months is not None else removed.mean(0, keepdims=True)
    are_anomalies = True if anomaly else nearer_zero(absolute, apart, climatology)
    if are_anomalies is None:
        raise ValueError(
            f"the model is one of anomalies, and the mean of {name} does not tell whether it holds anomalies or absolute values; "
            "write 'anomaly' into its long_name, or subtract the model's climatology (array climatology of its reference.h5)"
        )
    if are_anomalies:
        return apart
    if len(removed) == 12 and not dated:
        raise ValueError(
            f"{name} holds absolute values, the model anomalies from monthly means, and the file no months "
            f"({raw.dates or 'no dimension with dates'}); date its samples, or subtract the climatology"
        )
    log.warning("%s: the model's climatology is subtracted from %s", raw.names[0], name)
    return np.asarray(absolute - climatology, dtype=np.float32)
