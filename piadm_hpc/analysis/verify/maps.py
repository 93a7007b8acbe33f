"""Maps of a posterior's mean, spread and increment, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.observations import ObservationTable
from ..drawing import colours
from ..drawing.labels import bracketed
from ..drawing.maps import colour_bar, draw_map, extent, height_of_row
from ..drawing.quantities import shown_units
from ..drawing.style import WIDTH, entitle, literal, styled
from ..grids import MapGrid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES: dict[str, tuple[Callable[[np.ndarray, Mapping[Any, Any]], colours.Scale], str]] = {
    "mean": (colours.amount, "neither"),
    "spread": (colours.spread, "max"),
    "increment": (colours.difference, "both"),
}


def map_figure(
    maps: Mapping[str, np.ndarray], grid: MapGrid, name: str, attrs: Mapping[Any, Any], table: ObservationTable | None
) -> Figure:
    """Draw mean, spread and increment [rows, columns] of the variable `name` with the points of observations.

    Raises PlotError without matplotlib.
    """
    factor, units = shown_units(attrs)
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height_of_row(grid, len(maps)) + 1.3), layout="constrained")
        axes = figure.subplots(1, len(maps), squeeze=False)[0]
        entitle(figure, str(attrs.get("long_name") or name))
        for axis, (what, field) in zip(axes, maps.items(), strict=True):
            scale, extend = SCALES[what]
            image = draw_map(axis, grid, field * factor, scale(field * factor, attrs), what)
            colour_bar(image, [axis], literal(name) + bracketed(units), extend=extend)
            if table is not None and what != "mean" and grid.geographic:
                points = table["kind"] == "point"
                west = extent(grid)[1][0]
                lon = west + (table["lon"][points] - west) % 360
                axis.plot(lon, table["lat"][points], "k.", markersize=2)
        return figure
