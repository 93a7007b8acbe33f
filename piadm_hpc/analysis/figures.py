"""One figure per variable: sampled fields, ensemble mean and spread, zonal spectrum, and what the solver did."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .scores import Reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN, REAL, FAINT, MISSING = "#c0392b", "#1f1f1f", "#8a8a8a", "#d4d4d4"
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "savefig.dpi": 160,
}


class PlotError(ValueError):
    """matplotlib is not installed."""


@dataclass(frozen=True)
class Picture:
    """What the figure of one variable shows, in physical units.

    `fields` [n, lat, lon] with sample numbers `names` [n]; `power` [n, k] per zonal wavenumber; `sweeps` and `residual`
    [all samples, blocks]; `reference` of real fields where there is one.
    """

    title: str
    name: str
    units: str
    rows: np.ndarray
    columns: np.ndarray
    globe: bool
    fields: np.ndarray
    names: Sequence[int]
    power: np.ndarray | None
    reference: Reference | None
    sweeps: np.ndarray
    residual: np.ndarray
    tol: float


def draw(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write the figure as a PNG. PlotError, naming what to install, without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotError("no figure was drawn, for matplotlib is not installed: pip install 'piadm_hpc[plot]'") from None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 9.6))
        grid = figure.add_gridspec(3, 12, height_ratios=(0.86, 1.08, 1.1), hspace=0.42, wspace=1.1,
                                   left=0.05, right=0.955, top=0.915, bottom=0.065)
        figure.suptitle(picture.title, x=0.05, ha="left", fontsize=13, fontweight="bold")
        _members(figure, grid, picture)
        _ensemble(figure, grid, picture)
        _spectrum(figure.add_subplot(grid[2, :6]), picture)
        _sweeps(figure.add_subplot(grid[2, 6:]), picture)
        figure.savefig(path)


def _members(figure: Figure, grid: Any, picture: Picture) -> None:
    """Up to four samples as anomalies on one symmetric scale."""
    centre = picture.fields.mean(0) if picture.reference is None else picture.reference.mean
    shown = picture.fields[:4] - centre
    limit = _round_up(np.nanpercentile(np.abs(shown), 99.5))
    whose = "ensemble" if picture.reference is None else "data"
    axes = [figure.add_subplot(grid[0, 3 * k : 3 * k + 3]) for k in range(4)]
    for k, axis in enumerate(axes):
        if k >= len(shown):
            axis.set_visible(False)
            continue
        image = _map(axis, picture, shown[k], cmap="RdBu_r", vmin=-limit, vmax=limit, edge=k == 0)
        axis.set_title(f"sample {picture.names[k]}" + (f": {picture.name}, anomaly from the {whose} mean" if len(shown) == 1 else ""))
    _colour_bar(figure, image, axes[: len(shown)], f"{picture.name} minus {whose} mean [{picture.units}]", extend="both")


def _ensemble(figure: Figure, grid: Any, picture: Picture) -> None:
    """Ensemble mean, ensemble spread, and beside it the spread of the real fields on the same scale."""
    count = len(picture.fields)
    mean = picture.fields.mean(0, dtype=np.float64)
    axis = figure.add_subplot(grid[1, :4])
    image = _map(axis, picture, mean, edge=True, **_scale_of_mean(mean))
    axis.set_title(f"mean of {count} samples")
    _colour_bar(figure, image, [axis], f"[{picture.units}]")
    spread = picture.fields.std(0, ddof=min(1, count - 1), dtype=np.float64)
    maps = [(f"standard deviation of {count} samples", spread)]
    if picture.reference is not None:
        maps.append((f"standard deviation of {picture.reference.label}", picture.reference.std))
    top = _round_up(max(np.nanpercentile(values, 99.5) for _, values in maps))
    axes = [figure.add_subplot(grid[1, 4 * k + 4 : 4 * k + 8]) for k in range(len(maps))]
    for axis, (title, values) in zip(axes, maps, strict=True):
        image = _map(axis, picture, values, cmap="YlOrRd", vmin=0, vmax=top, edge=False)
        axis.set_title(title)
    _colour_bar(figure, image, axes, f"[{picture.units}]", extend="max")


def _scale_of_mean(mean: np.ndarray) -> dict[str, Any]:
    """Diverging around zero for fields of both signs, else a sequential scale."""
    low, high = np.nanpercentile(mean, (0.5, 99.5))
    if low < 0 < high and min(-low, high) > 0.1 * max(-low, high):
        limit = _round_up(max(-low, high))
        return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    return {"cmap": "viridis", "vmin": low, "vmax": high}


def _map(axis: Axes, picture: Picture, values: np.ndarray, *, edge: bool, **scale: Any) -> Any:
    """One field over longitude and latitude; missing points are grey, row labels only at the `edge`."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    image = axis.pcolormesh(picture.columns, picture.rows, np.ma.masked_invalid(values), shading="nearest", rasterized=True, **scale)
    axis.set_facecolor(MISSING)
    axis.spines[["top", "right"]].set_visible(True)
    axis.tick_params(length=2.5, labelsize=8, labelleft=edge)
    if picture.globe:
        axis.xaxis.set_major_locator(MultipleLocator(90))
        axis.yaxis.set_major_locator(MultipleLocator(30))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _degrees((x + 180) % 360 - 180, "E", "W")))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _degrees(y, "N", "S")))
    return image


def _degrees(value: float, positive: str, negative: str) -> str:
    plain = value in (0, -180)
    return f"{abs(value):g}°" + ("" if plain else positive if value > 0 else negative)


def _colour_bar(figure: Figure, image: Any, axes: list[Axes], label: str, extend: str = "neither") -> None:
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", extend=extend, fraction=0.055, pad=0.13,
                          aspect=34 * len(axes), shrink=1.0 if len(axes) == 1 else 0.6)
    bar.set_label(label, fontsize=8.5)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=8, length=2.5)


def _spectrum(axis: Axes, picture: Picture) -> None:
    """Power per zonal wavenumber, samples against real fields, both axes logarithmic."""
    axis.set_title("zonal power spectrum of anomalies")
    axis.set_xlabel("zonal wavenumber")
    axis.set_ylabel(f"power [{_squared(picture.units)}]")
    if picture.power is None or picture.reference is None:
        axis.text(0.5, 0.5, "no statistics of the data to compare with", ha="center", color=FAINT, transform=axis.transAxes)
        return
    k = np.arange(1, picture.power.shape[1])
    own = picture.power[:, 1:]
    if len(own) > 1:
        axis.fill_between(k, *np.percentile(own, (10, 90), axis=0), color=OWN, alpha=0.16, linewidth=0, label="10 to 90 % of samples")
    axis.plot(k, picture.reference.power[1:], color=REAL, linewidth=1.6, label=picture.reference.label)
    axis.plot(k, own.mean(0), color=OWN, linewidth=1.8, label=f"{len(own)} samples")
    axis.set(xscale="log", yscale="log", xlim=(1, k[-1]))
    floor = min(picture.reference.power[1:].min(), own.mean(0).min())
    # a truncated model's data have next to no power in the last wavenumbers, which would flatten everything else
    axis.set_ylim(bottom=max(floor, 1e-6 * own.mean(0).max()) / 2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="lower left", fontsize=8.5)


def _sweeps(axis: Axes, picture: Picture) -> None:
    """Sweeps per block as bars with the range over samples; of a single block, how many samples took how many."""
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.set(yscale="log")
    right.set_ylabel("largest change in the last sweep", color="#2c5f8a")
    right.tick_params(axis="y", labelcolor="#2c5f8a", length=2.5)
    (_one_block if picture.sweeps.shape[1] == 1 else _blocks)(axis, right, picture)
    right.axhline(picture.tol, color="#2c5f8a", linewidth=0.9, linestyle=(0, (4, 3)))
    right.annotate("tolerance", (0.01, picture.tol), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="#2c5f8a",
                   xytext=(0, 2), textcoords="offset points")
    low = np.min(picture.residual[picture.residual > 0], initial=picture.tol)
    right.set_ylim(max(low, 1e-12) / 4, max(picture.residual.max(initial=0), picture.tol) * 6)
    axis.yaxis.get_major_locator().set_params(integer=True)


def _blocks(axis: Axes, right: Axes, picture: Picture) -> None:
    blocks = np.arange(1, picture.sweeps.shape[1] + 1)
    middle = np.median(picture.sweeps, axis=0)
    reach = np.abs(np.stack([picture.sweeps.min(0), picture.sweeps.max(0)]) - middle)
    axis.bar(blocks, middle, width=0.7, color="#e2b4ad", yerr=reach, error_kw={"ecolor": OWN, "elinewidth": 1, "capsize": 2})
    axis.set(title="sweeps per block: median and range over samples", xlabel="block, from noise to data", ylabel="sweeps")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(0, 1.25 * picture.sweeps.max(initial=1))
    right.plot(blocks, picture.residual.max(0), "o", color="#2c5f8a", markersize=4)


def _one_block(axis: Axes, right: Axes, picture: Picture) -> None:
    values, counts = np.unique(picture.sweeps[:, 0], return_counts=True)
    axis.bar(values, counts, width=0.6, color="#e2b4ad", edgecolor=OWN, linewidth=0.6)
    axis.set(title="sweeps until the change met the tolerance (one block)", xlabel="sweeps", ylabel="samples")
    axis.set(xticks=np.arange(max(0, values.min() - 2), values.max() + 3), ylim=(0, 1.25 * counts.max()))
    spread = 0.2 * (np.arange(len(picture.sweeps)) % 7 - 3) / 3
    right.plot(picture.sweeps[:, 0] + spread, picture.residual[:, 0], "o", color="#2c5f8a", markersize=3.5, alpha=0.8)


def _squared(units: str) -> str:
    """Units of a power."""
    if units in ("", "1"):
        return "1"
    return f"{units}$^2$" if units.replace("_", "").isalpha() else f"({units})$^2$"


def _round_up(value: float) -> float:
    """The next number of one or two plain digits, for the end of a colour scale."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999) * power)
