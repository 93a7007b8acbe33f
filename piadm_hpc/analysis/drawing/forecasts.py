"""The figure of the scores of forecasts: lines over leads, and maps at a few of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..grids import grid_of
from ..planes import evenly_spaced
from . import colours
from .labels import bracketed
from .maps import colour_bar, draw_map, height_of_row
from .quantities import shown_units
from .style import FAINT, OWN, SECOND, WIDTH, entitle, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LEADS = 4


def forecast_figure(scores: xr.Dataset, title: str = "", note: str = "") -> Figure:
    """Draw the scores that `forecast_scores` gives: lines over leads, then maps of CRPS, of spread over error, and of skill.

    Maps are at no more than four leads, the first and the last among them. Raises PlotError without matplotlib.
    """
    lead = str(scores["crps"].dims[0])
    grid = grid_of(scores, "crps_map", (lead,))
    shown = evenly_spaced(scores.sizes[lead], MOST_LEADS)
    factor, units = shown_units(scores.attrs)
    rows: list[tuple[str, str, Any]] = [
        ("crps_map", f"CRPS{bracketed(units)}", lambda field: colours.spread(field, scores.attrs)),
        ("spread_skill_map", "spread over error", lambda field: {"cmap": "PuOr_r", "vmin": 0, "vmax": 2}),
    ]
    if "crps_skill_map" in scores:
        rows.append(("crps_skill_map", "skill over the baseline", lambda field: {"cmap": "RdBu", "vmin": -1, "vmax": 1}))
    with styled():
        from matplotlib.figure import Figure

        high = height_of_row(grid, MOST_LEADS) + 0.95
        figure = Figure(figsize=(WIDTH, 2.9 + high * len(rows) + 0.4), layout="constrained")
        entitle(figure, title, note)
        parts: Any = figure.subfigures(1 + len(rows), 1, height_ratios=[2.9, *[high] * len(rows)])
        _lines(parts[0].subplots(1, 3), scores, lead, factor, units)
        for part, (name, label, scale_of) in zip(parts[1:], rows, strict=True):
            fields = scores[name].values.reshape(-1, *grid.shape)[shown] * (factor if name == "crps_map" else 1.0)
            scale = scale_of(fields)
            axes = part.subplots(1, MOST_LEADS)
            for axis, field, k in zip(axes, fields, shown, strict=False):
                image = draw_map(axis, grid, field, scale, f"{lead.replace('_', ' ')} {_number(scores[lead].values[k])}")
            for axis in axes[len(shown) :]:
                axis.set_visible(False)
            colour_bar(image, axes[: len(shown)], label, extend="max" if name == "crps_map" else "both")
    return figure


def _number(value: Any) -> str:
    """A lead as it is, in days where it is a span of time."""
    if isinstance(value, np.timedelta64):
        return f"{value / np.timedelta64(1, 'D'):g} days"
    return f"{value:g}"


def _lines(axes: Any, scores: xr.Dataset, lead: str, factor: float, units: str) -> None:
    leads = scores[lead].values
    x = leads / np.timedelta64(1, "D") if leads.dtype.kind == "m" else leads
    label = f"{lead.replace('_', ' ')}{' [days]' if leads.dtype.kind == 'm' else ''}"
    _line(axes[0], x, {"CRPS": scores["crps"].values * factor, "error of the mean": scores["rmse"].values * factor,
                       "spread": scores["spread"].values * factor})  # fmt: skip
    axes[0].set(title="scores by lead, averages over the area", ylabel=bracketed(units).strip(), ylim=(0, None))
    _line(axes[1], x, {"spread over error": scores["spread_skill"].values})
    axes[1].axhline(1, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    highest = max(1.5, 1.15 * float(scores["spread_skill"].max()))
    axes[1].set(title="spread over error; 1 where calibrated", ylim=(0, highest))
    if "crps_skill" in scores:
        _line(axes[2], x, {"CRPS skill over the baseline": scores["crps_skill"].values})
        axes[2].axhline(0, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes[2].set_title("skill over the baseline; 1 is perfect")
    else:
        _line(axes[2], x, {"bias": scores["bias"].values * factor})
        axes[2].axhline(0, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes[2].set(title="bias of the mean", ylabel=bracketed(units).strip())
    for axis in axes:
        axis.set_xlabel(label)


def _line(axis: Axes, x: np.ndarray, lines: dict[str, np.ndarray]) -> None:
    from matplotlib.ticker import MaxNLocator

    for (name, values), colour in zip(lines.items(), (OWN, SECOND, "#7a9a3a"), strict=False):
        axis.plot(x, values, "o-", color=colour, markersize=4, linewidth=1.6, label=name)
    if len(lines) > 1:
        axis.legend(fontsize=8.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
