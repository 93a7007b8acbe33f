"""The observed truth, from any file that xarray opens: fields against which the members of a run are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ..schema.layout import Coordinate, Variable
from .anomalies import named_anomaly
from .gridded_files import open_fields
from .grids import aligned
from .mistakes import gathered, named, undamaged
from .units import converted, same_units, units_of


def read_truth(
    path: Path,
    variables: Sequence[Variable],
    grid: Mapping[str, Coordinate],
    groups: Mapping[str, Coordinate],
    ranges: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, np.ndarray]:
    """The truth by variable, [groups or 1, *grid] float32, in the units and on the grid of the variables.

    `groups` are the dimensions of a run along which its statistics are separate: the file has a variable of every name on the
    grid, along these dimensions, or along one dimension of their joint size, or along none, and then it is the truth for all
    groups. `ranges` are the lowest and the highest field that the members are likely to reach, NaN where they have no value.
    Raises ValueError listing everything that does not fit.
    """
    mistakes: list[str] = []
    found: dict[str, np.ndarray] = {}
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    with named(f"{path}:"), undamaged(), open_fields(path) as raw:
        dataset = xr.decode_cf(raw)
        there = ", ".join(str(name) for name in dataset.data_vars) or "no variables"
        for variable in variables:
            if variable.name not in dataset:
                mistakes.append(f"there is no {variable.name}; the file has {there}")
                continue
            with gathered(mistakes), named(variable.name):
                found[variable.name] = _field(dataset[[variable.name]], variable, grid, groups, ranges[variable.name])
        if mistakes:
            raise ValueError("; ".join(mistakes))
    return found


def _field(
    fields: xr.Dataset,
    variable: Variable,
    grid: Mapping[str, Coordinate],
    groups: Mapping[str, Coordinate],
    likely: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    array = fields[variable.name]
    if missing := [dim for dim in grid if dim not in array.dims]:
        raise ValueError(f"has the dimensions ({', '.join(map(str, array.dims))}) and lacks {', '.join(missing)}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"holds {array.dtype}, not numbers")
    array = aligned(fields, grid, part=True)[0][variable.name]
    further = _further([str(dim) for dim in array.dims if dim not in grid], array, groups)
    array = _ordered(array.transpose(*further, *grid), further, groups)
    values = array.values.reshape(-1, *array.shape[len(further) :]).astype(np.float64)
    own, wanted = units_of(array.attrs), str(variable.attrs.get("units", ""))
    if own is not None and not same_units(own, wanted):
        values = converted(values, own, wanted, difference=named_anomaly(array.attrs))
    low, high = likely
    known = ~np.isnan(low)
    if bad := int((~np.isfinite(values[:, known])).sum()):
        raise ValueError(f"is missing at {bad} places where the members have values")
    outside = (values[:, known] < low[known]) | (values[:, known] > high[known])
    if outside.mean() > 0.5:
        raise ValueError(
            f"has the mean {values[:, known].mean():.4g} {wanted}, beyond what the model draws ({np.nanmin(low):.4g} to "
            f"{np.nanmax(high):.4g}); it may be in other units, or absolute where the model draws anomalies (statistics.absolute)"
        )
    return np.asarray(values, dtype=np.float32)


def _further(dims: list[str], array: xr.DataArray, groups: Mapping[str, Coordinate]) -> list[str]:
    """The dimensions beside the grid, in the order of the run's groups; dimensions of length one are ignored."""
    counting = [dim for dim in dims if array.sizes[dim] > 1 or dim in groups]
    if not counting:
        return dims
    if set(counting) == set(groups):
        return [*(dim for dim in dims if dim not in groups), *groups]
    sizes = {dim: len(coordinate.values) for dim, coordinate in groups.items()}
    if len(counting) == 1 and len(sizes) == 1 and array.sizes[counting[0]] == next(iter(sizes.values())):
        return [*(dim for dim in dims if dim not in counting), *counting]
    given = ", ".join(f"{dim} ({array.sizes[dim]})" for dim in counting)
    wanted = " x ".join(f"{dim} ({size})" for dim, size in sizes.items()) or "none beside the grid: choose one field of it"
    raise ValueError(f"has the further dimensions {given}; the run has {wanted}")


def _ordered(array: xr.DataArray, dims: Sequence[str], groups: Mapping[str, Coordinate]) -> xr.DataArray:
    """The fields in the order of the run's conditions or starts, by their labels, if the file has such labels."""
    last = dims[-len(groups) :] if groups and len(dims) >= len(groups) else []
    for dim, (name, coordinate) in zip(last, groups.items(), strict=False):
        if dim not in array.coords or array.sizes[dim] != len(coordinate.values):
            continue
        theirs, ours = _text(array[dim].values), _text(coordinate.values)
        if set(theirs) == set(ours):
            array = array.isel({dim: [theirs.index(label) for label in ours]})
        elif dim == name or array[dim].dtype.kind in "MO":
            raise ValueError(f"has other labels along {dim} ({theirs[0]}, ...) than the run's {name} ({ours[0]}, ...)")
    return array


def _text(values: np.ndarray) -> list[str]:
    """Labels as text, dates to the second."""
    return [str(each)[:19] for each in values]
