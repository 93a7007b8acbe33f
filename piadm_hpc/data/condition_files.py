"""Conditions for runs, from any file that xarray opens: inputs found by name, in the model's units and on its grid."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate
from .anomalies import as_anomalies, named_anomaly, require_anomalies
from .area_means import mean_anomalies
from .classes import require_whole_numbers
from .conditions import MAPS, Input
from .earlier_fields import with_earlier_fields
from .gridded_files import open_fields
from .grids import aligned
from .mistakes import few, gathered, named, undamaged
from .selection import dated
from .units import converted, same_units, units_of

log = logging.getLogger(__name__)

FARTHEST = 30.0  # deviations of the training data beyond which values are taken to be in other units, or no anomalies
NUMBERED = "condition"


@dataclass(frozen=True)
class GivenConditions:
    """Values by input name, in the model's units and on its grid; `labels` names the K conditions.

    They are [K, lat, lon] or [K], or [K, ...] with dimensions of the input's own.
    """

    values: dict[str, np.ndarray]
    labels: Coordinate

    def __len__(self) -> int:
        return len(self.labels.values)


@dataclass(frozen=True)
class Known:
    """Statistics of a variable of a model: mean and spread, and for an `anomaly` the mean that was removed before training.

    `removed` [1 or 12, lat, lon] is that mean, NaN where the model has no data, or None if it is unknown.
    """

    mean: float
    spread: float
    anomaly: bool = False
    removed: np.ndarray | None = None


def read_conditions(
    path: Path, inputs: Sequence[Input], grid: Mapping[str, Coordinate], mask: np.ndarray, levels: Mapping[str, Known]
) -> GivenConditions:
    """The conditions in a file; ValueError lists everything that does not fit.

    The file has a variable for every input, on the model's grid (`mask` [lat, lon] is true where the model has data) or a
    number, along at most one further dimension, which counts conditions. A file that has fields of the model's variable with
    dates in place of inputs of the kinds "lag" and "month" gives one condition for every date that has enough of them before it.
    `levels` describes the model's variables: absolute fields become anomalies if the model is one of anomalies.
    """
    mistakes: list[str] = []
    notes: list[str] = []
    with named(f"{path}:"), undamaged(), open_fields(path) as raw:
        dataset, months = with_earlier_fields(raw, inputs, tuple(grid))
        absent = [given.name for given in inputs if given.name not in dataset.variables]
        if absent:
            raise ValueError(_absent(absent, inputs, dataset))
        further = {str(dim) for given in inputs for dim in dataset[given.name].dims if dim not in given.own_dims} - set(grid)
        if len(further) > 1:
            raise ValueError(
                f"inputs have the dimensions {', '.join(sorted(further))} beside the grid; only one may count conditions"
            )
        dim = next(iter(further), NUMBERED)
        if not dataset.sizes.get(dim, 1):
            raise ValueError(f"holds no condition: {dim} has no entries")
        values = {}
        for given in inputs:
            with gathered(mistakes), named(given.name):
                known = levels[given.variable] if given.kind == "lag" else Known(given.mean, given.spread)
                if given.kind == "ensemble_mean" and given.variable in levels:
                    known = replace(known, removed=levels[given.variable].removed)
                when = months.get(given.name, f"{given.name} is given by its own name; give {given.variable} with dates")
                values[given.name] = _values(dataset[[given.name]], given, dim, grid, mask, known, when, notes)
        if mistakes:
            raise ValueError("; ".join(mistakes))
        for note in notes:
            _tell(f"{path}: {note}")
        count = dataset.sizes.get(dim, 1)
        filled = {name: np.broadcast_to(array, (count, *array.shape[1:])) for name, array in values.items()}
        return GivenConditions(filled, _labels(dataset, dim, count))


@lru_cache(maxsize=64)
def _tell(line: str) -> None:
    """Log a line once, however often a run reads its conditions."""
    log.warning(line)


def digest_of(path: Path) -> str:
    """The sha256 of a file, or of all files of a folder such as a Zarr store. ValueError where there is none."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file()):
        total.update(file.read_bytes())
    return total.hexdigest()


def _absent(names: Sequence[str], inputs: Sequence[Input], dataset: xr.Dataset) -> str:
    there = [str(other) for other in dataset.data_vars]
    near = {name: get_close_matches(name, there, n=1) for name in names}
    meant = "".join(f"; did you mean its {close[0]} for {name}?" for name, close in near.items() if close)
    wanted = ", ".join(f"{given.name} ({given.kind}, {given.units})" for given in inputs)
    has = ", ".join(there) or "no variables"
    return f"there is no {', '.join(names)}; the model takes {wanted}, and the file has {has}{meant}"


def _values(
    fields: xr.Dataset, given: Input, dim: str, grid: Mapping[str, Coordinate], mask: np.ndarray, known: Known,
    months: np.ndarray | str, notes: list[str],
) -> np.ndarray:  # fmt: skip
    """One input [K or 1, ...], its fields in some `months`; adds to `notes`. Raises ValueError for one that does not fit."""
    array = fields[given.name]
    is_map, dims = given.kind in MAPS, tuple(map(str, array.dims))
    needed = tuple(grid) if is_map else tuple(given.own_dims)
    if set(needed) - set(dims) or {*grid} & set(dims) - set(needed):
        shape = (
            f"a map over {', '.join(grid)}"
            if is_map
            else f"an array over {', '.join(needed)}"
            if needed
            else "one number a condition"
        )
        raise ValueError(f"has the dimensions ({', '.join(dims)}); it must be {shape}")
    wrong = [
        f"{array.sizes[name]} along {name}, not {size}" for name, size in given.own_dims.items() if array.sizes[name] != size
    ]
    if wrong:
        raise ValueError(f"has {' and '.join(wrong)}")
    if given.kind == "month" and dated(array.values):
        array = array.dt.month
    if array.dtype.kind not in "fiub":
        raise ValueError(f"holds {array.dtype}, not numbers")
    if is_map:
        array = aligned(fields, grid, part=True)[0][given.name]
    array = array.transpose(..., *needed)
    values = array.values.astype(np.float64)
    values = values if dim in dims else values[None]
    if units_of(array.attrs) is None and not same_units("", given.units):
        notes.append(f"{given.name} has no units; assumed to be in {given.units!r}")
    if known.anomaly:
        values, subtracted = _anomalies(values, array.attrs, given, known, months)
        notes += [f"{given.name} holds absolute values; the model's climatology is subtracted"] * subtracted
    else:
        anomaly = named_anomaly(array.attrs)
        values, apart = (_in_units(values, array.attrs, given, difference=difference) for difference in (anomaly, True))
        if known.removed is not None and not anomaly:
            values = mean_anomalies(values, apart, known.removed, grid)
    _require_plausible(values[..., mask] if is_map else values, given, known)
    return values


def _in_units(values: np.ndarray, attrs: Any, given: Input, *, difference: bool) -> np.ndarray:
    own = units_of(attrs)
    if given.kind in ("month", "class") or own is None or same_units(own, given.units):
        return values
    return np.asarray(converted(values, own, given.units, difference=difference), dtype=np.float64)


def _anomalies(
    values: np.ndarray, attrs: Any, given: Input, known: Known, months: np.ndarray | str
) -> tuple[np.ndarray, bool]:  # fmt: skip
    """Fields [K or 1, lat, lon] of a model of anomalies, and whether the file holds absolute values."""
    anomaly = named_anomaly(attrs)
    apart = _in_units(values, attrs, given, difference=True)
    if known.removed is not None:
        absolute = _in_units(values, attrs, given, difference=anomaly)
        fields, subtracted = as_anomalies(given.name, absolute, apart, known.removed, months, anomaly=anomaly)
        if subtracted and np.isnan(fields).all((1, 2)).any():
            raise ValueError("holds absolute values of months for which the model keeps no climatology; give anomalies")
        return fields, subtracted
    if not anomaly:
        require_anomalies(given.name, apart, known.spread)
    return apart, False


def _require_plausible(values: np.ndarray, given: Input, known: Known) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"is missing at {bad} places where the model needs it; fill them")
    if given.kind in ("month", "class"):
        require_whole_numbers(values, *((1, 12) if given.kind == "month" else (0, given.classes - 1)))
        return
    mean, scale = known.mean, known.spread
    distance = float(np.abs(values.mean(-1) - mean).max() if given.kind in MAPS else np.abs(values - mean).max())
    if distance > FARTHEST * scale:
        raise ValueError(
            f"has the mean {values.mean():.4g} {given.units}, {distance / scale:.0f} standard deviations from that of training "
            f"({mean:.4g}); it may be in other units, or not the anomaly that the model takes"
        )


def _labels(dataset: xr.Dataset, dim: str, count: int) -> Coordinate:
    """The labels of the conditions: the values of their dimension, dates as text with their calendar, else their numbers.

    A single condition without a dimension has the date of the file, if there is one. Raises ValueError for missing labels.
    """
    alone = [str(name) for name, coord in dataset.coords.items() if coord.ndim == 0 and dated(coord.values)]
    if dim == NUMBERED and NUMBERED not in dataset.dims and len(alone) == 1:
        dataset, dim = dataset.expand_dims(alone[0]), alone[0]
    attrs = {"long_name": f"condition, by its {dim}" if dim != NUMBERED else "number of the condition"}
    if dim not in dataset.coords or dataset[dim].ndim == 0:
        return Coordinate((NUMBERED,), np.arange(count, dtype=np.int32), attrs)
    values = dataset[dim].values
    if absent := np.flatnonzero(dataset[dim].isnull().values).tolist():
        raise ValueError(f"{dim} is missing for the conditions {few(absent)}, counted from 0; fill it, or remove them")
    if dated(values):
        attrs["calendar"] = str(dataset[dim].dt.calendar)
    if values.dtype.kind in "MO":
        values = np.array([str(value)[:19] for value in values], dtype=object)
    return Coordinate((NUMBERED,), values, attrs)
