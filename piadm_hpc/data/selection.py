"""One value, or some, along a dimension that is neither of samples nor of space: levels, members, dates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any

import numpy as np
import xarray as xr

Choice = float | str | datetime | date

RELATIVE = 1e-3
"""Largest relative difference between a coordinate's value and the requested number."""

SHOWN = 8


def selected(dataset: xr.Dataset, select: Mapping[str, Choice], sample_dims: Sequence[str]) -> tuple[xr.Dataset, list[str]]:
    """The dataset at one position of every dimension in `select`, and one line for each impossible selection."""
    places, mistakes = {}, []
    for dim, wanted in select.items():
        try:
            places[dim] = _place(dataset, dim, wanted, sample_dims)
        except ValueError as error:
            mistakes.append(f"select: {error}")
    return dataset.isel(places), mistakes


def levelled(
    dataset: xr.Dataset, levels: Mapping[str, Sequence[Choice]], sample_dims: Sequence[str]
) -> tuple[xr.Dataset, list[str]]:
    """The dataset with the given values, in their order, of every dimension in `levels` (all of them where none is given).

    Dimensions without coordinates are numbered. Also returns one line for each dimension that lacks a value.
    """
    mistakes = []
    for dim, wanted in levels.items():
        if dim in dataset.dims and dim not in dataset.coords:
            dataset = dataset.assign_coords({dim: (dim, np.arange(dataset.sizes[dim]), {"long_name": f"index along {dim}"})})
        try:
            everything = dataset[dim].values if dim in dataset.dims else ()
            places = [_place(dataset, dim, value, sample_dims) for value in wanted or np.asarray(everything).tolist()[:1]]
            if len(set(places)) < len(places):
                raise ValueError(f"{dim} is requested twice at the same value; give each value once")
            dataset = dataset.isel({dim: places}) if wanted else dataset
        except ValueError as error:
            mistakes.append(f"levels: {error}")
    return dataset, mistakes


def _place(dataset: xr.Dataset, dim: str, wanted: Choice, sample_dims: Sequence[str]) -> int:
    if dim not in dataset.dims:
        raise ValueError(f"no dimension {dim!r}; {nearest_names(dim, [str(d) for d in dataset.dims])}")
    if dim in sample_dims:
        raise ValueError(f"{dim!r} is a dimension of samples; leave it out here, or in sample_dims")
    if dim not in dataset.coords:
        raise ValueError(f"{dim!r} has no coordinate values to choose from")
    coordinate = dataset[dim]
    found, kind = _matches(coordinate.values, wanted)
    if len(found) == 1:
        return int(found[0])
    units = f" [{coordinate.attrs['units']}]" if "units" in coordinate.attrs else ""
    values = f"its values{units} are {_listed(coordinate.values)}"
    if len(found) > 1:
        raise ValueError(f"{dim} has {_text(wanted)} {len(found)} times, at positions {_listed(found)}; keep one in the file")
    raise ValueError(f"{dim} has no {_text(wanted)}{kind}; {values}")


def _matches(values: np.ndarray, wanted: Choice) -> tuple[np.ndarray, str]:
    """Positions of the values that equal the wanted one, and a reason why there may be none."""
    if _dated(values):
        if isinstance(wanted, int | float):
            return np.empty(0, dtype=int), ", since it holds dates; give one, such as 2000-01-15"
        return np.flatnonzero([_text(value).startswith(_text(wanted)) for value in values]), ""
    if values.dtype.kind in "fiu":
        if not isinstance(wanted, int | float):
            return np.empty(0, dtype=int), ", since it holds numbers"
        apart = np.abs(values.astype(np.float64) - wanted)
        return np.flatnonzero((apart == apart.min()) & (apart <= RELATIVE * abs(wanted))), f" within {100 * RELATIVE:g} %"
    return np.flatnonzero([_text(value) == _text(wanted) for value in values]), ""


def _dated(values: np.ndarray) -> bool:
    return values.dtype.kind == "M" or hasattr(values.flat[0], "calendar")


def _text(value: Any) -> str:
    """A value as text, for comparison and display; dates as in ISO 8601, without a time of midnight."""
    if isinstance(value, bytes):
        return value.decode(errors="replace").strip()
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[s]")).removesuffix("T00:00:00")
    if hasattr(value, "isoformat"):
        return str(value.isoformat()).removesuffix("T00:00:00")
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value).strip()


def _listed(values: np.ndarray) -> str:
    shown = ", ".join(_text(value) for value in values[:SHOWN])
    return f"{shown}, ... ({len(values)} in all)" if len(values) > SHOWN else shown


def nearest_names(name: str, known: Sequence[str]) -> str:
    """The known names that are similar to a name, else all of them."""
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    return f"nearest are {', '.join(close)}" if close else f"there are {', '.join(known) or 'none'}"
