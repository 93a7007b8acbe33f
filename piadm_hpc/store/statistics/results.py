"""Statistics from the sums of a group: means, standard deviations, quantiles, histograms, exceedance, CRPS and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import sums
from .recipe import Recipe
from .state import Arrays

POINTS = 2**16  # of a field that are worked on at once where bins are


@dataclass(frozen=True)
class Result:
    """One statistic of one variable: its values [*lead, *shape], the names of the leading dimensions, and attributes.

    `largest_error` bounds the distance of values from bins from those of the members themselves.
    """

    name: str
    values: np.ndarray
    dims: tuple[str, ...] = ()
    on_grid: bool = True
    attrs: dict[str, Any] = field(default_factory=dict)
    largest_error: float | None = None


def results(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    """The statistics of `count` members of a group; NaN where the variable has no value."""
    functions = {
        "mean": _mean, "std": _std, "extremes": _extremes, "quantiles": _quantiles, "histogram": _histogram,
        "exceedance": _exceedance, "crps": _crps, "rank_histogram": _ranks,
    }  # fmt: skip
    gaps = recipe.gaps.get(name)
    for kind in recipe.kinds:
        if (kind == "exceedance" and name not in recipe.thresholds) or (not arrays):
            continue
        for found in functions[kind](recipe, name, group, count, arrays):
            if gaps is not None and found.on_grid and found.values.dtype.kind == "f":
                found.values[..., gaps] = np.nan
            yield found


def _method(words: str) -> dict[str, Any]:
    return {"cell_methods": f"realization: {words}"}


def _mean(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    yield Result(f"{name}_mean", arrays["sum"].sum(0) / count, attrs=_method("mean"))


def _std(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    values = np.sqrt(sums.variance(arrays["sum"], arrays["square"], count))
    words = "root of the mean squared deviation from the mean, as xarray's std: divided by the number of members"
    yield Result(f"{name}_std", values, attrs=_method("standard_deviation") | {"comment": words})


def _extremes(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    for row, words in enumerate(("minimum", "maximum")):
        yield Result(f"{name}_{words[:3]}", arrays["extremes"][row].astype(np.float64), attrs=_method(words))


def _exceedance(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    words = f"share of the members above {name}_threshold"
    dims = (f"{name}_threshold",)
    yield Result(f"{name}_exceedance", arrays["above"] / count, dims, attrs={"units": "1", "long_name": words})


def _quantiles(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    levels = np.asarray(recipe.quantiles)
    if "values" in arrays:
        values, error = np.quantile(arrays["values"].astype(np.float64), levels, axis=0), 0.0
    else:
        values, error = _in_slabs(recipe, name, arrays, lambda counts, edges: _quantiles_of_bins(counts, edges, levels, count))
    yield Result(f"{name}_quantile", values, ("quantile",), attrs=_method("quantile"), largest_error=error)


def _histogram(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    edges = recipe.edges[name]
    if "values" in arrays:
        below = np.stack([(arrays["values"] < edge).sum(0) for edge in edges] + [np.full(edges.shape[1:], count)])
        counts = np.diff(below, axis=0, prepend=np.zeros_like(below[:1]))
    else:
        counts = arrays["bins"]
    words = f"members in the bins of {name}_edge: below the first, between two, and from the last one on"
    yield Result(f"{name}_histogram", counts.astype(np.int32), ("bin",), attrs={"units": "1", "long_name": words})


def _ranks(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    """The rank of the truth among the members at every point, and how often each rank occurs; ties are broken by chance."""
    if "ranks" not in arrays:
        return
    below, equal = arrays["ranks"].astype(np.int64)
    ranks = below + np.random.default_rng(group).integers(0, equal + 1)
    known = np.ones(ranks.shape, bool) if name not in recipe.gaps else ~recipe.gaps[name]
    words = "members below the truth; where some equal it, one of the ranks between by chance"
    yield Result(f"{name}_rank", ranks.astype(np.float64), attrs={"units": "1", "long_name": words})
    counts = np.bincount(ranks[known], minlength=count + 1).astype(np.int32)
    words = "points of the grid at which the truth has each rank"
    yield Result(f"{name}_rank_histogram", counts, ("rank",), on_grid=False, attrs={"units": "1", "long_name": words})


def _crps(recipe: Recipe, name: str, group: int, count: int, arrays: Arrays) -> Iterator[Result]:
    """The fair CRPS: mean |x - y| less half the mean |x - x'| of two different members (Ferro 2014, QJRMS 140, 1917)."""
    if "distance" not in arrays:
        return
    distance, error = arrays["distance"].sum(0) / count, 0.0
    if count < 2:
        spread = np.full_like(distance, np.nan)
    elif "values" in arrays:
        weights = 2.0 * np.arange(count) - (count - 1)
        spread = np.tensordot(weights, arrays["values"].astype(np.float64), 1) / (count * (count - 1))
    else:
        found, error = _in_slabs(recipe, name, arrays, lambda counts, edges: _spread_of_bins(counts, edges, count))
        spread = found[0]
    words = "continuous ranked probability score, fair: that of infinitely many members is expected"
    yield Result(f"{name}_crps", distance - spread, attrs={"long_name": words}, largest_error=error)


def _in_slabs(recipe: Recipe, name: str, arrays: Arrays, work: Any) -> tuple[np.ndarray, float]:
    """Apply `work` to counts and edges of some points at a time; the values [*, *shape] and the largest error.

    The first and the last edge are the smallest and the largest member of every point, and all edges lie between them.
    """
    shape = arrays["extremes"].shape[1:]
    low, high = arrays["extremes"].reshape(2, -1).astype(np.float64)
    bins, inner = arrays["bins"].reshape(len(arrays["bins"]), -1), recipe.edges[name].reshape(len(recipe.edges[name]), -1)
    found, errors = [], [0.0]
    for start in range(0, len(low), POINTS):
        here = slice(start, start + POINTS)
        edges = np.concatenate([low[None, here], np.clip(inner[:, here], low[here], high[here]), high[None, here]])
        values, error = work(bins[:, here].astype(np.int64), edges)
        found.append(values)
        errors.append(float(np.nanmax(error, initial=0.0)))
    return np.concatenate(found, axis=1).reshape(-1, *shape), max(errors)


def _quantiles_of_bins(counts: np.ndarray, edges: np.ndarray, levels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles [levels, points] with members spread evenly over their bins, and how wide these bins are."""
    ends = np.cumsum(counts, axis=0)
    values, errors = [], []
    for level in levels:
        place = level * (count - 1)
        (one, wide), (other, wider) = (_member(counts, ends, edges, rank) for rank in (int(np.floor(place)), int(np.ceil(place))))
        values.append(one + (place - np.floor(place)) * (other - one))
        errors.append(np.maximum(wide, wider))
    return np.stack(values), np.stack(errors)


def _member(counts: np.ndarray, ends: np.ndarray, edges: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The approximate value of the member with a rank, from 0 on, and the width of its bin."""
    bin_, points = (ends <= rank).sum(0), np.arange(edges.shape[1])
    low, high, inside = edges[bin_, points], edges[bin_ + 1, points], counts[bin_, points]
    share = (rank - (ends[bin_, points] - inside) + 0.5) / inside
    return low + share * (high - low), high - low


def _spread_of_bins(counts: np.ndarray, edges: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Half the mean distance of two members, [1, points], with F linear in every bin: the integral of F (1 - F); its bound."""
    upper = np.cumsum(counts, axis=0) / count
    lower = upper - counts / count
    width, fair = np.diff(edges, axis=0), count / (count - 1)
    inside = (lower + upper) / 2 - (lower**2 + lower * upper + upper**2) / 3
    slope = np.maximum(np.abs(1 - 2 * lower), np.abs(1 - 2 * upper))
    return fair * (width * inside).sum(0)[None], fair * (width * (upper - lower) * slope).sum(0)[None]
