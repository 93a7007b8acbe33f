"""Absolute values or anomalies: what a file holds, and what a model of anomalies needs of it."""

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
    """Mean and standard deviation over all samples and points of a variable, and whether its attributes say anomaly."""

    mean: float
    std: float
    anomaly: bool

    @classmethod
    def of(cls, values: np.ndarray, attrs: Mapping[str, Any]) -> Level:
        """The level of values [n, lat, lon] with these attributes."""
        return cls(float(np.nanmean(values, dtype=np.float64)), float(np.nanstd(values, dtype=np.float64)), named_anomaly(attrs))

    @property
    def absolute(self) -> bool:
        """Whether the mean is so large, in units of the spread, that these are no anomalies."""
        return abs(self.mean) > DECISIVE * self.std


def named_anomaly(attrs: Mapping[str, Any]) -> bool:
    """Whether a variable's names say that it is an anomaly."""
    return any("anomal" in str(attrs.get(name, "")).lower() for name in NAMES)


def anomaly_names(attrs: Mapping[str, Any], name: str, kind: str) -> dict[str, Any]:
    """Attributes of the variable `name` as an anomaly: a long name that tells what was removed, and no standard name."""
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
        said = ", an anomaly by its name" if own.anomaly and not first.anomaly else ""
        raise ValueError(
            f"the mean of {variable} is {own.mean:.4g}{said}, and {first.mean:.4g} in the file or model that it is taken with; "
            "one holds anomalies or other units: make them alike"
        )


def nearer_zero(values: np.ndarray, differences: np.ndarray, climatology: np.ndarray) -> bool | None:
    """Whether fields are anomalies (True) or absolute values (False), by their mean; None where that does not decide.

    `values` [n, lat, lon] are the fields as absolute values in the model's units, `differences` the same as differences
    (degC in place of K), `climatology` [n, lat, lon] or [1, lat, lon] is what a model of anomalies removed.
    """
    from_zero = _size(np.nanmean(differences, 0, dtype=np.float64))
    from_climatology = _size(np.nanmean(values - climatology, 0, dtype=np.float64))
    if from_climatology > DECISIVE * from_zero:
        return True
    return False if from_zero > DECISIVE * from_climatology else None


def _size(field: Any) -> float:
    return float(np.sqrt(np.nanmean(field**2)))
