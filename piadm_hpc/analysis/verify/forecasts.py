"""Verification of forecasts as sections of a report: scores by lead against dated fields, with persistence as the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ...store.reading import open_run
from ..comparison import fields_like
from ..drawing.forecasts import forecast_figure
from ..drawing.labels import readable
from ..drawing.quantities import shown_units
from ..drawing.style import drawn
from ..forecasts import LEAD, START, UNITLESS, forecast_scores, matched
from ..pages import Section, number
from ..planes import Plane

LINES = ("crps", "crps_skill", "rmse", "spread", "spread_skill", "bias")


def sections_of(folder: Path, planes: Sequence[Plane], model: Path, truth: str) -> tuple[list[Section], dict[str, Any]]:
    """A section for every map of a run of forecasts, and its scores by lead. Raises ValueError for a truth that does not fit."""
    real, times = fields_like(model, truth).fields, _times(Path(truth))
    sections, record = [], {}
    with open_run(folder) as forecasts:
        for plane in planes:
            values = real[plane.name]
            if len(values) != len(times):
                raise ValueError(
                    f"--truth {truth}: of its {len(times)} fields {len(values)} can be used; give one file of fields without gaps"
                )
            sizes = [forecasts.sizes[dim] for dim in plane.grid.dims]
            dated = xr.DataArray(values.reshape(-1, *sizes), dims=("time", *plane.grid.dims), coords={"time": times})
            members = forecasts[plane.variable].isel(plane.at)
            scores = forecast_scores(members, dated, baseline=_persistence(dated, members, plane))
            record[plane.name] = {name: scores[name].values.tolist() for name in (*LINES, "rank_histogram")}
            sections.append(_section(plane, scores))
    return sections, record


def _persistence(dated: xr.DataArray, members: xr.DataArray, plane: Plane) -> xr.DataArray:
    """The field of every start, at all leads."""
    now = members.isel({LEAD: [0]}).assign_coords({LEAD: [0]})
    start = matched(dated, now, START, LEAD, plane.grid)
    return start.isel({LEAD: np.zeros(members.sizes[LEAD], dtype=int)})


def _times(path: Path) -> np.ndarray:
    try:
        with xr.open_dataset(path) as dataset:
            return np.asarray(dataset["time"].values)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--truth {path}: no dates along a dimension time can be read: {error}") from None


def _section(plane: Plane, scores: xr.Dataset) -> Section:
    factor, units = shown_units(plane.attrs)
    scales = [1.0 if name in UNITLESS else factor for name in LINES]
    rows = [
        [f"{int(lead)}", *(number(float(scores[name][k]) * scale) for name, scale in zip(LINES, scales, strict=True))]
        for k, lead in enumerate(scores[LEAD].values)
    ]
    notes = [
        f"CRPS, error, spread and bias in {readable(units) or '1'}, averages over starts and area. Skill is that of the CRPS "
        "over persistence, whose CRPS is its absolute error. Spread over error is 1 for a calibrated ensemble."
    ]
    figures = drawn(forecast_figure, scores, f"{plane.title}: forecasts by lead")
    head = ("lead", "fair CRPS", "skill", "RMSE of the mean", "spread", "spread over error", "bias")
    return Section(f"{plane.name}: forecasts by lead", head, rows, notes, figures)
