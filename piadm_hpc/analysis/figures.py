"""The figure of a map of a run: samples, mean and its difference from the data, spread, spectrum, values, bounds on errors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import colours, curves
from .drawing.labels import bracketed, squared
from .drawing.maps import colour_bar, draw_map, height_of_row
from .drawing.quantities import kind_of_quantity, shown_units
from .drawing.style import OWN, PALE, SECOND, WIDTH, entitle, literal, styled
from .grids import MapGrid
from .scores import Reference, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class MapData:
    """Samples of one map beside real fields, in the units of the samples.

    `attrs` are the variable's, units among them. `fields` [n, rows, columns] are samples, and `power` [n, k] is their power per
    wavenumber of the reference's transform. `reference` describes real fields, and is None without them; `examples` [m, rows,
    columns] are some of them, as `examples_label` says.
    """

    name: str
    attrs: Mapping[Any, Any]
    grid: MapGrid
    fields: np.ndarray
    power: np.ndarray | None
    reference: Reference | None
    examples: np.ndarray | None = None
    examples_label: str = ""

    @property
    def factor(self) -> float:
        """The factor that converts values to the units that are shown."""
        return shown_units(self.attrs)[0]

    @property
    def units(self) -> str:
        """The units that are shown."""
        return shown_units(self.attrs)[1]

    @property
    def label(self) -> str:
        """Name and units for an axis or a colour bar."""
        return literal(self.name) + bracketed(self.units)


@dataclass(frozen=True, kw_only=True)
class Picture(MapData):
    """The content of the figure of one map of a run.

    `names` [n] are the ids of the samples. `sweeps` and `residual`, the bound on the error, are [all samples, blocks],
    `rounds` is the label of `sweeps`, and `note` stands below the figure.
    """

    title: str
    names: Sequence[int | str]
    sweeps: np.ndarray
    residual: np.ndarray
    tol: float
    rounds: str = "sweeps"
    note: str = ""


def draw(picture: Picture, *paths: str | os.PathLike[str]) -> None:
    """Write the figure to files, a PNG or a page of PDF by their suffix; raises PlotError without matplotlib."""
    with styled():
        from matplotlib.figure import Figure

        maps = height_of_row(picture.grid, 4) + 1.0
        heights = (maps, maps, 2.75)
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.45), layout="constrained")
        entitle(figure, picture.title, picture.note)
        parts: Any = figure.subfigures(3, 1, height_ratios=heights)
        _members(parts[0].subplots(1, 4), picture)
        ensemble_maps(parts[1].subplots(1, 4), picture)
        left, middle, right = parts[2].subplots(1, 3)
        spectrum_panel(left, picture)
        values_panel(middle, picture)
        _bounds(right, picture)
        for path in paths:
            figure.savefig(path)


def _members(axes: Sequence[Axes], picture: Picture) -> None:
    """Up to four samples as anomalies on one symmetric scale."""
    centre = picture.fields.mean(0) if picture.reference is None else picture.reference.mean
    shown = (picture.fields[:4] - centre) * picture.factor
    scale = colours.difference(shown, picture.attrs)
    whose = f"mean of {_samples(picture)}" if picture.reference is None else f"mean of {picture.reference.label}"
    for k, axis in enumerate(axes):
        if k >= len(shown):
            axis.set_visible(False)
            continue
        image = draw_map(axis, picture.grid, shown[k], scale, f"sample {picture.names[k]}")
    colour_bar(image, axes[: len(shown)], literal(f"{picture.name} minus {whose}") + bracketed(picture.units), extend="both")


def ensemble_maps(axes: Sequence[Axes], picture: MapData) -> None:
    """Ensemble mean, its difference from that of the real fields, ensemble spread, and that of the real fields."""
    mean = picture.fields.mean(0, dtype=np.float64) * picture.factor
    image = draw_map(axes[0], picture.grid, mean, colours.amount(mean, picture.attrs), f"mean of {_samples(picture)}")
    colour_bar(image, axes[:1], picture.label)
    stds = []
    if len(picture.fields) > 1:
        own = picture.fields.std(0, ddof=1, dtype=np.float64) * picture.factor
        stds.append(("standard deviation of samples", own))
    if picture.reference is not None:
        real = picture.reference
        apart = mean - real.mean * picture.factor
        image = draw_map(axes[1], picture.grid, apart, colours.difference(apart, picture.attrs), "minus mean of the data")
        colour_bar(image, axes[1:2], picture.label, extend="both")
        stds.append(("standard deviation of the data", real.std * picture.factor))
    used = [axes[0], *(axes[1:2] if picture.reference is not None else ())]
    rest = axes[len(used) : len(used) + len(stds)]
    if stds:
        scale = colours.spread(np.stack([std for _, std in stds]), picture.attrs)
        for axis, (title, std) in zip(rest, stds, strict=True):
            image = draw_map(axis, picture.grid, std, scale, title)
        colour_bar(image, rest, picture.label, extend="max")
    for axis in axes[len(used) + len(stds) :]:
        axis.set_visible(False)


def spectrum_panel(axis: Axes, picture: MapData) -> None:
    """Spectra of samples and real fields, or the reason why there are none."""
    if picture.power is None or picture.reference is None or picture.reference.transform is None:
        why = "no spectrum of scattered points" if picture.grid.transform is None else "no statistics of the data to compare with"
        curves.empty(axis, why)
        axis.set_title("power spectrum")
        return
    scale, real = picture.factor**2, picture.reference
    power = curves.Power(picture.power * scale, real.power * scale, str(real.transform), squared(picture.units))
    curves.spectrum(axis, power, picture.grid, _samples(picture), real.label)


def values_panel(axis: Axes, picture: MapData) -> None:
    """Distribution of anomalies, or of the values themselves for water, with a logarithmic axis that shows its tail."""
    water = kind_of_quantity(picture.attrs) == "water"
    centre = picture.reference.mean if picture.reference is not None and not water else 0.0
    own = (picture.fields - centre) * picture.factor
    real = None if picture.examples is None else (picture.examples - centre) * picture.factor
    what = picture.name if isinstance(centre, float) else f"{picture.name} minus mean of the data"
    labels = (_samples(picture), picture.examples_label)
    curves.distribution(axis, own, real, picture.grid.weights, labels, literal(what) + bracketed(picture.units), log=water)


def _bounds(axis: Axes, picture: Picture) -> None:
    """For one block a histogram of the bounds on errors; for several blocks sweeps as bars with their range, and the bounds."""
    # a chain that is solved step by step has a bound of zero, which a logarithmic axis cannot show
    residual = np.where(np.isfinite(picture.residual) & (picture.residual > 0), picture.residual, np.nan)
    if picture.sweeps.shape[1] > 1:
        _blocks(axis, picture, residual)
        return
    least, most = int(picture.sweeps.min(initial=10**9)), int(picture.sweeps.max(initial=0))
    how = f"{least} to {most} {picture.rounds}" if least < most else f"{most} {picture.rounds}"
    axis.set_title(f"bound on the error after {how}")
    from matplotlib.ticker import MaxNLocator

    known = residual[np.isfinite(residual)]
    if not len(known):
        stepwise = (picture.residual == 0).all()
        curves.empty(axis, "step by step: the chain is solved exactly" if stepwise else "no bounds on errors are known")
        return
    low, high = min(known.min(), picture.tol) / 2, max(known.max(), picture.tol) * 2
    axis.hist(known, np.geomspace(low, high, 31).tolist(), color=PALE, edgecolor=OWN, linewidth=0.6)
    axis.axvline(picture.tol, color=SECOND, linewidth=0.9, linestyle=(0, (4, 3)), label="tolerance")
    axis.set(xscale="log", xlabel="bound on the error [standard deviations of the data]", ylabel="samples")
    axis.set_ylim(top=1.25 * axis.get_ylim()[1])  # room for the legend
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8.5, loc="upper left")


def _blocks(axis: Axes, picture: Picture, residual: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    sweeps, word = picture.sweeps, picture.rounds
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.set_ylabel("bound on the error", color=SECOND)
    right.tick_params(axis="y", labelcolor=SECOND, length=2.5)
    there = np.append(residual[np.isfinite(residual)], picture.tol)
    right.set(yscale="log", ylim=(there.min() / 6, there.max() * 8))
    right.yaxis.set_minor_formatter(NullFormatter())
    blocks = np.arange(1, sweeps.shape[1] + 1)
    middle = np.median(sweeps, axis=0)
    reach = np.abs(np.stack([sweeps.min(0), sweeps.max(0)]) - middle)
    axis.bar(blocks, middle, width=0.7, color=PALE, yerr=reach, error_kw={"ecolor": OWN, "elinewidth": 1, "capsize": 2})
    axis.set(title=f"{word} per block: median and range", xlabel="block, from noise to data", ylabel=word)
    axis.set_ylim(0, 1.25 * sweeps.max(initial=1))
    right.plot(blocks, reduce(np.fmax, residual), "o", color=SECOND, markersize=4)
    right.axhline(picture.tol, color=SECOND, linewidth=0.9, linestyle=(0, (4, 3)))
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    right.annotate("tolerance", (0.01, picture.tol), va="bottom", fontsize=8, color=SECOND, **place)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(integer=True))


def _samples(picture: MapData) -> str:
    return counted(len(picture.fields), "sample")
