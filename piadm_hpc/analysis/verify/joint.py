"""Joint variability: correlations of the deviations of variables over all points, for samples and for real fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..drawing.style import drawn
from ..pages import Section, number
from ..planes import Plane
from .field_figures import correlation_matrices

LISTED = 12
"""Pairs of variables in the table, those that differ most."""


def correlation_matrix(fields: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Correlations [v, v] of v variables [n, rows, columns] over fields and area, each less its own mean at every point.

    Points that are missing in any variable or field are left out.
    """
    there = np.all([np.isfinite(one).all(0) for one in fields], axis=0)
    area = np.sqrt(np.broadcast_to(weights[:, None], there.shape)[there])
    flat = np.stack([((one - one.mean(0))[:, there] * area).ravel() for one in fields])
    products = flat @ flat.T
    scale = np.sqrt(np.diag(products))
    size = np.outer(scale, scale)
    return np.asarray(np.divide(products, size, out=np.full_like(products, np.nan), where=size > 0))


def correlation_section(
    planes: Sequence[Plane], fields: Mapping[str, tuple[np.ndarray, np.ndarray | None]], record: dict[str, Any]
) -> list[Section]:
    """The section on correlations of variables, or levels; none for one map, or for maps on different grids."""
    if len(planes) < 2 or len({plane.grid.dims for plane in planes}) > 1 or len(fields[planes[0].name][0]) < 2:
        return []
    names, weights = [plane.name for plane in planes], planes[0].grid.weights
    counts = {len(fields[name][0]) for name in names}
    examples = [real for name in names if (real := fields[name][1]) is not None]
    if len(counts) > 1:
        return []
    own = correlation_matrix([fields[name][0] for name in names], weights)
    known = len(examples) == len(names) and len({len(one) for one in examples}) == 1 and len(examples[0]) > 1
    real = correlation_matrix(examples, weights) if known else None
    label = f"{len(examples[0])} real fields" if known else ""
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    record["correlations"] = {
        f"{names[i]}, {names[j]}": [float(own[i, j]), None if real is None else float(real[i, j])] for i, j in pairs
    }
    shown = pairs if real is None else sorted(pairs, key=lambda pair: -abs(float(own[pair] - real[pair])))
    rows = [
        [f"{names[i]}, {names[j]}", number(float(own[i, j])), "-" if real is None else number(float(real[i, j]))]
        for i, j in shown[:LISTED]
    ]
    note = "Over all points, weighted by area, of deviations from the mean at each point." + (
        f" The {LISTED} pairs of {len(pairs)} that differ most." if len(pairs) > LISTED else ""
    )
    figures = drawn(correlation_matrices, own, real, names, label)
    return [Section("Correlations of variables", ("pair", "samples", label or "real fields"), rows, [note], figures)]
