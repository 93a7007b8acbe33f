"""Forecasts that observations correct month by month, compared with forecasts from the same start: a twin experiment.

    python benchmarks/cycling.py                    monthly sea surface temperatures with ersst-forecast

The truth is a forecast of the model itself with another seed, from two months without anomalies. It is observed every month at
other places, drawn by area, with errors; the members start from the same two months. Root mean squares are means by area.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from common import Report, at_most, between, parser

import piadm_hpc
from piadm_hpc.models.card import load_model

MODEL, SEED = "ersst-forecast", 99
COLUMNS = ("month", "error of free mean [K]", "error of cycled mean [K]", "cycled spread [K]", "spread / skill", "rounds")


def start(folder: Path) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """Write two months without anomalies; return the file, latitudes, longitudes and the mask of the sea."""
    model = load_model(MODEL)
    lat, lon = (model.layout.coordinates[dim] for dim in ("lat", "lon"))
    sea = (
        model.mask.numpy().reshape(model.event_shape).astype(bool) if model.mask is not None else np.ones(model.event_shape, bool)
    )
    fields = np.where(sea, 0.0, np.nan)[None].repeat(2, 0)
    sst = (("time", "lat", "lon"), fields, {"units": "degC", "long_name": "sea surface temperature anomaly"})
    places = {"lat": ("lat", lat.values, lat.attrs), "lon": ("lon", lon.values, lon.attrs)}
    time = np.array(["2001-01-01", "2001-02-01"], dtype="datetime64[ns]")
    xr.Dataset({"sst": sst}, {"time": time, **places}).to_netcdf(folder / "start.nc")
    return folder / "start.nc", lat.values, lon.values, sea


def forecasts(folder: Path, name: str, **changes: Any) -> xr.Dataset:
    """Draw forecasts and return them, members x leads."""
    run = piadm_hpc.RunConfig(**{"model": MODEL, "out": str(folder / name), **changes})
    return piadm_hpc.sample(run).load()


def main() -> int:
    options = parser(str(__doc__))
    options.add_argument("--members", type=int, default=8)
    options.add_argument("--months", type=int, default=6)
    options.add_argument("--stations", type=int, default=200)
    options.add_argument("--std", type=float, default=0.2, help="standard deviation of the errors, in K")
    given = options.parse_args()
    if given.quick:
        given.members, given.months, given.stations = 1, 2, 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, lat, lon, sea = start(folder)
        area = np.where(sea, np.cos(np.deg2rad(lat))[:, None], 0.0)
        common: dict[str, Any] = {"condition": {"file": str(path)}, "rollout": {"leads": given.months, "pipelined": "off"}}
        step_by_step = {"chain": {"integrator": "gaussian", "eta": 0.0}, "solver": {"kind": "sequential"}, "grid": {"steps": 4}}
        common |= step_by_step if given.quick else {"solver": {"tol": 0.03}}
        truth = forecasts(folder, "truth", seed=SEED, samples=1, **common).sst.values.reshape(given.months, *sea.shape)
        generator, tables = np.random.default_rng(0), []
        for lead in range(1, given.months + 1):
            places = generator.choice(sea.size, given.stations, replace=False, p=area.ravel() / area.sum())
            rows, columns = np.unravel_index(places, sea.shape)
            values = truth[lead - 1, rows, columns] + given.std * generator.standard_normal(given.stations)
            tables.append(pd.DataFrame({"lead": lead, "lat": lat[rows], "lon": lon[columns], "value": values, "std": given.std}))
        pd.concat(tables).to_csv(folder / "stations.csv", index=False)
        free = forecasts(folder, "free", samples=given.members, **common)
        cycled = forecasts(folder, "cycled", samples=given.members, observations={"file": str(folder / "stations.csv")}, **common)

    def size(error: np.ndarray) -> float:
        return float(np.sqrt(np.average(error[sea] ** 2, weights=area[sea])))

    lines, members = [], given.members
    drawn = {
        name: run.sst.values.reshape(members, given.months, *sea.shape) for name, run in (("free", free), ("cycled", cycled))
    }
    rounds = cycled.rounds.values.reshape(members, given.months)
    for lead in range(given.months):
        errors = [size(drawn[name][:, lead].mean(0) - truth[lead]) for name in ("free", "cycled")]
        spread = size(drawn["cycled"][:, lead].std(0, ddof=min(1, members - 1)))
        ratio = spread * np.sqrt((members + 1) / members) / errors[1]
        lines.append([lead + 1, *errors, spread, ratio, float(np.median(rounds[:, lead]))])
    report = Report("cycling")
    report.add(f"{given.stations} stations with errors of {given.std:g} K, {members} members", COLUMNS, lines)
    report.aims.append(at_most("forecasts that did not converge", float((cycled.converged.values == 0).sum()), 0))
    if given.quick:
        return report.finish(given.json)
    last = lines[-1]
    report.aims.append(at_most(f"error of month {given.months} beside that without observations", last[2] / last[1], 0.8))
    report.aims.append(between("spread over skill, all months", float(np.mean([line[4] for line in lines])), 0.9, 1.1))
    return report.finish(given.json)


if __name__ == "__main__":
    sys.exit(main())
