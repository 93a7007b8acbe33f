"""Values that mean missing data: outside the valid range that a file declares, or undeclared and far from all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

VALID = ("valid_min", "valid_max", "valid_range")
KNOWN = (999.0, 9999.0, 99999.0, 32767.0, 32768.0, 2147483647.0, 1e15, 1e20, 1e30, 1e34, 1e35, 1e36, 9.96921e36, 3.4028235e38)
"""Magnitudes that programs are known to write for a missing value."""

KNOWN_GAP, ANY_GAP = 0.5, 10.0
"""Distance from all other values, in units of their range, from which a value is suspect: a known one, and any other."""


@dataclass(frozen=True)
class Outliers:
    """Values from `lowest` to `highest` that lie apart from all others, which reach from `rest[0]` to `rest[1]`."""

    lowest: float
    highest: float
    count: int
    rest: tuple[float, float]

    @property
    def value(self) -> str:
        """The value, or both ends."""
        return f"{self.lowest:g}" if self.lowest == self.highest else f"{self.lowest:g} to {self.highest:g}"


def outside_valid(array: xr.DataArray) -> np.ndarray:
    """Where decoded values lie outside `valid_min`, `valid_max` or `valid_range`, as CF (section 2.5.1) and NUG define them.

    The limits of packed data are packed too, unless their type is that of the unpacked values and wider than the packed
    one. Raises ValueError for limits that are not numbers.
    """
    low, high = _limits(array)
    values = array.values
    # half a step of the packing, or a rounding error: the limit itself is valid
    step = abs(float(array.encoding.get("scale_factor", 0.0))) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((values < low - step) | (values > high + step))


def _limits(array: xr.DataArray) -> tuple[float, float]:
    given = {name: _numbers(name, array.attrs[name]) for name in VALID if name in array.attrs}
    wrong = [f"{name} has {len(v)} values" for name, v in given.items() if len(v) != (2 if name == "valid_range" else 1)]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; CF wants one for valid_min and valid_max, two for valid_range")
    low, high = given.get("valid_range", np.array([-np.inf, np.inf]))
    low = given["valid_min"][0] if "valid_min" in given else low
    high = given["valid_max"][0] if "valid_max" in given else high
    packed = array.encoding.get("dtype")
    scale, offset = (array.encoding.get(name) for name in ("scale_factor", "add_offset"))
    if packed is None or (scale is None and offset is None):
        return float(low), float(high)
    kinds = [np.asarray(value).dtype for value in (scale, offset) if value is not None]
    limits = next(iter(given.values()), np.empty(0)).dtype
    if limits.kind == "f" and limits in kinds and limits.itemsize > np.dtype(packed).itemsize:
        return float(low), float(high)
    low, high = (_unsigned(value, array, np.dtype(packed)) for value in (low, high))
    ends = [value * float(1 if scale is None else scale) + float(0 if offset is None else offset) for value in (low, high)]
    return min(ends), max(ends)


def _numbers(name: str, value: object) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(value))
    if numbers.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {value!r}, not a number")
    return numbers


def _unsigned(value: float, array: xr.DataArray, packed: np.dtype) -> float:
    """A packed limit as the unsigned number that it stands for where the file says `_Unsigned`."""
    if str(array.encoding.get("_Unsigned", "false")).lower() != "true" or value >= 0 or not np.isfinite(value):
        return float(value)
    return float(value) + 2.0 ** (8 * packed.itemsize)


def equal_to(values: np.ndarray, missing: Sequence[float]) -> np.ndarray:
    """Where values equal one of the numbers that mean missing data, to the six digits that messages show."""
    found = np.zeros(values.shape, dtype=bool)
    for number in missing:
        found |= np.isclose(values, number, rtol=1e-5, atol=0)
    return found


def outliers(values: np.ndarray) -> list[Outliers]:
    """Groups of values far outside all others, the farthest first; NaN counts as missing already.

    Sorted, the values fall into two groups at their widest gap; the one with fewer distinct values is suspect if the gap
    is at least ten times as wide as the other group, or half as wide where the value is one of those in KNOWN.
    """
    infinite = int(np.isinf(values).sum())
    ordered = np.sort(values[np.isfinite(values)], axis=None).astype(np.float64)
    found: list[Outliers] = []
    while len(ordered) > 2:
        gaps = np.diff(ordered)
        cut = int(np.argmax(gaps)) + 1
        parts = ordered[:cut], ordered[cut:]
        apart, rest = sorted(parts, key=lambda part: (np.count_nonzero(np.diff(part)), len(part)))
        width = rest[-1] - rest[0]
        known = apart[0] == apart[-1] and np.isclose(abs(apart[0]), KNOWN, rtol=1e-5).any()
        if not width > 0 or gaps[cut - 1] < (KNOWN_GAP if known else ANY_GAP) * width:
            break
        found.append(Outliers(float(apart[0]), float(apart[-1]), len(apart), (float(rest[0]), float(rest[-1]))))
        ordered = rest
    if infinite:
        ends = (float(ordered[0]), float(ordered[-1])) if len(ordered) else (np.nan, np.nan)
        found.insert(0, Outliers(np.inf, np.inf, infinite, ends))
    return found


def where(values: np.ndarray, group: Outliers) -> np.ndarray:
    """Where values belong to a group of outliers."""
    return np.isinf(values) if np.isinf(group.lowest) else (values >= group.lowest) & (values <= group.highest)
