"""The report as text: costs of the run and its baselines, and scores of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ...config.run import RunConfig
from ..comparison import Comparison
from ..drawing.labels import readable
from ..drawing.quantities import shown_units
from ..scores import counted
from .baselines import Baselines, Cost

COSTS = ("one sample", "rounds", "calls", "error", "seconds")
DESCRIPTIONS = {
    "global_mean": "area mean [{units}]",
    "global_mean_spread": "its standard deviation [{units}]",
    "mean_field_rms_difference": "mean field, RMS difference [{units}]",
    "std_pattern_correlation": "standard deviation, pattern correlation",
    "std_ratio": "standard deviation, ratio",
    "power_ratio_1_5": "{transform} power ratio, wavenumbers 1-5",
    "power_ratio_6_20": "{transform} power ratio, wavenumbers 6-20",
    "power_ratio_21_up": "{transform} power ratio, wavenumbers 21 up",
}


def cost_lines(
    dataset: xr.Dataset,
    config: RunConfig,
    model: str,
    step_by_step: int | None,
    baselines: Baselines | None,
    summary: dict[str, Any] | None,
) -> list[str]:
    """A headline, the table of costs, the meaning of its errors, and shares of the time."""
    lines = [_headline(dataset, config, model), ""]
    lines += table(COSTS, _cost_rows(dataset, config, step_by_step, baselines, summary))
    if baselines is not None:
        lines += _meaning(baselines, config)
    lines += _shares_of_time(summary)
    return lines


def score_lines(compared: Sequence[Comparison]) -> list[str]:
    """A table of scores for each variable."""
    lines: list[str] = []
    for comparison in compared:
        lines += ([""] if lines else []) + _scores(comparison)
    return lines


def described_scores(comparison: Comparison) -> dict[str, dict[str, float]]:
    """The scores of a comparison under their names in tables, in the units that are shown."""
    factor, units = shown_units(comparison.plane.attrs)
    found = {}
    for name, row in comparison.rows().items():
        words = DESCRIPTIONS[name]
        label = words.format(units=readable(units) or "1", transform=comparison.reference.transform)
        found[label] = {key: value * factor for key, value in row.items()} if "{units}" in words else row
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns with a rule below the head; the first column is aligned to the left."""
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = []
    for row in [head, *rows]:
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *others]))
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _headline(dataset: xr.Dataset, config: RunConfig, model: str) -> str:
    count, blocks = dataset.sizes[str(dataset.attrs["sample_dim"])], dataset.sizes["block"]
    left = int((dataset["converged"].values == 0).sum())
    ended = f"{left} did not converge by themselves" if left else "all converged"
    return (
        f"{counted(count, 'sample')} of {model}, seed {config.seed}: {config.chain.method.name} chain "
        f"in {counted(blocks, 'block')}, tol {config.solver.tol:g}; {ended}"
    )


def _cost_rows(
    dataset: xr.Dataset, config: RunConfig, step_by_step: int | None, baselines: Baselines | None, summary: dict[str, Any] | None
) -> list[list[str]]:
    seconds = None if summary is None else summary["seconds"] / summary["num_samples"]
    error = None if baselines is None else baselines.own_error
    own = Cost(int(np.median(dataset["rounds"].values)), int(np.median(dataset["model_calls"].values)), error, seconds)
    where = "" if summary is None else f" ({summary['ranks']})"
    rows = [_row(f"this run{where}", own)]
    by_steps = None if step_by_step is None else Cost(step_by_step, step_by_step, None, None)
    if baselines is not None:
        by_steps = baselines.step_by_step
    if by_steps is not None:
        rows.append(_row("same chain step by step", by_steps))
    if baselines is None:
        return rows
    return [
        *rows,
        _dpm_row(baselines, config.solver.tol, "within tol"),
        _dpm_row(baselines, baselines.own_error, "at this run's error"),
    ]


def _row(name: str, cost: Cost) -> list[str]:
    return [name, str(cost.rounds), str(cost.calls), _short(cost.error), "-" if cost.seconds is None else f"{cost.seconds:.3g}"]


def _dpm_row(baselines: Baselines, error: float, what: str) -> list[str]:
    """DPM-Solver++(2M) with the fewest steps that reach an error, or the best that was tried, marked by >."""
    name, cost = f"DPM-Solver++(2M) {what}", baselines.reaching(error)
    if cost is not None:
        return _row(name, cost)
    best = _row(name, baselines.ladder[-1])
    return [best[0], f">{best[1]}", f">{best[2]}", *best[3:]]


def _meaning(baselines: Baselines, config: RunConfig) -> list[str]:
    """The meaning of the column of errors."""
    count = counted(len(baselines.samples), "sample")
    lines = [f"errors are RMS over pixels in standard deviations of the data, of {count}; baselines ran in {baselines.where};"]
    converged = f"converged solution from the same prior draw (itself within {baselines.converged_error:.1g})"
    if baselines.deterministic:
        lines.append(f"the run is deterministic: every error is the distance to DPM-Solver++(2M)'s {converged}")
        if baselines.path_error is not None:
            lines.append(f"this run is within {baselines.path_error:.2g} of its chain step by step, the rest is that chain's own")
    else:
        lines.append("the chain is stochastic: its error is the distance from the same chain with the same noise, step by step;")
        lines.append(f"DPM-Solver++(2M) solves the ODE instead: its error is the distance to its own {converged}")
    if baselines.reaching(min(config.solver.tol, baselines.own_error)) is None:
        lines.append("> marks an error that was not reached with the largest number of steps tried")
    return lines


def _shares_of_time(summary: dict[str, Any] | None) -> list[str]:
    if summary is None:
        return ["no summary.json: the run's seconds are not known"]
    share = 100 / max(summary["seconds"], 1e-9)
    return [
        f"of the run's {summary['seconds']:.1f} s: communication {share * summary['communication']:.0f} %, "
        f"writing {share * summary['writing']:.0f} % ({summary['num_samples']} samples in its last call)"
    ]


def _scores(comparison: Comparison) -> list[str]:
    count = len(comparison.fields)
    kept = f"{count} of {comparison.available} samples" if count < comparison.available else counted(count, "sample")
    head = [comparison.plane.name, kept, "", comparison.reference.label]
    rows = [
        [label, _number(row.get("samples")), _error(row.get("standard_error")), _number(row.get("reference")),
         _number(row.get("held_out"))]
        for label, row in described_scores(comparison).items()
    ]  # fmt: skip
    head.append(comparison.real_label or "-")
    lines = table(head, rows)
    notes = ["+- bootstrap standard error; ratios are to the reference, 1 is perfect; power of anomalies from its mean"]
    if np.isnan(comparison.reference.mean).any():
        notes.append("points without data are left out of means and patterns and count as no anomaly in spectra")
    return lines + notes


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{0.0 if abs(value) < 1e-9 else value:.4g}" if abs(value) < 100 else f"{value:.2f}"


def _error(value: float | None) -> str:
    return "" if value is None else f"+- {value:.2g}"


def _short(error: float | None) -> str:
    return "-" if error is None else f"{error:.2g}"
