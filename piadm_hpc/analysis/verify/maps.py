"""Maps of a posterior's mean, spread and increment beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...data.observations import ObservationTable


def map_figure(
    maps: Mapping[str, np.ndarray], rows: np.ndarray, columns: np.ndarray, title: str, table: ObservationTable | None
) -> Any:
    """Draw maps [lat, lon] by name with the points of observations; None where matplotlib is not installed.

    Maps of increments have a scale around zero.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    figure.suptitle(title)
    for axis, (name, field) in zip(axes, maps.items(), strict=True):
        largest = float(np.nanmax(np.abs(field)))
        limits = {"vmin": -largest, "vmax": largest, "cmap": "RdBu_r"} if name == "increment" else {}
        drawn = axis.pcolormesh(columns, rows, field, shading="nearest", **limits)
        figure.colorbar(drawn, ax=axis)
        axis.set_title(name)
        if table is not None and name != "mean":
            points = table["kind"] == "point"
            lon = columns.min() + (table["lon"][points] - columns.min()) % 360 if np.ptp(columns) > 180 else table["lon"][points]
            axis.plot(lon, table["lat"][points], "k.", markersize=2)
    return figure
