"""Figures of the verification of fields: maps, spectra, quantiles, ranks, and correlations of variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing import colours, curves
from ..drawing.labels import bracketed, squared
from ..drawing.maps import colour_bar, draw_map, height_of_row
from ..drawing.style import WIDTH, literal, styled
from ..figures import MapData, ensemble_maps, spectrum_panel, values_panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGH = 2.9
"""Inches of a row of curves."""


def overview(data: MapData, degrees: tuple[np.ndarray, np.ndarray] | None, label: str) -> Figure:
    """Maps of mean, difference and spreads, then spectra and quantiles of samples against those of real fields.

    `degrees` are powers [n, degrees] of samples and [degrees] of the real fields by degree on the sphere, or None.
    """
    with styled():
        from matplotlib.figure import Figure

        maps = height_of_row(data.grid, 4) + 1.0
        figure = Figure(figsize=(WIDTH, maps + HIGH), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(maps, HIGH))
        ensemble_maps(parts[0].subplots(1, 4), data)
        with_quantiles = data.examples is not None and len(data.examples) > 0
        axes = parts[1].subplots(1, 2 + (degrees is not None) + with_quantiles, squeeze=False)[0]
        spectrum_panel(axes[0], data)
        if degrees is not None:
            scale = data.factor**2
            power = curves.Power(degrees[0] * scale, degrees[1] * scale, "degrees", squared(data.units))
            curves.spectrum(axes[1], power, data.grid, "samples", label)
        values_panel(axes[-1 - with_quantiles], data)
        if with_quantiles:
            assert data.examples is not None
            curves.quantiles(axes[-1], data.fields * data.factor, data.examples * data.factor, bracketed(data.units))
    return figure


def against_truth(data: MapData, truth: np.ndarray, crps: np.ndarray, shares: Sequence[float]) -> Figure:
    """The true field [rows, columns], the error of the mean, the spread and the CRPS as maps, and the ranks of the truth."""
    with styled():
        from matplotlib.figure import Figure

        maps = height_of_row(data.grid, 4) + 1.0
        figure = Figure(figsize=(WIDTH, maps + HIGH), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(maps, HIGH))
        axes = parts[0].subplots(1, 4)
        mean, std = data.fields.mean(0), data.fields.std(0, ddof=1)
        panels = (
            ("truth", truth, colours.amount, "neither"),
            ("mean of samples minus truth", mean - truth, colours.difference, "both"),
            ("standard deviation of samples", std, colours.spread, "max"),
            ("fair CRPS", crps, colours.spread, "max"),
        )
        for axis, (title, field, scale, extend) in zip(axes, panels, strict=True):
            shown = field * data.factor
            image = draw_map(axis, data.grid, shown, scale(shown, data.attrs), title)
            colour_bar(image, [axis], data.label, extend=extend)
        left, right = parts[1].subplots(1, 2)
        curves.ranks(left, shares, "ranks of the truth, by area")
        there = np.isfinite(truth)
        right.hist2d(std[there] * data.factor, np.abs(mean - truth)[there] * data.factor, bins=50, cmin=1, cmap="BuPu")
        right.set(title="error of the mean against spread, points", xlabel=f"spread{bracketed(data.units)}",
                  ylabel=f"absolute error{bracketed(data.units)}")  # fmt: skip
    return figure


def correlation_matrices(own: np.ndarray, real: np.ndarray | None, names: Sequence[str], label: str) -> Figure:
    """Correlations of variables among the samples, among real fields, and their difference."""
    with styled():
        from matplotlib.figure import Figure

        matrices = [("samples", own)]
        if real is not None:
            matrices += [(label, real), ("samples minus real fields", own - real)]
        size = min(4.4, 2.2 + 0.35 * len(names))
        figure = Figure(figsize=(size * len(matrices) + 0.8, size), layout="constrained")
        axes = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axis, (title, matrix) in zip(axes, matrices, strict=True):
            image: Any = curves.correlations(axis, matrix, names, literal(title))
        figure.colorbar(image, ax=list(axes), shrink=0.8)
    return figure
