"""Scores of ensemble forecasts by lead time, as lines and as maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from .grids import MapGrid, grid_of
from .scores import fair_crps, rank_shares

START, LEAD, MEMBER = "init_time", "lead_time", "realization"
LONG_NAMES = {
    "crps": "fair continuous ranked probability score",
    "rmse": "root mean square error of the ensemble mean",
    "spread": "spread of the ensemble, in the units of the error that it predicts",
    "spread_skill": "spread over error, 1 where calibrated",
    "bias": "mean of the ensemble less the truth",
    "crps_skill": "1 less the score over that of the baseline, positive where better",
}
UNITLESS = ("spread_skill", "crps_skill")


def forecast_scores(
    members: xr.DataArray,
    truth: xr.DataArray,
    *,
    baseline: xr.DataArray | None = None,
    starts: str = START,
    leads: str = LEAD,
    realizations: str = MEMBER,
) -> xr.Dataset:
    """Score forecasts by lead: CRPS, error, spread and their ratio, bias, ranks, and the skill over a baseline.

    Members lie over starts, realizations, leads and a map, in any order, as `piadm_hpc.open` gives the variables of a rollout;
    without a dimension of starts they are of one. The truth has the same starts and leads, or one dimension `time` of dates:
    then lead k of a start is the k-th field after the date `init_time` of the start. A `baseline` has the dimensions of the
    members, or lacks that of realizations, as persistence does, or that of starts.

    Each score is a line over leads, an average over starts and area, and a map `NAME_map` over leads, an average over starts.
    CRPS is fair (Ferro 2014), spread is sqrt((n + 1) / n) times the root mean variance, with which it equals the error of the
    mean if members and truth are exchangeable (Fortin et al. 2014), and `rank_histogram` has shares of area of the truth's rank
    among the n members, from 0 to n. Points that are missing in the truth or in any member are left out. One lead is in memory at
    a time. Raises ValueError for fewer than two members, and for dimensions, dates and grids that do not fit.
    """
    forecasts = _with_starts(members, starts, (leads, realizations))
    _require(forecasts, truth, baseline, leads, realizations)
    grid = grid_of(forecasts.to_dataset(name="members"), "members", (starts, leads, realizations))
    real = matched(truth, forecasts, starts, leads, grid)
    other = None if baseline is None else _like(baseline, forecasts, starts, realizations)
    parts = []
    for k in range(forecasts.sizes[leads]):
        one = _values(forecasts.isel({leads: k}), (realizations, starts), grid)
        at = _values(real.isel({leads: k}), (starts,), grid)
        than = None if other is None else _values(other.isel({leads: k}), (realizations, starts), grid)
        parts.append(_scores(one, at, than, grid.weights))
    return _dataset(parts, forecasts, grid, leads)


def matched(truth: xr.DataArray, forecasts: xr.DataArray, starts: str, leads: str, grid: MapGrid) -> xr.DataArray:
    """The truth over starts and leads, from dated fields if necessary; NaN after its last date.

    Raises ValueError if it lacks the date of a start, or has another grid.
    """
    for dim in grid.dims:
        if dim not in truth.dims or truth.sizes[dim] != forecasts.sizes[dim]:
            raise ValueError(f"the truth has {_shape(truth)}, the members {_shape(forecasts)}; give it on their grid, {dim}")
        own, theirs = (array[dim].values if dim in array.coords else None for array in (forecasts, truth))
        if own is not None and theirs is not None and not _same(own, theirs):
            raise ValueError(f"the truth's {dim} has other values than the members'; give it on their grid, in their order")
    if leads in truth.dims:
        truth = truth.expand_dims(starts) if starts not in truth.dims else truth
        for dim in (starts, leads):
            if truth.sizes[dim] != forecasts.sizes[dim]:
                raise ValueError(f"the truth has {_shape(truth)}, the members {_shape(forecasts)}; give it as many {dim}")
        return truth
    if "time" not in truth.dims:
        raise ValueError(f"the truth has {_shape(truth)}; it needs {starts} and {leads} as the members have, or dates along time")
    dates, begun = ([_date(date) for date in array.values] for array in (truth["time"], forecasts[starts]))
    if absent := [date for date in begun if date not in dates]:
        raise ValueError(
            f"the truth, from {dates[0]} to {dates[-1]}, has no field at the start {absent[0]}; give the dates of all starts"
        )
    steps = forecasts[leads].values.astype(int) if leads in forecasts.coords else np.arange(1, forecasts.sizes[leads] + 1)
    places = np.array([dates.index(date) for date in begun])[:, None] + steps
    rows = xr.DataArray(np.minimum(places, len(dates) - 1), dims=(starts, leads))
    return truth.isel(time=rows).drop_vars("time", errors="ignore").where(xr.DataArray(places < len(dates), dims=(starts, leads)))


def _with_starts(members: xr.DataArray, starts: str, wanted: Sequence[str]) -> xr.DataArray:
    if absent := [dim for dim in wanted if dim not in members.dims]:
        raise ValueError(f"the members have {_shape(members)}, without {', '.join(absent)}")
    return members if starts in members.dims else members.expand_dims(starts)


def _require(members: xr.DataArray, truth: xr.DataArray, baseline: xr.DataArray | None, leads: str, realizations: str) -> None:
    mistakes = []
    if members.sizes[realizations] < 2:
        mistakes.append(f"there is {members.sizes[realizations]} member; spread and fair CRPS need two or more")
    units = {str(array.attrs["units"]) for array in (members, truth, baseline) if array is not None and "units" in array.attrs}
    if len(units) > 1:
        mistakes.append(f"members, truth and baseline are in {', '.join(sorted(units))}; convert them to the same units")
    if baseline is not None and (leads not in baseline.dims or baseline.sizes[leads] != members.sizes[leads]):
        mistakes.append(f"the baseline has {_shape(baseline)}; it needs the {members.sizes[leads]} leads of the members")
    if mistakes:
        raise ValueError("; ".join(mistakes))


def _like(baseline: xr.DataArray, forecasts: xr.DataArray, starts: str, realizations: str) -> xr.DataArray:
    """A baseline with starts, the same for all if it has none, and with members, a single one if it has none."""
    if starts not in baseline.dims:
        baseline = baseline.expand_dims({starts: forecasts.sizes[starts]})
    if baseline.sizes[starts] != forecasts.sizes[starts]:
        raise ValueError(f"the baseline has {_shape(baseline)}, the members {_shape(forecasts)}; give it as many {starts}")
    return baseline if realizations in baseline.dims else baseline.expand_dims(realizations)


def _values(array: xr.DataArray, dims: tuple[str, ...], grid: MapGrid) -> np.ndarray:
    """An array in float64 as [*dims, rows, columns]."""
    if further := [str(dim) for dim in array.dims if dim not in (*dims, *grid.dims)]:
        raise ValueError(f"there are further dimensions, {', '.join(further)}; select one value of each with .sel or .isel")
    values = array.transpose(*dims, *grid.dims).values.astype(np.float64)
    return np.asarray(values.reshape(*values.shape[: len(dims)], *grid.shape))


def _scores(members: np.ndarray, truth: np.ndarray, baseline: np.ndarray | None, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Lines and maps of one lead, of members [n, starts, rows, columns] and truth [starts, rows, columns]."""
    n = len(members)
    there = np.isfinite(truth) & np.isfinite(members).all(0)
    if baseline is not None:
        there &= np.isfinite(baseline).all(0)
    area = np.where(there, weights[:, None], 0.0)
    crps = np.full(truth.shape, np.nan)
    crps[there] = fair_crps(members[:, there], truth[there])
    error = np.where(there, members.mean(0) - truth, np.nan)
    variance = np.where(there, members.var(0, ddof=1), np.nan) * (n + 1) / n
    found: dict[str, np.ndarray] = {}
    for name, values, power in (("crps", crps, 1.0), ("rmse", error**2, 0.5), ("spread", variance, 0.5), ("bias", error, 1.0)):
        line, field = _averages(values, area, there)
        found |= {name: line**power, f"{name}_map": field**power}
    with np.errstate(invalid="ignore", divide="ignore"):
        for end in ("", "_map"):
            found[f"spread_skill{end}"] = found[f"spread{end}"] / found[f"rmse{end}"]
        if baseline is not None:
            other = np.full(truth.shape, np.nan)
            # a single member has no spread, and its score is its absolute error
            one = len(baseline) == 1
            other[there] = np.abs(baseline[0] - truth)[there] if one else fair_crps(baseline[:, there], truth[there])
            line, field = _averages(other, area, there)
            found |= {"crps_skill": 1 - found["crps"] / line, "crps_skill_map": 1 - found["crps_map"] / field}
    found["rank_histogram"] = rank_shares(members[:, there], truth[there], area[there])
    return found


def _averages(values: np.ndarray, area: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The average over starts and area, and the map of averages over starts; NaN where there are no data."""
    filled, count = np.where(there, values, 0.0), there.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        line = (filled * area).sum() / area.sum()
        field = np.where(count > 0, filled.sum(0) / count, np.nan)
    return np.asarray(line), field


def _dataset(parts: Sequence[dict[str, np.ndarray]], members: xr.DataArray, grid: MapGrid, leads: str) -> xr.Dataset:
    sizes = [members.sizes[dim] for dim in grid.dims]
    units = str(members.attrs.get("units", "1"))
    tables: dict[str, Any] = {}
    for name in parts[0]:
        values = np.stack([part[name] for part in parts])
        base = name.removesuffix("_map")
        attrs = {"long_name": LONG_NAMES.get(base, "share of area by rank of the truth among the members")}
        attrs["units"] = "1" if base in UNITLESS or base not in LONG_NAMES else units
        if name == "rank_histogram":
            tables[name] = ((leads, "rank"), values, attrs)
        elif name.endswith("_map"):
            tables[name] = ((leads, *grid.dims), values.reshape(len(parts), *sizes), attrs)
        else:
            tables[name] = ((leads,), values, attrs)
    kept = {
        name: coordinate.variable
        for name, coordinate in members.coords.items()
        if set(coordinate.dims) <= {leads, *grid.dims} and coordinate.dims
    }
    found = xr.Dataset(tables, kept)
    if leads not in found.coords:
        found = found.assign_coords({leads: np.arange(1, len(parts) + 1)})
    about = {key: members.attrs[key] for key in ("standard_name", "long_name") if key in members.attrs}
    return found.assign_attrs(about | {"variable": str(members.name or ""), "units": units})


def _date(value: Any) -> str:
    """A date of numpy, of any calendar of cftime, or as text, in one way of writing."""
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[s]"))
    return str(value.isoformat() if hasattr(value, "isoformat") else value).replace(" ", "T")[:19]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return True
    return bool(np.abs((a - b + 180) % 360 - 180).max() < 1e-3)


def _shape(array: xr.DataArray) -> str:
    return " x ".join(f"{dim} ({size})" for dim, size in array.sizes.items())
