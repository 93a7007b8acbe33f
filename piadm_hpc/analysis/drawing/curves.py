"""Curves and histograms: spectra, distributions of values, quantiles against quantiles, ranks, correlations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..grids import MapGrid
from .maps import extent
from .style import FAINT, OWN, PALE, REAL, SECOND, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EARTH = 6371.0  # km


@dataclass(frozen=True)
class Power:
    """Spectra of one transform: of samples [n, k] and of the reference [k], for wavenumbers from 0 on, in squared `units`."""

    samples: np.ndarray
    reference: np.ndarray
    transform: str
    units: str


def empty(axis: Axes, words: str) -> None:
    """A panel with a text that explains why it is empty."""
    axis.text(0.5, 0.5, words, ha="center", va="center", color=FAINT, transform=axis.transAxes, wrap=True)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def spectrum(axis: Axes, power: Power, grid: MapGrid, own_label: str, real_label: str) -> None:
    """Power by wavenumber of samples and real fields on logarithmic axes, with wavelengths along the top in a region."""
    zonal, cosine = power.transform == "zonal", power.transform == "cosine"
    title = "zonal power spectrum" if zonal else "cosine power spectrum" if cosine else "spectrum on the sphere"
    axis.set_title(title)
    axis.set_xlabel(
        "zonal wavenumber" if zonal else "wavenumber: half waves across the region" if cosine else "degree of spherical harmonics"
    )
    axis.set_ylabel(f"{'power of anomalies' if zonal or cosine else 'mean square of coefficients'} [{power.units}]")
    # the last wavenumber of an even number of columns has one coefficient instead of two; with cosines it includes the corners
    last = (grid.shape[1] - 1) // 2 if zonal else min(grid.shape) - 1 if cosine else len(power.reference) - 1
    k = np.arange(1, last + 1)
    own, real = power.samples[:, k], power.reference[k]
    if len(own) > 1:
        low, high = np.percentile(own, (10, 90), axis=0)
        axis.fill_between(k, low, high, color=OWN, alpha=0.16, linewidth=0, label="10 to 90 % of samples")
    axis.plot(k, real, color=REAL, linewidth=1.6, label=literal(real_label))
    axis.plot(k, own.mean(0), color=OWN, linewidth=1.8, label=own_label)
    axis.set(xscale="log", yscale="log", xlim=(1, max(k[-1], 2)))
    floor = min(np.min(real), np.min(own.mean(0)))
    # data of a truncated model have hardly any power in the last wavenumbers, which would flatten all the rest
    axis.set_ylim(bottom=max(floor, 1e-6 * np.max(own.mean(0))) / 2 or None)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="lower left", fontsize=8.5)
    if cosine and grid.geographic and grid.rectangular:
        twice = 2 * _shorter_side(grid)

        def other(value: Any) -> Any:
            return twice / np.maximum(value, 1e-9)  # a wavelength from a wavenumber, and the reverse

        above = axis.secondary_xaxis("top", functions=(other, other))
        above.set_xlabel("wavelength [km]", fontsize=8.5)
        nice = [
            step * 10**power for power in range(6) for step in (1, 2, 5) if twice / max(k[-1], 2) <= step * 10**power <= twice
        ]
        above.set_xticks(nice, [f"{value:,}" for value in nice])
        above.set_xticks([], minor=True)
        above.tick_params(labelsize=8, length=2.5)


def _shorter_side(grid: MapGrid) -> float:
    """Length in km of the side with fewer points, at the mean spacing of a region."""
    (south, north), (west, east) = extent(grid)
    north_south = np.deg2rad(north - south) * EARTH
    west_east = np.deg2rad(east - west) * EARTH * np.cos(np.deg2rad((south + north) / 2))
    return float(min(grid.shape) * np.sqrt(north_south / grid.shape[0] * west_east / grid.shape[1]))


def distribution(
    axis: Axes, own: np.ndarray, real: np.ndarray | None, weights: np.ndarray, labels: tuple[str, str], xlabel: str, *, log: bool
) -> None:
    """Histograms of values at all points, weighted by area: of samples [n, rows, columns] filled, of real fields as a line."""
    both = [own] if real is None or not len(real) else [own, real]
    ends = np.stack([np.nanquantile(one, (1e-4, 1 - 1e-4)) for one in both])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    edges = np.linspace(low, high if high > low else low + 1, 61).tolist()
    looks: tuple[dict[str, Any], ...] = ({"color": PALE}, {"color": REAL, "linewidth": 1.4})
    for values, label, look in zip(both, labels, looks, strict=False):
        there = np.isfinite(values)
        area = np.broadcast_to(weights[:, None], values.shape)[there]
        axis.hist(
            values[there], edges, weights=area, density=True, label=literal(label), log=log,
            histtype="stepfilled" if values is own else "step", **look,
        )  # fmt: skip
    axis.set_title("distribution over all points")
    if not log:
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # room for the legend
    axis.set(xlabel=xlabel, ylabel="density", xlim=(edges[0], edges[-1]))
    axis.legend(fontsize=8.5, loc="upper right")


def quantiles(axis: Axes, own: np.ndarray, real: np.ndarray, units: str) -> None:
    """Quantiles of samples against those of real fields, with the ends far into the tails, and the line of equality."""
    levels = np.concatenate([[1e-4, 3e-4, 1e-3, 3e-3], np.linspace(0.01, 0.99, 99), 1 - np.array([3e-3, 1e-3, 3e-4, 1e-4])])
    x, y = np.nanquantile(real, levels), np.nanquantile(own, levels)
    ends = [min(x[0], y[0]), max(x[-1], y[-1])]
    axis.plot(ends, ends, color=FAINT, linewidth=0.8)
    axis.plot(x, y, ".", color=OWN, markersize=4)
    marked = [0.001, 0.5, 0.999]
    axis.plot(np.nanquantile(real, marked), np.nanquantile(own, marked), "o", color=SECOND, markersize=5, label="0.1, 50, 99.9 %")
    axis.set(title="quantiles over all points", xlabel=f"reference{units}", ylabel=f"samples{units}")
    axis.legend(fontsize=8.5, loc="upper left")


def ranks(axis: Axes, shares: Sequence[float], title: str) -> None:
    """Shares of the ranks of the truth among the samples, with the level of a calibrated ensemble."""
    count = len(shares)
    merged = np.array_split(np.asarray(shares), min(count, 21))
    heights = np.array([one.sum() / len(one) for one in merged])
    width = np.array([len(one) for one in merged]) / count
    left = np.concatenate([[0.0], np.cumsum(width)[:-1]])
    axis.bar(left, heights * count, width=width, align="edge", color=PALE, edgecolor=OWN, linewidth=0.6)
    axis.axhline(1, color=SECOND, linewidth=0.9, linestyle=(0, (4, 3)), label="calibrated")
    axis.set(title=title, xlabel="rank of the truth among the samples, from below to above all", ylabel="density", xlim=(0, 1))
    axis.legend(fontsize=8.5)


def correlations(axis: Axes, matrix: np.ndarray, names: Sequence[str], title: str) -> object:
    """A matrix of correlations with its numbers; returns the image for a colour bar."""
    image = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    places = range(len(names))
    axis.set_xticks(places, [literal(name) for name in names], rotation=30, ha="right", fontsize=8)
    axis.set_yticks(places, [literal(name) for name in names], fontsize=8)
    if len(names) <= 8:
        for i in places:
            for j in places:
                shade = "white" if abs(matrix[i, j]) > 0.7 else "#222222"
                axis.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=8, color=shade)
    axis.set_title(title)
    return image
