"""Scores of forecasts of sea-surface temperature and of their baselines, on years held out of training.

    python benchmarks/forecast.py --model ersst-forecast --data sst.mnmean.nc --out forecast
    python benchmarks/forecast.py --model ersst-forecast --data sst.mnmean.nc --leads 6       # rollouts, scored at every lead
    python benchmarks/forecast.py --data sst.mnmean.nc --members 8 --figure skill.png         # maps of skill over the baselines

The model is one trained by datasets/ersst-forecast.toml, the data are its file. For every held-out month the condition is the
two months before it; `piadm sample` draws the members, with conditions.nc in the folder --out as --condition. With --leads every
held-out month from which that many leads can be verified is a start. The members are compared with the linear inverse model,
which is the conditional Gaussian alone, persistence of the last month, and climatology. CRPS is the fair one (Ferro 2014), means
are over the area of the ocean; spread over skill is one for members whose scatter equals the error of their mean. --figure
draws the skill of the first lead at every point, one less the ratio of the CRPS, averaged over the held-out months, to that
of each baseline.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from common import Report, at_most, between, parser

import piadm_hpc
from piadm_hpc.analysis.drawing.maps import colour_bar, draw_map
from piadm_hpc.analysis.drawing.style import styled
from piadm_hpc.analysis.grids import grid_of
from piadm_hpc.models.card import REFERENCE
from piadm_hpc.models.registry import find_model
from piadm_hpc.run.resolve import resolve
from piadm_hpc.run.rollout import Starts, rollout_of
from piadm_hpc.store.arrays import read_arrays
from piadm_hpc.theory.noise import PRIOR, Noise


def conditions(anomalies: xr.DataArray, held_out: int) -> xr.Dataset:
    """The inputs of the last `held_out` months."""
    times = anomalies.time[-held_out:]
    lagged = {f"sst_{k}": anomalies.isel(time=slice(-held_out - k, -k)).assign_coords(time=times) for k in (1, 2)}
    return xr.Dataset({**lagged, "month": times.dt.month})


def crps(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fair CRPS at every point for members [M, ...]."""
    count = len(members)
    ordered = np.sort(members, axis=0)
    weights = (2 * np.arange(count) - count + 1).reshape(-1, *[1] * (members.ndim - 1))
    apart = (weights * ordered).sum(0) / max(1, count * (count - 1))
    return np.asarray(np.abs(members - truth).mean(0) - apart)


def synthetic(folder: Path) -> tuple[str, Path]:
    """Twenty years of months that persist, with a season and land, and the linear inverse model of them, for a quick run."""
    generator = np.random.default_rng(0)
    latitudes, longitudes, count = np.linspace(-60, 60, 6), np.arange(12) * 30.0, 240
    waves = np.cos(np.deg2rad(np.arange(1, 4)[:, None] * longitudes))[:, None] * np.cos(np.deg2rad(latitudes))[:, None]
    weights = np.zeros((count, 3))
    for month in range(1, count):
        weights[month] = 0.9 * weights[month - 1] + generator.normal(size=3)
    season = 5 * np.cos(2 * np.pi * np.arange(count) / 12)[:, None, None]
    values = 15 + season + np.tensordot(weights, waves, 1) + 0.1 * generator.normal(size=(count, 6, 12))
    values[:, :2, :2] = np.nan
    times = (np.datetime64("2000-01") + np.arange(count)).astype("datetime64[ns]")
    sst = xr.DataArray(
        values, {"time": times, "lat": latitudes, "lon": longitudes}, ("time", "lat", "lon"), "sst", {"units": "degC"}
    )
    sst.to_netcdf(folder / "sst.nc")
    recipe = Path(__file__).resolve().parents[1] / "datasets" / "ersst-forecast.toml"
    changes = [f'output="{folder}/model"', 'network="none"', f'data.files=["{folder}/sst.nc"]']
    return str(piadm_hpc.train(recipe, changes=changes)), folder / "sst.nc"


def main() -> int:
    options_parser = parser("Scores of a one-month forecast and of its baselines, on held-out months.")
    options_parser.add_argument("--model", default="ersst-forecast", help="a shipped model, or a model folder")
    options_parser.add_argument("--data", type=Path, help="the file that the model was trained on")
    options_parser.add_argument("--out", type=Path, default=Path("forecast"), help="folder of the conditions and the run")
    options_parser.add_argument("--members", type=int, default=32, help="members of every forecast")
    options_parser.add_argument("--leads", type=int, default=1, help="score rollouts at this many leads")
    options_parser.add_argument("--figure", type=Path, help="a picture of maps of skill, of forecasts of one month")
    options_parser.add_argument("--every", type=int, default=1, help="months between the starts of rollouts")
    options = options_parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            report = Report("forecast, quick")
            model, data = synthetic(Path(folder))
            scored(report, model, data, Path(folder), 8, Path(folder) / "skill.png")
            by_lead(report, model, data, Path(folder), members=8, leads=2, every=12)
            return report.finish(options.json)
    if options.figure is not None and options.leads > 1:
        options_parser.error("--figure draws forecasts of one month; leave --leads out")
    if options.data is None:
        options_parser.error("give the file of monthly fields with --data")
    report = Report("forecast")
    if options.leads == 1:
        scored(report, options.model, options.data, options.out, options.members, options.figure)
    else:
        by_lead(report, options.model, options.data, options.out, options.members, options.leads, options.every)
    return report.finish(options.json)


def anomalies_of(name: str, data_file: Path) -> xr.DataArray:
    """The fields of a file less the climatology of a model."""
    removed = read_arrays(find_model(name) / REFERENCE)[0]["climatology"].values[:, 0]
    with xr.open_dataset(data_file) as data:
        sst = data.sst.load()
    return (sst - removed[sst.time.dt.month.values - 1]).assign_attrs(units=sst.units, long_name="anomaly")


def area_of(anomalies: xr.DataArray) -> np.ndarray:
    """Weights of the points with data, by their area."""
    return np.where(np.isfinite(anomalies.values[-1]), np.cos(np.deg2rad(anomalies.lat.values))[:, None], 0)


def scores(ensemble: np.ndarray, truth: np.ndarray, area: np.ndarray) -> tuple[float, float, float]:
    """CRPS, error of the mean, and spread over that error, of forecasts [members, cases, ...]."""
    error, count = ((ensemble.mean(0) - truth) ** 2), len(ensemble)
    means = [np.average(np.nan_to_num(values.mean(0)), weights=area) for values in (crps(ensemble, truth), error)]
    scatter = np.average(np.nan_to_num(ensemble.var(0, ddof=1).mean(0)), weights=area) if count > 1 else np.nan
    return float(means[0]), float(np.sqrt(means[1])), float(np.sqrt(scatter * (count + 1) / count / means[1]))


def by_lead(report: Report, name: str, data_file: Path, folder: Path, members: int, leads: int, every: int) -> None:
    """Rollouts from held-out months, and a table of scores at every lead."""
    folder.mkdir(parents=True, exist_ok=True)
    model, anomalies = piadm_hpc.load_model(name), anomalies_of(name, data_file)
    held_out = model.card["data"]["test"]
    first = np.arange(len(anomalies) - held_out, len(anomalies) - leads + 1, every)
    given = conditions(anomalies, held_out).isel(time=first - first[0])
    given.to_netcdf(folder / "starts.nc")
    config = piadm_hpc.RunConfig(
        model=name, condition={"file": str(folder / "starts.nc")}, rollout={"leads": leads},
        chain={"eta": 0.0, "integrator": "gaussian-ab2"}, grid={"steps": 12}, compute={"model_batch": 64},
        solver={"kind": "sequential"},
    )  # fmt: skip
    resolved = resolve(config, model)
    starts = Starts.of(resolved.config, resolved.model)
    rollout = rollout_of(resolved, starts)
    gaussian = model.wiener()
    linear = replace(rollout, sampler=replace(rollout.sampler, score=lambda x, t, c: gaussian.score(x, t)))
    which = list(range(len(first))) * members
    drawn = []
    for each in (rollout, linear):
        ids = [k // len(first) for k in range(len(which))]
        found = each.draw(starts.past(which), leads, members=ids, starts=[starts.numbers[k] for k in which])
        fields = model.normalisation.decode(found.x.flatten(0, 1))["sst"]
        drawn.append(fields.reshape(members, len(first), leads, *fields.shape[1:]))
    past = anomalies.values[: -held_out - model.card["data"]["validation"]]
    climatology = past[np.random.default_rng(0).choice(len(past), members)][:, None]
    area, rows = area_of(anomalies), []
    for lead in range(leads):
        truth = anomalies.values[first + lead]
        entries = {
            "model": drawn[0][:, :, lead],
            "linear inverse model": drawn[1][:, :, lead],
            "persistence": given.sst_1.values[None],
            "climatology": np.broadcast_to(climatology, (members, *truth.shape)),
        }
        found_scores = {title: scores(ensemble, truth, area) for title, ensemble in entries.items()}
        rows += [[f"{lead + 1}", title, *values] for title, values in found_scores.items()]
        ours = found_scores["model"]
        if report.name == "forecast":
            ratio = ours[0] / found_scores["linear inverse model"][0]
            report.aims.append(at_most(f"lead {lead + 1}: CRPS over that of the linear inverse model", ratio, 1.0))
            report.aims.append(between(f"lead {lead + 1}: spread over skill", ours[2], 0.85, 1.15))
    report.add(f"{len(first)} starts, {members} members", ("lead", "forecast", "CRPS", "RMSE", "spread / skill"), rows)


def skill(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One less the ratio of two CRPS at every point: minus infinity where only the other is exact, NaN where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):  # persistence is exact under constant ice
        return np.asarray(1 - own / other)


def skill_figure(path: Path, entries: dict[str, np.ndarray], truth: np.ndarray, anomalies: xr.DataArray) -> None:
    """Draw maps of the skill of the first of some forecasts [members, cases, lat, lon] over each of the others."""
    import io

    from matplotlib.colors import BoundaryNorm
    from matplotlib.figure import Figure
    from PIL import Image

    grid = grid_of(anomalies.to_dataset(name="sst"), "sst", ["time"])
    maps = {title: crps(ensemble, truth).mean(0) for title, ensemble in entries.items()}
    title, own = next(iter(maps.items()))
    scale = {"cmap": "RdBu", "norm": BoundaryNorm(np.linspace(-1, 1, 11), 256)}
    with styled():
        figure = Figure(figsize=(9, 2.5), layout="constrained")
        axes = figure.subplots(1, len(maps) - 1)
        for axis, (other, field) in zip(axes, list(maps.items())[1:], strict=True):
            image = draw_map(axis, grid, skill(own, field), scale, f"over {other}")
            axis.tick_params(labelleft=axis is axes[0])
        colour_bar(image, axes, f"CRPS skill of the {title}", extend="min")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
    picture = Image.open(buffer).convert("RGB").quantize(24, Image.Quantize.MAXCOVERAGE, kmeans=8, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def scored(report: Report, name: str, data_file: Path, folder: Path, members: int, figure: Path | None = None) -> None:
    """Draw the forecasts, and add a table of scores and its limits."""
    folder.mkdir(parents=True, exist_ok=True)
    model = piadm_hpc.load_model(name)
    anomalies = anomalies_of(name, data_file)
    held_out = model.card["data"]["test"]
    given = conditions(anomalies, held_out)
    given.to_netcdf(folder / "conditions.nc")
    run = piadm_hpc.RunConfig(
        model=name, samples=members, out=str(folder / "run"),
        condition={"file": str(folder / "conditions.nc")}, chain={"eta": 0.0, "integrator": "gaussian-ab2"},
        grid={"steps": 12}, output={"batch": 64}, compute={"model_batch": 64}, solver={"kind": "sequential"},
    )  # fmt: skip
    with piadm_hpc.sample(run) as dataset:
        drawn = dataset.sst.values.astype(np.float64)
    truth = anomalies.values[-held_out:]
    encoded = model.conditioning.encode({name: given[name].values for name in given})
    white = Noise(1, truth[0].size).at([0], range(members), stream=PRIOR)[0, :, 0]
    spread = model.reference.draw_state(white[:, None].double(), torch.ones(1).double(), torch.zeros(1, 1).double())[:, 0]
    linear = np.stack([model.decode(x.expand(held_out, -1, -1), encoded)["sst"] for x in spread.reshape(-1, *truth[0].shape)])
    past = anomalies.values[: -held_out - model.card["data"]["validation"]]
    picked = np.random.default_rng(0).choice(len(past), members)
    climatology = np.broadcast_to(past[picked][:, None], (members, *truth.shape))
    entries = {
        "model": drawn,
        "linear inverse model": linear,
        "persistence": given.sst_1.values[None],
        "climatology": climatology,
    }
    if figure is not None:
        skill_figure(figure, entries, truth, anomalies)
    rows: list[list[str | float]] = []
    for title, ensemble in entries.items():
        rows.append([title, *scores(ensemble, truth, area_of(anomalies))])
    report.add(f"{held_out} held-out months, {members} members", ("forecast", "CRPS", "RMSE", "spread / skill"), rows)
    ours = float(rows[0][1])
    report.aims += [at_most(f"CRPS over that of {row[0]}", ours / float(row[1]), 1.0) for row in rows[2:]]
    if report.name == "forecast":
        report.aims += [
            at_most("CRPS over that of the linear inverse model", ours / float(rows[1][1]), 1.0),
            between("spread over skill", float(rows[0][3]), 0.85, 1.15),
        ]


if __name__ == "__main__":
    sys.exit(main())
