"""One figure per variable: sampled fields, ensemble mean and spread, zonal spectrum, and sweeps with error bounds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .scores import Reference, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN, PALE, SECOND = "#c0392b", "#e2b4ad", "#2c5f8a"
REAL, FAINT, MISSING = "#1f1f1f", "#8a8a8a", "#d4d4d4"
MARGINS: dict[str, Any] = {"left": 0.05, "right": 0.945, "top": 0.92, "bottom": 0.06}
STYLE: dict[Any, Any] = {
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
    """The content of the figure of one variable, in physical units.

    `fields` [n, lat, lon] are samples with the ids `names` [n], and `power` [n, k] is their power per zonal wavenumber.
    `sweeps` and `residual`, the bound on the error, are [all samples, blocks]. `reference` describes real fields, and is None
    without them. `rounds` is the label of `sweeps`.
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
    rounds: str = "sweeps"

    def literal(self) -> Picture:
        """Return the same picture with all words as matplotlib must be given them, so that it does not parse them as TeX."""
        reference = self.reference and replace(self.reference, label=literal(self.reference.label))
        return replace(self, title=literal(self.title), name=literal(self.name), units=literal(self.units), reference=reference)


def draw(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write the figure as a PNG; raises PlotError without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotError("no figure was drawn, for matplotlib is not installed: pip install 'piadm_hpc[plot]'") from None
    picture = picture.literal()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 10.2))
        rows = figure.add_gridspec(3, 1, height_ratios=(0.92, 1.2, 0.98), hspace=0.36, **MARGINS)
        figure.suptitle(picture.title, x=0.05, y=0.975, ha="left", fontsize=13, fontweight="bold")
        _members(figure, rows[0].subgridspec(1, 4, wspace=0.07), picture)
        _ensemble(figure, rows[1].subgridspec(1, 3, wspace=0.07), picture)
        below = rows[2].subgridspec(1, 2, wspace=0.14)
        _spectrum(figure.add_subplot(below[0]), picture)
        _sweeps(figure.add_subplot(below[1]), picture)
        figure.savefig(path)


def _members(figure: Figure, grid: Any, picture: Picture) -> None:
    """Up to four samples as anomalies on one symmetric scale."""
    centre = picture.fields.mean(0) if picture.reference is None else picture.reference.mean
    shown = picture.fields[:4] - centre
    limit = _round_up(np.nanpercentile(np.abs(shown), 99.5))
    whose = f"mean of {_samples(picture.fields)}" if picture.reference is None else f"mean of {picture.reference.label}"
    axes = [figure.add_subplot(grid[0, k]) for k in range(4)]
    for k, axis in enumerate(axes):
        if k >= len(shown):
            axis.set_visible(False)
            continue
        image = _map(axis, picture, shown[k], cmap="RdBu_r", vmin=-limit, vmax=limit, edge=k == 0)
        axis.set_title(f"sample {picture.names[k]}")
    _colour_bar(figure, image, axes[: len(shown)], f"{picture.name} minus {whose} [{picture.units}]", extend="both")


def _ensemble(figure: Figure, grid: Any, picture: Picture) -> None:
    """Ensemble mean, ensemble spread, and the spread of the real fields on the same scale."""
    count = len(picture.fields)
    mean = picture.fields.mean(0, dtype=np.float64)
    axis = figure.add_subplot(grid[0, 0])
    image = _map(axis, picture, mean, edge=True, **_scale_of_mean(mean))
    axis.set_title(f"mean of {_samples(picture.fields)}")
    _colour_bar(figure, image, [axis], f"[{picture.units}]")
    maps = []
    if count > 1:
        maps.append((f"standard deviation of {_samples(picture.fields)}", picture.fields.std(0, ddof=1, dtype=np.float64)))
    if picture.reference is not None:
        maps.append((f"standard deviation of {picture.reference.label}", picture.reference.std))
    if not maps:
        return
    top = _round_up(max(np.nanpercentile(values, 99.5) for _, values in maps))
    axes = [figure.add_subplot(grid[0, k + 1]) for k in range(len(maps))]
    for axis, (title, values) in zip(axes, maps, strict=True):
        image = _map(axis, picture, values, cmap="YlOrRd", vmin=0, vmax=top, edge=False)
        axis.set_title(title)
    _colour_bar(figure, image, axes, f"[{picture.units}]", extend="max")


def _scale_of_mean(mean: np.ndarray) -> dict[str, Any]:
    """A diverging scale around zero for fields of both signs, else a sequential scale."""
    low, high = np.nanpercentile(mean, (0.5, 99.5))
    if low < 0 < high and min(-low, high) > 0.1 * max(-low, high):
        limit = _round_up(max(-low, high))
        return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    return {"cmap": "viridis", "vmin": low, "vmax": high}


def _map(axis: Axes, picture: Picture, values: np.ndarray, *, edge: bool, **scale: Any) -> Any:
    """Draw one field over longitude and latitude, missing points in grey; only a map at the `edge` has labels of rows."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    image = axis.pcolormesh(picture.columns, picture.rows, np.ma.masked_invalid(values), shading="nearest", **scale)
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
    bar = figure.colorbar(
        image,
        ax=axes,
        orientation="horizontal",
        extend=extend,
        extendfrac=0.012,
        fraction=0.045,
        pad=0.115,
        aspect=60,
        shrink=0.9 if len(axes) == 1 else 0.5,
    )
    bar.set_label(label, fontsize=8.5)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=8, length=2.5)


def _spectrum(axis: Axes, picture: Picture) -> None:
    """Power per zonal wavenumber of samples and real fields, on logarithmic axes."""
    axis.set_title("zonal power spectrum of anomalies")
    axis.set_xlabel("zonal wavenumber")
    axis.set_ylabel(f"power [{_squared(picture.units)}]")
    if picture.power is None or picture.reference is None:
        axis.text(0.5, 0.5, "no statistics of the data to compare with", ha="center", color=FAINT, transform=axis.transAxes)
        return
    # the last wavenumber of an even number of points has one coefficient instead of two
    k = np.arange(1, (len(picture.columns) + 1) // 2)
    own, real = picture.power[:, k], picture.reference.power[k]
    if len(own) > 1:
        low, high = np.percentile(own, (10, 90), axis=0)
        axis.fill_between(k, low, high, color=OWN, alpha=0.16, linewidth=0, label="10 to 90 % of samples")
    axis.plot(k, real, color=REAL, linewidth=1.6, label=picture.reference.label)
    axis.plot(k, own.mean(0), color=OWN, linewidth=1.8, label=_samples(own))
    axis.set(xscale="log", yscale="log", xlim=(1, k[-1]))
    floor = min(real.min(), own.mean(0).min())
    # data of a truncated model have hardly any power in the last wavenumbers, which would flatten all the rest
    axis.set_ylim(bottom=max(floor, 1e-6 * own.mean(0).max()) / 2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="lower left", fontsize=8.5)


def _sweeps(axis: Axes, picture: Picture) -> None:
    """Sweeps per block as bars with their range over samples, or for a single block a histogram of sweeps; and error bounds."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.set_ylabel("bound on the error", color=SECOND)
    right.tick_params(axis="y", labelcolor=SECOND, length=2.5)
    # a chain that is solved step by step has a bound of zero, which a logarithmic axis cannot show
    residual = np.where(np.isfinite(picture.residual) & (picture.residual > 0), picture.residual, np.nan)
    there = np.append(residual[np.isfinite(residual)], picture.tol)
    right.set(yscale="log", ylim=(there.min() / 6, there.max() * 8))
    right.yaxis.set_minor_formatter(NullFormatter())
    (_one_block if picture.sweeps.shape[1] == 1 else _blocks)(axis, right, picture.sweeps, residual, picture.rounds)
    right.axhline(picture.tol, color=SECOND, linewidth=0.9, linestyle=(0, (4, 3)))
    right.annotate(
        "tolerance",
        (0.01, picture.tol),
        xycoords=("axes fraction", "data"),
        va="bottom",
        fontsize=8,
        color=SECOND,
        xytext=(0, 2),
        textcoords="offset points",
    )
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(integer=True))


def _blocks(axis: Axes, right: Axes, sweeps: np.ndarray, residual: np.ndarray, word: str) -> None:
    blocks = np.arange(1, sweeps.shape[1] + 1)
    middle = np.median(sweeps, axis=0)
    reach = np.abs(np.stack([sweeps.min(0), sweeps.max(0)]) - middle)
    axis.bar(blocks, middle, width=0.7, color=PALE, yerr=reach, error_kw={"ecolor": OWN, "elinewidth": 1, "capsize": 2})
    axis.set(title=f"{word} per block: median and range over samples", xlabel="block, from noise to data", ylabel=word)
    axis.set_ylim(0, 1.25 * sweeps.max(initial=1))
    right.plot(blocks, np.fmax.reduce(residual), "o", color=SECOND, markersize=4)


def _one_block(axis: Axes, right: Axes, sweeps: np.ndarray, residual: np.ndarray, word: str) -> None:
    values, counts = np.unique(sweeps[:, 0], return_counts=True)
    axis.bar(values, counts, width=0.5, color=PALE, edgecolor=OWN, linewidth=0.6)
    axis.set(title=f"{word} of the only block, and the bound on the error of its end", xlabel=word, ylabel="samples")
    axis.set(xlim=(0, max(values.max() + 1.5, 6)), ylim=(0, 1.25 * counts.max()))
    spread = 0.17 * (np.arange(len(sweeps)) % 7 - 3) / 3
    right.plot(sweeps[:, 0] + spread, residual[:, 0], "o", color=SECOND, markersize=3.5, alpha=0.8)


def literal(text: str) -> str:
    """Escape what matplotlib would take for the begin of TeX; an underscore or a caret means nothing outside of it."""
    return text.replace("$", r"\$")


def _samples(fields: np.ndarray) -> str:
    return counted(len(fields), "sample")


def _squared(units: str) -> str:
    """Units of a power."""
    if units in ("", "1"):
        return "1"
    return f"{units}$^2$" if units.replace("_", "").isalpha() else f"({units})$^2$"


def _round_up(value: float) -> float:
    """The next larger number of one or two digits, for the end of a colour scale."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999) * power)
