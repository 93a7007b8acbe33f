"""Dates of samples: decoded dates, the month that a stamp stands for, samples that occur twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod

import numpy as np
import xarray as xr

from .missing import outliers, stands_for_missing, where
from .mistakes import few

NUMPY_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
EPOCH = "seconds since 1970-01-01"

MONTH = 31 * 86400
"""Increase of the key of a date from month to month: every month has room for the seconds of 31 days."""


@dataclass(frozen=True)
class Dates:
    """Dates of samples [n]: `key` rises with time in any calendar, `month` is the calendar month 1-12.

    `day` counts days, with their fractions, and `series` numbers the samples that follow each other in time: the ensemble
    members of each file, from 0 on. `calendar` is CF's name of the calendar. `notes` has a line for each interpretation of the
    stamps.
    """

    key: np.ndarray
    month: np.ndarray
    day: np.ndarray
    series: np.ndarray
    calendar: str
    notes: tuple[str, ...] = ()

    def taken(self, which: np.ndarray) -> Dates:
        """Return the dates of some samples, by index."""
        return Dates(self.key[which], self.month[which], self.day[which], self.series[which], self.calendar)

    @classmethod
    def joined(cls, dates: Sequence[Dates]) -> Dates:
        """Return the dates of several files, one after the other; every file has series of its own."""
        key, month, day = (np.concatenate([getattr(d, name) for d in dates]) for name in ("key", "month", "day"))
        most = 1 + max(int(d.series.max(initial=0)) for d in dates)
        series = np.concatenate([number * most + d.series for number, d in enumerate(dates)])
        return cls(key, month, day, series, dates[0].calendar)


def dates_of(dataset: xr.Dataset, sample_dims: Sequence[str], variable: str) -> Dates | str:
    """Dates of all samples, row by row over `sample_dims`, or the reason why there are none.

    The dataset's times are not decoded yet. A stamp stands for the middle of its bounds. Without bounds, a mean over time
    stamped at the first instants of February to January stands for the months that end there. Raises ValueError for
    times that are missing.
    """
    reasons = []
    for dim in sample_dims:
        stamps = decoded(dataset, dim)
        if isinstance(stamps, str):
            reasons.append(stamps)
            continue
        stamps, notes = _middle(dataset, dim, stamps, str(dataset[variable].attrs.get("cell_methods", "")))
        key, month = _key(stamps), stamps.dt.month.values.astype(np.int64)
        if notes == [END_OF_MONTH.format(dim)]:
            month = (month - 2) % 12 + 1
        shape = [dataset.sizes[d] for d in sample_dims]
        along = [-1 if d == dim else 1 for d in sample_dims]
        across = [1 if d == dim else dataset.sizes[d] for d in sample_dims]
        series = np.arange(prod(across)).reshape(across)
        parts = (*(values.reshape(along) for values in (key, month, _days(stamps))), series)
        key, month, day, series = (np.broadcast_to(part, shape).ravel() for part in parts)
        return Dates(key, month, day, series, str(dataset[dim].attrs.get("calendar", stamps.dt.calendar)), tuple(notes))
    return "; ".join(reasons)


END_OF_MONTH = "{0} holds the ends of months (means over time, stamped from February to January); labelled by the month before"
FIRST_INSTANTS = (
    "{0} holds the first instants of February to January, taken as the beginnings of these months; "
    "if they are the ends of January to December, add bounds or cell_methods = 'time: mean' to the file"
)
EITHER = (
    "{0} holds the first instants of months, and its fields are means over time; taken as the beginnings of these months; "
    "if they are the ends of the months before, add bounds to the file"
)


def decoded(dataset: xr.Dataset, dim: str) -> xr.DataArray | str:
    """The dates along a dimension, or the reason why it has none. Raises ValueError for dates that are missing."""
    if dim not in dataset.coords:
        return f"{dim} has no coordinate"
    raw = dataset[dim]
    if raw.dtype.kind == "M":
        return raw
    units, calendar = raw.attrs.get("units"), raw.attrs.get("calendar")
    described = f"{dim} has {'no units' if units is None else f'units {str(units)!r}'}"
    described += "" if calendar is None else f" and calendar {str(calendar)!r}"
    if raw.dtype.kind not in "fiu":
        return f"{dim} holds {raw.dtype}, not times"
    if units is None or " since " not in str(units):
        return described + ("" if units is None else ", which are no time since a date")
    _require_times(dim, raw.values.astype(np.float64))
    attrs = {name: raw.attrs[name] for name in ("units", "calendar") if name in raw.attrs}
    try:
        return xr.decode_cf(xr.Dataset(coords={dim: (dim, raw.values, attrs)}), decode_timedelta=False)[dim]
    except (ValueError, TypeError, OverflowError, ImportError):
        return f"{described}, which cannot be decoded"


def _require_times(dim: str, values: np.ndarray) -> None:
    """Raise ValueError for times [n] that are missing, or numbers that programs write for a missing one, far from all others."""
    absent = np.flatnonzero(~np.isfinite(values))
    if len(absent):
        raise ValueError(
            f"{dim} is missing for {len(absent)} of {values.size} samples, at positions {few([*absent], 5)}; remove them"
        )
    for group in outliers(values):
        if stands_for_missing(group.lowest) and group.lowest == group.highest:
            places = np.flatnonzero(where(values, group))
            raise ValueError(
                f"{dim} is {group.value} for {group.count} of {values.size} samples, at positions {few([*places], 5)}, far from "
                f"all others ({group.rest[0]:g} to {group.rest[1]:g}); remove them, or put their dates right"
            )


def _middle(dataset: xr.Dataset, dim: str, stamps: xr.DataArray, cell_methods: str) -> tuple[xr.DataArray, list[str]]:
    """Dates in the middle of their bounds, if the file has any, and a note about it."""
    name = dataset[dim].attrs.get("bounds")
    if name in dataset and dataset[name].ndim == 2 and dataset[name].shape == (stamps.size, 2):
        # CF section 7.1: bounds have the units and the calendar of their coordinate
        attrs = dataset[name].attrs | {key: dataset[dim].attrs[key] for key in ("units", "calendar") if key in dataset[dim].attrs}
        ends = dataset[name].values.astype(np.float64)
        _require_around(str(name), ends, dim, dataset[dim].values)
        middle = decoded(xr.Dataset(coords={dim: (dim, ends.mean(1), attrs)}), dim)
        if not isinstance(middle, str):
            moved = int((middle.dt.month.values != stamps.dt.month.values).sum())
            return middle, [f"{moved} stamps of {dim} are labelled by the middle of {name}"] if moved else []
    if not _first_instants(stamps) or stamps.dt.month.values[0] == 1:
        return stamps, []
    mean = _mean_over(cell_methods, dim)
    if stamps.size % 12 == 0 and stamps.dt.month.values[0] == 2:
        return stamps, [(END_OF_MONTH if mean else FIRST_INSTANTS).format(dim)]
    return stamps, [EITHER.format(dim)] if mean else []


def _require_around(name: str, ends: np.ndarray, dim: str, times: np.ndarray) -> None:
    """Raise ValueError for bounds [n, 2] that are missing, or farther from their times [n] than they are apart."""
    absent = np.flatnonzero(~np.isfinite(ends).all(1))
    if len(absent):
        raise ValueError(
            f"{name} is missing for {len(absent)} of {len(ends)} samples, at positions {few([*absent], 5)}; remove it"
        )
    if times.dtype.kind not in "fiu":
        return  # dates that were decoded elsewhere
    outside = np.flatnonzero(np.abs(times - ends.mean(1)) > np.abs(ends[:, 1] - ends[:, 0]) * (1 + 1e-6))
    if len(outside):
        k = int(outside[0])
        raise ValueError(
            f"{name} does not hold {dim} for {len(outside)} of {len(ends)} samples, at positions {few([*outside], 5)} ({dim} "
            f"{times[k]:g}, bounds {ends[k, 0]:g} to {ends[k, 1]:g}); put the bounds right, in the units of {dim}, or remove them"
        )


def _first_instants(stamps: xr.DataArray) -> bool:
    """Whether stamps are the first instants of consecutive months."""
    month = stamps.dt.year.values * 12 + stamps.dt.month.values
    seconds = (stamps.dt.day.values - 1) * 86400 + stamps.dt.hour.values * 3600 + stamps.dt.minute.values * 60
    return bool(stamps.size > 1 and (np.diff(month) == 1).all() and not seconds.any())


def _mean_over(cell_methods: str, dim: str) -> bool:
    words = cell_methods.replace(":", " ").split()
    return dim in words and any(method in words for method in ("mean", "sum", "maximum", "minimum", "mid_range"))


def _days(stamps: xr.DataArray) -> np.ndarray:
    """Days since 1970, with their fractions, in the stamps' own calendar."""
    if stamps.dtype.kind == "M":
        seconds: np.ndarray = stamps.values.astype("datetime64[s]").astype(np.int64)
        return seconds / 86400
    from cftime import date2num  # only xarray's dates of other calendars need it, and then it is installed

    return np.asarray(date2num(stamps.values, "days since 1970-01-01", calendar=stamps.dt.calendar), dtype=np.float64)


def _key(stamps: xr.DataArray) -> np.ndarray:
    """An integer that rises with time, in any calendar."""
    part = {
        name: getattr(stamps.dt, name).values.astype(np.int64) for name in ("year", "month", "day", "hour", "minute", "second")
    }
    days = (part["year"] * 12 + part["month"] - 1) * 31 + part["day"] - 1
    key: np.ndarray = ((days * 24 + part["hour"]) * 60 + part["minute"]) * 60 + part["second"]
    return key


def text_of(key: int) -> str:
    """The date of a key as YYYY-MM-DD."""
    days = int(key) // 86400
    month, day = divmod(days, 31)
    year, month = divmod(month, 12)
    return f"{year:04d}-{month + 1:02d}-{day + 1:02d}"


def from_text(texts: np.ndarray, calendar: str | None = None) -> np.ndarray:
    """Return dates [n] written as text, in a CF `calendar`; numpy's dates for its own calendar, and where none is named.

    Texts that are no dates of the calendar stay as they are, as do those of other calendars where cftime is not installed.
    """
    words = [one.decode() if isinstance(one, bytes) else str(one) for one in texts.tolist()]
    try:
        if calendar in (None, *NUMPY_CALENDARS):
            return np.array(words).astype("datetime64[ns]")
        import cftime

        plain = [cftime.datetime(*map(int, re.findall(r"\d+", text)), calendar=calendar) for text in words]
        numbers = cftime.date2num(plain, EPOCH, calendar=calendar)
        return np.asarray(cftime.num2date(numbers, EPOCH, calendar=calendar, only_use_cftime_datetimes=True), dtype=object)
    except (ValueError, TypeError, ImportError):
        return texts


def first_alike(values: np.ndarray, key: np.ndarray | None) -> np.ndarray:
    """For every sample [n, ...] the number of the first one with the same date and the same field; constant fields never match.

    Without dates only the fields are compared.
    """
    count = len(values)
    first = np.arange(count)
    dates = np.zeros(count, dtype=np.int64) if key is None else key
    _, group, sizes = np.unique(dates, return_inverse=True, return_counts=True)
    numbers: dict[tuple[int, bytes], int] = {}
    for k in np.flatnonzero(sizes[group] > 1):
        field = values[k]
        if np.nanmin(field) < np.nanmax(field):
            digest = blake2b(np.ascontiguousarray(field).tobytes(), digest_size=16).digest()
            first[k] = numbers.setdefault((int(dates[k]), digest), int(k))
    return first
