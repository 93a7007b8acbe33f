"""The sums of a set of members of one group: of some members, or of two sets together, independent of their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import sums
from .recipe import Recipe

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class State:
    """The sums that are kept for `count` members, by variable.

    `sum`, `square` and `distance` (to the truth) are totals in doubled precision, [2, *shape]. `extremes` [2, *shape] are the
    smallest and the largest value, `above` [thresholds, *shape] counts members above each threshold, and `ranks` [2, *shape]
    those below the truth and those equal to it. `values` [count, *shape] are the members in rising order at every point while
    there are few; for more members, `bins` [edges + 1, *shape] counts those below the first edge, between two edges, and from
    the last edge on.
    """

    count: int
    arrays: Mapping[str, Arrays]


def state_of(recipe: Recipe, group: int, fields: Mapping[str, np.ndarray]) -> State:
    """The state of the members of a group with float32 `fields` [S, *shape] by variable."""
    count = len(next(iter(fields.values())))
    return State(count, {name: _arrays(recipe, name, group, rows) for name, rows in fields.items()})


def merged(recipe: Recipe, a: State, b: State) -> State:
    """The state of the members of two disjoint sets together."""
    found = {name: _merged(recipe, name, a.arrays[name], b.arrays[name]) for name in a.arrays}
    return State(a.count + b.count, found)


def _arrays(recipe: Recipe, name: str, group: int, rows: np.ndarray) -> Arrays:
    kept, truth, shape = recipe.kept, recipe.truth_of(name, group), rows.shape[1:]
    found: Arrays = {key: sums.zero(shape) for key in ("sum", "square", "distance") if key in kept}
    for row in rows:
        wide = row.astype(np.float64)
        if "sum" in kept:
            sums.add(found["sum"], wide)
        if "square" in kept:
            sums.add(found["square"], wide * wide)
        if "distance" in kept and truth is not None:
            sums.add(found["distance"], np.abs(wide - truth))
    if "extremes" in kept:
        found["extremes"] = np.stack([rows.min(0), rows.max(0)])
    if "above" in kept:
        levels = recipe.thresholds.get(name, ())
        found["above"] = np.array([(rows > np.float32(level)).sum(0) for level in levels], dtype=np.uint32).reshape(-1, *shape)
    if "ranks" in kept and truth is not None:
        found["ranks"] = np.stack([(rows < truth).sum(0), (rows == truth).sum(0)]).astype(np.uint32)
    if "values" in kept:
        found |= _kept_values(recipe, name, np.sort(rows, axis=0))
    return found


def _merged(recipe: Recipe, name: str, a: Arrays, b: Arrays) -> Arrays:
    found: Arrays = {key: sums.merged(a[key], b[key]) for key in ("sum", "square", "distance") if key in a}
    found |= {key: a[key] + b[key] for key in ("above", "ranks") if key in a}
    if "extremes" in a:
        (low, high), (lower, higher) = a["extremes"], b["extremes"]
        found["extremes"] = np.stack([np.minimum(low, lower), np.maximum(high, higher)])
    if "values" in a and "values" in b:
        found |= _kept_values(recipe, name, np.sort(np.concatenate([a["values"], b["values"]]), axis=0))
    elif "values" in recipe.kept:
        one, other = (_in_bins(recipe, name, each["values"]) if "values" in each else each["bins"] for each in (a, b))
        found["bins"] = _narrow(one.astype(np.uint32) + other)
    return found


def _kept_values(recipe: Recipe, name: str, rows: np.ndarray) -> Arrays:
    """Members in rising order as they are kept: their values while there are few, otherwise in bins."""
    return {"values": rows} if len(rows) <= recipe.exact else {"bins": _in_bins(recipe, name, rows)}


def _in_bins(recipe: Recipe, name: str, rows: np.ndarray) -> np.ndarray:
    edges = recipe.edges[name]
    counts = np.empty((len(edges) + 1, *rows.shape[1:]), np.min_scalar_type(len(rows)))
    before = np.zeros(rows.shape[1:], np.int64)
    for number, edge in enumerate(edges):
        below = (rows < edge).sum(0)
        counts[number], before = below - before, below
    counts[-1] = len(rows) - before
    return counts


def _narrow(counts: np.ndarray) -> np.ndarray:
    """Counts in the smallest type that holds them."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
