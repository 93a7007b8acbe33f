"""The effect of importance weights: divergences, populations and free-energy surfaces without and with them, with errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..pages import Section, number
from ..weights.importance import Importance, bootstrap, normalised
from .conformers import Conformers, Surface, torsions
from .divergence import divergence, histogram

MOST_SHOWN = 3.0  # kT, of standard errors in figures
COARSE = 3  # bins of a cell along each axis
LEAST = 0.01  # of the reference in a cell


def weighted(own: Conformers, logs: np.ndarray) -> Conformers:
    """Return the conformers with weights from their logarithms [n]."""
    return replace(own, weight=normalised(logs), label=f"{own.label}, weighted")


def weights_section(
    own: Conformers, logs: np.ndarray, real: Conformers, surfaces: Sequence[tuple[Surface, np.ndarray]], facts: Mapping[str, str]
) -> tuple[Section, dict[str, Any]]:
    """Compare surfaces and populations of unweighted and weighted samples with the reference.

    `surfaces` holds each surface with the coordinates [n, 2] of the samples in it; `facts` are the attributes of the file of
    weights. Errors are standard errors of the bootstrap over samples.
    """
    found = Importance.of(logs)
    weight = normalised(logs)
    rows, figures = [], []
    record: dict[str, Any] = {"effective_share": found.effective, "pareto_shape": found.shape}
    for surface, points in surfaces:
        values = [_divergence(surface, points, w) for w in (np.full(len(points), 1 / len(points)), weight)]
        rows.append([f"divergence [bits], {surface.name}", *(number(v) for pair in values for v in pair), "0"])
        record[surface.name] = {"unweighted": values[0], "weighted": values[1]}
        values = [free_energy_distance(surface, points, w) for w in (np.full(len(points), 1 / len(points)), weight)]
        rows.append([f"distance of free energies [kT], {surface.name}", *(number(v) for pair in values for v in pair), "0"])
        record[f"free energy, {surface.name}"] = {"unweighted": values[0], "weighted": values[1]}
        figures.append(_error_figure(surface, points, weight))
    inside = [(table["phi"] > 0) & (table["phi"] < np.deg2rad(150)) for table in (torsions(own), torsions(real))]
    for k in range(inside[0].shape[1]):
        column = inside[0][:, k].astype(float)
        values = [_share(column, w) for w in (np.full(len(column), 1 / len(column)), weight)]
        truth = float(inside[1][:, k] @ real.weight)
        rows.append(
            [f"share with 0 < phi < 150 degrees, residue {k + 1}", *(number(v) for p in values for v in p), number(truth)]
        )
        record[f"phi_positive residue {k + 1}"] = {"unweighted": values[0], "weighted": values[1], "reference": truth}
    head = ("", "as drawn", "+-", "weighted", "+-", "reference")
    notes = [
        f"Weights towards the energy {facts.get('energy', '')}: effective share {found.effective:.3f}, k-hat {found.shape:.2f}. "
        "Standard errors are those of the bootstrap over samples.",
        f"Distances of free energies are means over {COARSE} x {COARSE} bins with at least {LEAST:.0%} of the reference; "
        "beside them is the distance due to the errors of the samples alone.",
        *(f"Warning: {text}." for text in found.warnings),
    ]
    return Section("Weights", head, rows, notes, figures), record


def _divergence(surface: Surface, points: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    def estimate(times: np.ndarray) -> np.ndarray:
        return np.asarray(divergence(histogram(points, weight * times, surface.edges), surface.reference))

    return float(estimate(np.ones(len(points)))), float(bootstrap(estimate, len(points)))


def free_energy_distance(surface: Surface, points: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return the mean distance in kT of the free energies of weighted points [n, 2] from the reference's, in coarse cells.

    The second number is the mean distance due to the samples' own errors, by the bootstrap.
    """
    reference = _coarse(surface.reference)
    kept = reference >= LEAST

    def estimate(times: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            energy = np.log(reference / _coarse(histogram(points, weight * times, surface.edges)))[kept]
        return np.where(np.isfinite(energy), energy, np.nan)

    error = bootstrap(estimate, len(points))
    return float(np.nanmean(abs(estimate(np.ones(len(points)))))), float(np.nanmean(error) * np.sqrt(2 / np.pi))


def _coarse(chances: np.ndarray) -> np.ndarray:
    """Return the probabilities of cells of COARSE x COARSE bins."""
    rows, columns = (size // COARSE * COARSE for size in chances.shape)
    cells = chances[:rows, :columns].reshape(rows // COARSE, COARSE, columns // COARSE, COARSE).sum((1, 3))
    return np.asarray(cells / chances.sum())


def _share(inside: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    def estimate(times: np.ndarray) -> np.ndarray:
        return np.asarray((weight * times * inside).sum() / (weight * times).sum())

    return float(estimate(np.ones(len(inside)))), float(bootstrap(estimate, len(inside)))


def _error_figure(surface: Surface, points: np.ndarray, weight: np.ndarray) -> Any:
    """Weighted free energies beside their standard errors."""
    from matplotlib.figure import Figure

    def estimate(times: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            energy = -np.log(histogram(points, weight * times, surface.edges))
        return np.where(np.isfinite(energy), energy, np.nan)

    free, error = estimate(np.ones(len(points))), bootstrap(estimate, len(points))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    panels = ((free - np.nanmin(free), 8.0, "weighted free energy [kT]"), (error, MOST_SHOWN, "standard error [kT]"))
    for axis, (values, most, label) in zip(axes, panels, strict=True):
        image = axis.pcolormesh(*surface.edges, values.T, vmin=0, vmax=most, cmap="viridis")
        figure.colorbar(image, ax=axis, label=label)
    figure.suptitle(surface.name)
    return figure
