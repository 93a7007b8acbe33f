"""Colours by the quantity that a variable measures: rain from brown to blue-green, temperature from blue to red.

The choice follows the palettes of the IPCC's figures, with the colours of ColorBrewer (Harrower and Brewer 2003).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...data.anomalies import named_anomaly
from .quantities import kind_of_quantity

AMOUNT = {"temperature": "RdYlBu_r", "other": "viridis"}
DIFFERENCE = {"water": "BrBG", "temperature": "RdBu_r", "other": "PuOr_r"}
SPREAD = {"water": "YlGnBu", "temperature": "YlOrRd", "other": "BuPu"}
WATER = ("#f6e8c3", "#e9e7d5", "#c7eae5", "#80cdc1", "#35978f", "#01665e", "#003c30")
"""From pale brown to dark blue-green, ever darker."""

Scale = Mapping[str, Any]
"""Colour map and limits, as keywords of matplotlib's functions."""


def amount(values: np.ndarray, attrs: Mapping[Any, Any]) -> Scale:
    """The scale of a field itself: around zero for an anomaly and for values of both signs, from zero for amounts of water."""
    low, high = np.nanpercentile(values, (0.5, 99.5)) if np.isfinite(values).any() else (0.0, 1.0)
    both = low < 0 < high and min(-low, high) > 0.1 * max(-low, high)
    if named_anomaly(attrs) or both:
        return difference(values, attrs)
    kind = kind_of_quantity(attrs)
    if kind == "water":
        from matplotlib.colors import LinearSegmentedColormap

        map_ = LinearSegmentedColormap.from_list("water", WATER)
        return {"cmap": map_, "vmin": 0 if low >= 0 else low, "vmax": round_up(high)}
    return {"cmap": AMOUNT[kind], "vmin": low, "vmax": high if high > low else low + 1}


def difference(values: np.ndarray, attrs: Mapping[Any, Any]) -> Scale:
    """A scale around zero."""
    limit = round_up(_reach(values))
    return {"cmap": DIFFERENCE[kind_of_quantity(attrs)], "vmin": -limit, "vmax": limit}


def spread(values: np.ndarray, attrs: Mapping[Any, Any]) -> Scale:
    """A scale from zero, for standard deviations and scores."""
    return {"cmap": SPREAD[kind_of_quantity(attrs)], "vmin": 0, "vmax": round_up(_reach(values))}


def _reach(values: np.ndarray) -> float:
    return float(np.nanpercentile(np.abs(values), 99.5)) if np.isfinite(values).any() else 0.0


def round_up(value: float) -> float:
    """The next larger number of one or two digits, for the end of a colour scale."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999) * power)
