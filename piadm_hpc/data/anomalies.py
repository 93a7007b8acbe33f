"""Absolute values or anomalies: which of them a file holds, and their conversion for a model of anomalies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

REMOVED = {"mean": "anomaly from the time mean", "monthly": "anomaly from the monthly climatology"}
"""What the long name of an anomaly ends in, by the kind of mean that was removed."""

NAMES = ("standard_name", "long_name")

DECISIVE = 3.0
"""One of two distances decides if the other is this many times as long."""


@dataclass(frozen=True)
class Level:
    """Mean and standard deviation over all samples and points of a variable, and whether its attributes name an anomaly."""

    mean: float
    std: float
    anomaly: bool

    @classmethod
    def of(cls, values: np.ndarray, attrs: Mapping[str, Any]) -> Level:
        """The level of values [n, lat, lon] with these attributes."""
        return cls(float(np.nanmean(values, dtype=np.float64)), float(np.nanstd(values, dtype=np.float64)), named_anomaly(attrs))

    @property
    def absolute(self) -> bool:
        """Whether the mean is so large, in units of the spread, that the values cannot be anomalies."""
        return abs(self.mean) > DECISIVE * self.std


def named_anomaly(attrs: Mapping[str, Any]) -> bool:
    """Whether the names of a variable identify it as an anomaly."""
    return any("anomal" in str(attrs.get(name, "")).lower() for name in NAMES)


def anomaly_names(attrs: Mapping[str, Any], name: str, kind: str) -> dict[str, Any]:
    """Attributes of the variable `name` as an anomaly: a long name that states what was removed, and no standard name."""
    kept = {key: value for key, value in attrs.items() if key != "standard_name"}
    return kept | {"long_name": f"{attrs.get('long_name', name)}, {REMOVED[kind]}"}


def absolute_names(attrs: Mapping[str, Any]) -> dict[str, str]:
    """The standard and long name of a field, those that it has, without what a long name says of an anomaly."""
    found = {key: str(attrs[key]) for key in NAMES if attrs.get(key) is not None}
    for ending in REMOVED.values():
        found = {key: name.removesuffix(f", {ending}") for key, name in found.items()}
    return found


def require_alike(variable: str, own: Level, first: Level) -> None:
    """Raise ValueError if one of two files seems to hold anomalies, or other units, where the other has absolute values."""
    larger, smaller = sorted((own, first), key=lambda level: -abs(level.mean))
    by_size = larger.absolute and abs(larger.mean - smaller.mean) > DECISIVE * abs(smaller.mean)
    if by_size or own.anomaly != first.anomaly:
        remark = ", an anomaly by its name" if own.anomaly and not first.anomaly else ""
        raise ValueError(
            f"the mean of {variable} is {own.mean:.4g}{remark}, and {first.mean:.4g} in the file or model that it is taken with; "
            "one holds anomalies or other units: make them alike"
        )


def require_own_units(given: float, own: Level, first: Level, units: tuple[str, str]) -> None:
    """Raise ValueError for values whose mean, `given`, fits before they are converted between `units`, and no longer after it."""
    apart = abs(own.mean - first.mean)
    if first.absolute and apart > DECISIVE * max(own.std, first.std) and DECISIVE * abs(given - first.mean) < apart:
        raise ValueError(
            f"says {units[0]!r}, but its mean {given:.4g} is one in {units[1]!r} (it is {first.mean:.4g} in the file or model "
            "that it is taken with); put the units right in the file"
        )


def as_anomalies(
    name: str, absolute: np.ndarray, apart: np.ndarray, removed: np.ndarray, months: np.ndarray | str, *, anomaly: bool
) -> tuple[np.ndarray, bool]:
    """Fields [n, ...] as the anomalies of a model, and whether the climatology `removed` [1 or 12, ...] was subtracted for that.

    `absolute` are the fields as absolute values in the model's units, `apart` the same as differences, and `anomaly` tells
    whether their names call them anomalies; if not, their mean decides. `months` are the calendar months of the samples [n], or
    the reason why these are unknown. Raises ValueError if the mean does not decide, and for absolute values of unknown months.
    """
    dated = not isinstance(months, str) and len(removed) == 12
    climatology = removed[np.asarray(months) - 1] if dated else _mean(removed)[None]
    are_anomalies = True if anomaly else nearer_zero(absolute, apart, climatology)
    if are_anomalies is None:
        raise ValueError(
            f"the model is one of anomalies, and the mean of {name} does not tell whether it holds anomalies or absolute values; "
            "write 'anomaly' into its long_name, or subtract the model's climatology (array climatology of its reference.h5)"
        )
    if are_anomalies:
        return apart, False
    if len(removed) == 12 and isinstance(months, str):
        raise ValueError(
            f"{name} holds absolute values, the model anomalies from monthly means, and the file no months ({months}); date its "
            "samples, or subtract the climatology"
        )
    return np.asarray(absolute - climatology, dtype=np.float32), True


def require_anomalies(name: str, apart: np.ndarray, spread: float) -> None:
    """Raise ValueError if the mean of fields [n, ...], as differences, is too large for anomalies of a model of this spread."""
    if (size := _size(_mean(apart))) > DECISIVE * spread:
        raise ValueError(
            f"{name} holds absolute values, and the model anomalies; subtract the mean first (its mean field has the size "
            f"{size:.4g}, and anomalies the spread {spread:.3g}; fields with 'anomaly' in their long_name are taken as they are)"
        )


def nearer_zero(values: np.ndarray, differences: np.ndarray, climatology: np.ndarray) -> bool | None:
    """Whether fields are anomalies (True) or absolute values (False), by their mean; None if that does not decide.

    `values` [n, lat, lon] are the fields as absolute values in the model's units, `differences` the same as differences
    (degC in place of K), `climatology` [n, lat, lon] or [1, lat, lon] is what a model of anomalies removed.
    """
    known = ~np.isnan(_mean(climatology))  # values at other points, on land for example, are ignored
    from_zero, from_climatology = _size(_mean(differences)[known]), _size(_mean(values - climatology)[known])
    if from_climatology > DECISIVE * from_zero:
        return True
    return False if from_zero > DECISIVE * from_climatology else None


def _mean(fields: np.ndarray) -> np.ndarray:
    """The mean over the first dimension where there are values, and NaN, as the points of land in a sea, where there are none."""
    there = ~np.isnan(fields)
    total, count = np.where(there, fields, 0).sum(0, dtype=np.float64), there.sum(0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _size(field: np.ndarray) -> float:
    """The root mean square of a field where it has values; NaN if there are none."""
    return float(np.sqrt(_mean(field.ravel() ** 2)))
