"""Verification of conformers as sections of a report: tables, figures and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..drawing.style import OWN, drawn, literal, styled
from ..pages import Section, number
from ..scores import counted
from .conformers import (
    LAG,
    Conformers,
    Surface,
    circular,
    clashing,
    duplicates,
    geometry,
    mean_and_error,
    populations,
    slow_coordinates,
    surface,
    torsions,
    wrong_hands,
)
from .divergence import BLOCKS
from .weighted import weighted, weights_section

Energy = Callable[[np.ndarray], np.ndarray]
MOST_SHOWN = 8.0  # kT, of free energies in figures
MOST_SURFACES = 12  # figures on a page
FEW = 2000  # samples that are drawn as points


def sections_of(
    own: Conformers, real: Conformers, energy: Energy | None = None, weights: tuple[np.ndarray, Mapping[str, str]] | None = None
) -> tuple[list[Section], dict[str, Any]]:
    """Sections and numbers of a comparison; raises ValueError if the molecules differ or the reference is too short.

    With `weights`, log-weights [n] and the attributes of their file, everything is compared with them, and a section shows their
    effect.
    """
    _same_molecule(own, real)
    own = own if weights is None else weighted(own, weights[0])
    record: dict[str, Any] = {
        "samples": len(own.positions),
        "reference": {"label": real.label, "frames": len(real.positions), "effective": real.effective},
    }
    sections = [_overview(own, real)]
    angles = torsions(own)
    if angles["phi"].shape[1]:
        placed = _surfaces(own, real)
        surfaces = [shown for shown, _ in placed]
        record["surfaces"] = {s.name: {"jsd": s.jsd, "floor": s.floor, "floor_error": s.floor_error} for s in surfaces}
        sections.append(_surface_section(placed))
        shares = {name: populations(c) for name, c in (("samples", own), ("reference", real))}
        record["phi_positive"] = {name: dict(table) for name, table in shares.items()}
        sections.append(_population_section(shares))
        if weights is not None:
            section, record["weights"] = weights_section(own, weights[0], real, placed, weights[1])
            sections.append(section)
    if own.topology.bonds:
        record["geometry"] = geometry(own, real)
        sections.append(_geometry_section(record["geometry"]))
    record["validity"] = _validity(own, real)
    sections.append(_validity_section(record["validity"]))
    if energy is not None:
        section, record["energy"] = _energies(own, real, energy)
        sections.append(section)
    return sections, record


def _same_molecule(own: Conformers, real: Conformers) -> None:
    names = [[(a.element, a.residue, a.name) for a in c.topology.atoms] for c in (own, real)]
    if len(names[0]) != len(names[1]):
        raise ValueError(f"the samples have {len(names[0])} atoms, {real.label} {len(names[1])}; compare the same molecule")
    if names[0] != names[1]:
        k = next(k for k, (a, b) in enumerate(zip(*names, strict=True)) if a != b)
        raise ValueError(f"atom {k} is {names[0][k]} in the samples and {names[1][k]} in {real.label}; order atoms alike")
    for conformers in (own, real):
        if not np.isfinite(conformers.positions).all():
            bad = int((~np.isfinite(conformers.positions)).any((1, 2)).sum())
            raise ValueError(f"{conformers.label}: {bad} conformers have positions that are not finite; remove them first")
    if len(real.positions) < 2 * BLOCKS + LAG:
        raise ValueError(f"{real.label} has {len(real.positions)} frames; at least {2 * BLOCKS + LAG} are needed to split it")


def _overview(own: Conformers, real: Conformers) -> Section:
    rows = [[c.label, str(len(c.positions)), f"{c.effective:.0f}"] for c in (own, real)]
    return Section("What is compared", ("conformers", "number", "effective number"), rows)


def _surfaces(own: Conformers, real: Conformers) -> list[tuple[Surface, np.ndarray]]:
    """The surfaces of a comparison, each with the coordinates [n, 2] of the samples in it."""
    ours, theirs = torsions(own), torsions(real)
    surfaces = []
    for k in range(ours["phi"].shape[1]):
        pair = [np.stack([table["phi"][:, k], table["psi"][:, k]], axis=1) for table in (ours, theirs)]
        surfaces.append((surface(f"Ramachandran, residue {k + 1}", pair[0], own, pair[1], real, angles=True), pair[0]))
    slow = slow_coordinates(real, circular)
    last = surface("slow coordinates (TICA)", slow(own), own, slow(real), real, angles=False)
    return [*surfaces, (last, slow(own))]


def _surface_section(placed: list[tuple[Surface, np.ndarray]]) -> Section:
    rows = [[s.name, number(s.jsd), number(s.floor), number(s.floor_error), number(s.jsd - s.floor)] for s, _ in placed]
    head = ("Jensen-Shannon divergence [bits]", "samples", "as many of the reference", "+-", "excess")
    note = (
        f"Histograms of 36 x 36 bins. As many of the reference: of {BLOCKS} contiguous blocks, as many frames from one half as "
        "there are samples (at most all) and the other half, over all choices; this divergence is due to finite sampling alone."
    )
    shown = sorted(placed, key=lambda pair: pair[0].floor - pair[0].jsd)[:MOST_SURFACES]
    if len(shown) < len(placed):
        note += f" Drawn are the {len(shown)} surfaces that differ most."
    figures = [
        figure
        for one, points in placed
        if any(one is other for other, _ in shown)
        for figure in drawn(_free_energies, one, points)
    ]
    return Section("Free-energy surfaces", head, rows, [note], figures)


def _free_energies(shown: Surface, points: np.ndarray) -> Any:
    """Free energies of samples and reference; of few samples also the samples themselves, over the reference."""
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.8), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        angles = shown.name.startswith("Ramachandran")
        units = np.rad2deg if angles else np.asarray
        titles = (f"{counted(len(points), 'sample')}", "reference")
        for axis, name, p in zip(axes, titles, (shown.samples, shown.reference), strict=True):
            with np.errstate(divide="ignore"):
                energy = -np.log(p.T)
            image = axis.pcolormesh(
                units(shown.edges[0]), units(shown.edges[1]), energy - energy.min(), vmin=0, vmax=MOST_SHOWN, cmap="viridis",
                rasterized=True,
            )  # fmt: skip
            axis.set_title(name)
            axis.spines[["top", "right"]].set_visible(True)
        if len(points) <= FEW:
            axes[1].plot(*units(points).T, ".", color=OWN, markersize=2.5, label="samples")
            axes[1].legend(fontsize=8, loc="upper right", frameon=True)
        if angles:
            axes[0].set(xlabel="phi [degrees]", ylabel="psi [degrees]")
            axes[1].set(xlabel="phi [degrees]", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
        else:
            axes[0].set(xlabel="slowest coordinate", ylabel="second slowest coordinate")
            axes[1].set(xlabel="slowest coordinate")
        figure.colorbar(image, ax=axes, label="free energy [kT]", extend="max")
        figure.suptitle(literal(shown.name), x=0.01, ha="left", fontweight="bold")
        return figure


def _population_section(shares: dict[str, dict[str, tuple[float, float]]]) -> Section:
    rows = []
    for name, (share, error) in shares["samples"].items():
        real, real_error = shares["reference"][name]
        ratio = share / real if real > 0 else float("nan")
        rows.append([name, number(share), number(error), number(real), number(real_error), number(ratio)])
    head = ("share with 0 < phi < 150 degrees", "samples", "+-", "reference", "+-", "ratio")
    return Section("The rare basin", head, rows, ["Standard errors come from contiguous blocks."])


def _geometry_section(table: dict[str, dict[str, float]]) -> Section:
    units = {"bonds": "nm", "angles": "degrees"}
    rows = [[f"{name} [{units[name]}]", *(number(v) for v in values.values())] for name, values in table.items()]
    head = ("root mean square over all", *next(iter(table.values())))
    return Section("Bonds and angles", head, rows)


def _validity(own: Conformers, real: Conformers) -> dict[str, dict[str, float]]:
    return {
        "samples": {
            "wrong hand": wrong_hands(own, real) / len(own.positions),
            "clashes": float(clashing(own) @ own.weight),
            "duplicates": duplicates(own),
        },
        "reference": {
            "wrong hand": wrong_hands(real, real) / len(real.positions),
            "clashes": float(clashing(real) @ real.weight),
        },
    }


def _validity_section(table: dict[str, dict[str, float]]) -> Section:
    rows = [[name, number(value), number(table["reference"].get(name, float("nan")))] for name, value in table["samples"].items()]
    notes = [
        "Clash: two atoms more than three bonds apart, nearer than 0.6 of the sum of their van der Waals radii. "
        "Duplicate: an earlier sample within 0.005 nm RMSD."
    ]
    return Section("Validity", ("share of conformers", "samples", "reference"), rows, notes)


def _energies(own: Conformers, real: Conformers, energy: Energy) -> tuple[Section, dict[str, Any]]:
    """Means and quantiles of the energies, and the largest difference of their distribution functions."""
    values = {name: np.asarray(energy(c.positions), dtype=np.float64) for name, c in (("samples", own), ("reference", real))}
    weights = {"samples": own.weight, "reference": real.weight}
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    table = {name: [_quantile(v, weights[name], level) for level in levels] for name, v in values.items()}
    means = {name: mean_and_error(v, weights[name]) for name, v in values.items()}
    grid = np.sort(np.concatenate(list(values.values())))
    steps = [np.array([weights[n][values[n] <= e].sum() for e in grid[:: max(1, len(grid) // 2000)]]) for n in values]
    largest = float(np.abs(steps[0] - steps[1]).max())
    rows = [[name, number(means[name][0]), number(means[name][1]), *(number(q) for q in table[name])] for name in values]
    head = ("energy", "mean", "+-", *(f"{100 * level:.0f} %" for level in levels))
    note = f"Largest difference of the two distribution functions (Kolmogorov-Smirnov): {largest:.4f}"
    record = {
        "quantiles": dict(zip(map(str, levels), table["samples"], strict=True)),
        "mean": means,
        "kolmogorov_smirnov": largest,
    }
    record["reference_quantiles"] = dict(zip(map(str, levels), table["reference"], strict=True))
    return Section("Energies", head, rows, [note]), record


def _quantile(values: np.ndarray, weight: np.ndarray, level: float) -> float:
    order = np.argsort(values)
    return float(np.interp(level, np.cumsum(weight[order]) - weight[order] / 2, values[order]))
