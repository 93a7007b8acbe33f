"""Checks of arrays before they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..config.limits import LARGEST_ID
from ..data.mistakes import few
from ..schema.layout import Layout
from .conventions import BLOCK, PER_SAMPLE


def layout_problems(layout: Layout) -> list[str]:
    """List the mistakes in a layout, one line each."""
    problems = [] if layout.variables else ["layout: has no variables; give at least one"]
    names = [variable.name for variable in layout.variables]
    reserved = set(PER_SAMPLE) | {BLOCK, layout.sample_dim}
    for name in sorted(set(names) & (reserved | set(layout.coordinates))) + sorted(set(layout.coordinates) & reserved):
        problems.append(f"layout: {name!r} is used twice; rename the variable or coordinate")
    problems += [f"layout: variable {name!r} is given twice" for name in sorted(set(names)) if names.count(name) > 1]
    problems += [
        f"layout: {name!r} is no name for a variable; give letters and digits" for name in names if not name.isidentifier()
    ]
    for variable in layout.variables:
        for dim in variable.dims:
            if dim not in layout.coordinates:
                problems.append(f"{variable.name}: dimension {dim!r} has no coordinate; add one of that name to the layout")
    for name, coordinate in layout.coordinates.items():
        array = np.asarray(coordinate.values)
        sizes = tuple(len(layout.coordinates[d].values) if d in layout.coordinates else -1 for d in coordinate.dims)
        if array.shape != sizes:
            problems.append(f"coordinate {name!r}: values of shape {array.shape} do not fit dimensions {coordinate.dims} {sizes}")
        if array.dtype.kind not in "iufSUO":
            problems.append(
                f"coordinate {name!r}: values are {array.dtype}; give numbers (times with units 'hours since ...') or text"
            )
    return problems


def id_problems(ids: Sequence[int], what: str) -> list[str]:
    """List the mistakes in a sequence of sample ids, one line each."""
    values = list(ids)
    if not values:
        return [f"{what}: the list is empty; give at least one sample id"]
    problems = []
    if any(not 0 <= sample <= LARGEST_ID for sample in values):
        problems.append(f"{what}: ids run from {min(values)} to {max(values)}; give ids from 0 to {LARGEST_ID}")
    if any(b <= a for a, b in pairwise(values)):
        problems.append(f"{what}: the ids are not rising; give each once, in order")
    return problems


def as_fields(
    layout: Layout, ids: Sequence[int], fields: Mapping[str, np.ndarray], allow_nan: Mapping[str, np.ndarray] | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Convert fields to contiguous float32 [S, *shape]; also the list of mistakes in them, one line each."""
    names = [variable.name for variable in layout.variables]
    problems = [f"{name}: not given; the layout has {names}" for name in names if name not in fields]
    problems += [f"{name}: not in the layout, which has {names}" for name in fields if name not in names]
    problems += [f"{name}: allow_nan names no variable of the layout" for name in allow_nan or {} if name not in names]
    arrays: dict[str, np.ndarray] = {}
    for variable in layout.variables:
        if variable.name not in fields:
            continue
        array, want = np.asarray(fields[variable.name]), (len(ids), *layout.shape(variable))
        if array.dtype.kind != "f":
            problems.append(f"{variable.name}: is {array.dtype}; give float32 or float64")
        if array.shape != want:
            problems.append(f"{variable.name}: shape {array.shape}, but {want} is wanted: [samples, {', '.join(variable.dims)}]")
        if array.dtype.kind == "f" and array.shape == want:
            with np.errstate(over="ignore"):
                arrays[variable.name] = np.ascontiguousarray(array, dtype=np.float32)
            mask = (allow_nan or {}).get(variable.name)
            problems += _value_problems(variable.name, ids, arrays[variable.name], mask)
    return arrays, problems


def _value_problems(name: str, ids: Sequence[int], array: np.ndarray, mask: np.ndarray | None) -> list[str]:
    bad = ~np.isfinite(array)
    if not bad.any():
        return []
    if mask is not None:
        try:
            allowed = np.broadcast_to(np.asarray(mask, dtype=bool), array.shape)
        except ValueError:
            return [f"{name}: allow_nan has shape {np.shape(mask)}, which does not fit {array.shape}"]
        bad &= ~(allowed & np.isnan(array))
    counts = bad.reshape(len(ids), -1).sum(axis=1)
    samples = [f"sample {ids[row]} ({counts[row]} of {array[row].size})" for row in range(len(ids)) if counts[row]]
    if not samples:
        return []
    advice = "mark places that are missing on purpose with allow_nan, and look into the solver's residual otherwise"
    return [f"{name}: values that are not finite numbers in {few(samples, 5)}; {advice}"]


def as_per_sample(ids: Sequence[int], given: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Convert what is recorded per sample to its stored type, [S] or [S, block]; also the list of mistakes, one line each."""
    arrays: dict[str, np.ndarray] = {}
    problems = [f"{name}: not known per sample; known are {sorted(PER_SAMPLE)}" for name in given if name not in PER_SAMPLE]
    blocks: dict[str, int] = {}
    for name in sorted(given.keys() & PER_SAMPLE.keys()):
        array, dtype = np.asarray(given[name]), np.dtype(PER_SAMPLE[name].dtype)
        if array.ndim not in (1, 2) or array.shape[0] != len(ids) or array.size == 0:
            problems.append(f"{name}: shape {array.shape}; give [{len(ids)}] or [{len(ids)}, blocks]")
        elif array.dtype.kind not in ("biuf" if dtype.kind == "f" else "biu"):
            problems.append(f"{name}: is {array.dtype}; give {dtype}")
        elif dtype.kind == "i" and (array.max() > np.iinfo(dtype).max or array.min() < np.iinfo(dtype).min):
            problems.append(f"{name}: values from {array.min()} to {array.max()} do not fit into {dtype}")
        else:
            arrays[name] = np.ascontiguousarray(array, dtype=dtype)
            blocks |= {name: array.shape[1]} if array.ndim == 2 else {}
    if len(set(blocks.values())) > 1:
        problems.append(f"different numbers of blocks: {blocks}; give the same for all")
    return arrays, problems
