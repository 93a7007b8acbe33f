"""Observations of steps, means over steps and levels agree with closed forms, and may come from several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import call, make_model, one_line
from posteriors import closed_form, dense, observe

import piadm_hpc
from piadm_hpc.config.observations import ObservationsConfig
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.gaussian.observed import LinearObservations
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.observations.reading import read_for, read_given
from piadm_hpc.models.observations.record import read_table, write_table
from piadm_hpc.models.training.fields import train

LAT, LON, LEVELS, STEPS, MONTHS = np.array([45.0, 0.0, -45.0]), np.arange(4) * 90.0, [850, 500], 4, 96
GRID = {"lat": ("lat", LAT, {"units": "degrees_north"}), "lon": ("lon", LON, {"units": "degrees_east"})}


def history() -> xr.Dataset:
    """Monthly fields that persist, at two levels and at the surface, with a season."""
    generator = np.random.default_rng(0)
    chance = generator.normal(size=(MONTHS, 3, 3, 4))
    for month in range(1, MONTHS):
        chance[month] = 0.7 * chance[month - 1] + 0.7 * chance[month]
    season = 5 * np.sin(2 * np.pi * np.arange(MONTHS) / 12)[:, None, None]
    levels, surface = 250 + chance[:, :2] + season[:, None], 1000 + 3 * chance[:, 2] + chance[:, 0] + season
    return xr.Dataset(
        {
            "ta": (("time", "plev", "lat", "lon"), levels.astype(np.float32), {"units": "K"}),
            "ps": (("time", "lat", "lon"), surface.astype(np.float32), {"units": "hPa"}),
        },
        {"time": xr.date_range("1990-01-01", periods=MONTHS, freq="MS"), "plev": ("plev", LEVELS, {"units": "hPa"}), **GRID},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gaussian models of four months as one event: of the fields, and of monthly anomalies."""
    folder = tmp_path_factory.mktemp("sequences")
    history().to_netcdf(folder / "a.nc")
    data = {"files": ["a.nc"], "variables": ["ta", "ps"], "levels": "plev", "sequence": STEPS, "stride": 1}
    for anomaly in ("none", "monthly"):
        record = {"name": anomaly, "output": str(folder / anomaly), "network": "none", "data": data | {"anomaly": anomaly}}
        train(
            TrainConfig.model_validate(record | {"reference": {"basis": "eof", "rank": 12}}),
            root=folder,
            report=lambda line: None,
        )
    return folder


TABLE = pd.DataFrame(
    {
        "variable": ["ta", "ta", "ps", "ps", "ta", "ps"],
        "plev": [500, 850, None, None, 500, None],
        "step": [None, 2, None, 0, None, None],
        "first_step": [0, None, 1, None, 2, 0],
        "last_step": [3, None, 2, None, 3, 3],
        "lat": [45.0, 0.0, None, -45.0, -22.5, 0.0],
        "lon": [90.0, 180.0, None, 0.0, 90.0, 270.0],
        "south": [None, None, -90, None, None, None], "north": [None, None, 90, None, None, None],
        "west": [None, None, 0, None, None, None], "east": [None, None, 360, None, None, None],
        "value": [250.5, 249.0, 1001.0, 998.0, 251.0, 1003.0],
        "std": [0.1, 0.3, 0.2, 0.5, 0.4, 0.3],
    }
)  # fmt: skip


def by_hand(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Compute by indexing what the rows of TABLE observe of fields [n, step, ...]: [n, 6]."""
    ta, ps = (fields[name].astype(np.float64) for name in ("ta", "ps"))
    width = np.sin(np.deg2rad([90, 22.5])) - np.sin(np.deg2rad([22.5, -22.5]))
    area = np.array([width[0], width[1], width[0]])
    box = (ps[:, 1:3].mean((1, 3)) * area).sum(1) / area.sum()
    between = (ta[:, 2:, 1, 1, 1] + ta[:, 2:, 1, 2, 1]).mean(1) / 2
    return np.stack([ta[:, :, 1, 0, 1].mean(1), ta[:, 2, 0, 1, 2], box, ps[:, 0, 2, 0], between, ps[:, :, 1, 3].mean(1)], axis=1)


def read(model: Model, folder: Path, path: Path, **options: Any) -> tuple[LinearObservations, Any]:
    """The observations of a file for a model in a folder."""
    found, table = read_for(ObservationsConfig(file=str(path), **options), model, str(folder))
    assert isinstance(found, LinearObservations)
    return found, table


def test_the_posterior_given_time_means_is_the_closed_form(world: Path, tmp_path: Path) -> None:
    """Samples given means over steps, at points and over areas, have the textbook's moments; `verify` takes the same file."""
    TABLE.to_csv(tmp_path / "means.csv", index=False)
    model = load_model(world / "none")
    size = len(model.reference.mean)
    units = model.decode(torch.cat([torch.zeros(1, size), torch.eye(size)]).reshape(-1, *model.event_shape))
    seen = torch.from_numpy(by_hand(units))
    observations = observe((seen[1:] - seen[:1]).T, torch.tensor(TABLE["value"]) - seen[0], TABLE["std"].to_numpy())
    mean, covariance = closed_form(model.reference.mean, dense(model.reference), observations)
    run = RunConfig(
        model=str(world / "none"), samples=60, out=str(tmp_path / "run"), observations={"file": str(tmp_path / "means.csv")},
        compute={"precision": "float64"}, output={"batch": 60}, grid={"steps": 8},
    )  # fmt: skip
    samples = piadm_hpc.sample(run)
    drawn = {name: samples[name].values for name in ("ta", "ps")}
    states = model.encode(drawn).flatten(1).to(torch.float64)
    deviation = torch.sqrt(covariance.diagonal())
    assert samples.ta.dims == ("realization", "step", "plev", "lat", "lon") and int(samples["rounds"].max()) <= 2
    assert float(((states.mean(0) - mean) / deviation).square().mean().sqrt()) < 3 / np.sqrt(60)
    assert float((states.var(0) / deviation**2).mean()) == pytest.approx(1, abs=0.2)
    # every member has the accurate mean over four months, while single months vary
    away = np.abs(by_hand(drawn)[:, 0] - 250.5)
    assert away.max() < 0.6 < np.abs(drawn["ta"][:, 0, 1, 0, 1] - 250.5).max()
    report = call("verify", tmp_path / "run", "--withheld", tmp_path / "means.csv", "--select", "step=2", "--select", "plev=850")
    assert report["code"] == 0 and "ta_step2_plev850" in report["out"] and "ps_step2" in report["out"], report
    assert "ta_step0" not in report["out"] and "Withheld observations" in report["out"]
    # the folder keeps the observations that were read
    kept = read_table(tmp_path / "run" / "observations.nc")
    assert kept["first_step"].tolist() == [0, 2, 1, 0, 2, 0] and kept["last_step"].tolist() == [3, 2, 2, 0, 3, 3]
    assert np.array_equal(kept["plev"], [500, 850, np.nan, np.nan, 500, np.nan], equal_nan=True)


def same(one: LinearObservations, other: LinearObservations) -> None:
    torch.testing.assert_close(one.rows.to_dense(), other.rows.to_dense())
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.std, other.std)


def table_of(field: np.ndarray, variable: str, **columns: Any) -> pd.DataFrame:
    """A field [lat, lon] as rows at the grid's points."""
    rows, places = np.meshgrid(LAT, LON, indexing="ij")
    return pd.DataFrame({"variable": variable, "lat": rows.ravel(), "lon": places.ravel(), "value": field.ravel(), **columns})


def test_time_means_come_in_several_files(world: Path, tmp_path: Path) -> None:
    """Seasons along a dimension of any name, single steps, and a field of one mean are the same as rows of a table."""
    model, generator = load_model(world / "none"), np.random.default_rng(1)
    halves = 1000 + generator.normal(size=(2, 3, 4))
    rows = [table_of(half, "ps", first_step=2 * k, last_step=2 * k + 1) for k, half in enumerate(halves)]
    pd.concat(rows).to_csv(tmp_path / "halves.csv", index=False)
    ends = {"first_step": ("half", [0, 2]), "last_step": ("half", [1, 3])}
    xr.Dataset({"ps": (("half", "lat", "lon"), halves, {"units": "hPa"}), **ends}, GRID).to_netcdf(tmp_path / "halves.nc")
    xr.Dataset({"ps": (("lat", "half", "lon"), 100 * halves.swapaxes(0, 1), {"units": "Pa"})}, GRID | ends).to_netcdf(
        tmp_path / "pascal.nc"
    )
    options = {"std": 0.5}
    wanted, table = read(model, world / "none", tmp_path / "halves.csv", **options)
    same(read(model, world / "none", tmp_path / "halves.nc", **options)[0], wanted)
    other = read(model, world / "none", tmp_path / "pascal.nc", std=50.0)[0]
    torch.testing.assert_close(other.rows.to_dense(), wanted.rows.to_dense())
    torch.testing.assert_close(other.values, wanted.values, rtol=0, atol=1e-4)
    again = read_table(write_table(tmp_path / "kept.nc", table))
    assert again.sha256 == table.sha256

    # single steps of levels, in other units, one of which is selected
    profile = 250 + generator.normal(size=(2, 2, 3, 4))
    levels = {"plev": ("plev", [50000.0, 85000.0], {"units": "Pa"}), "step": [1, 3]}
    xr.Dataset({"ta": (("step", "plev", "lat", "lon"), profile)}, GRID | levels).to_netcdf(tmp_path / "steps.nc")
    rows = [
        table_of(profile[i, k], "ta", step=step, plev=level)
        for i, step in enumerate((1, 3)) for k, level in enumerate((500, 850))
    ]  # fmt: skip
    pd.concat(rows).to_csv(tmp_path / "steps.csv", index=False)
    wanted = read(model, world / "none", tmp_path / "steps.csv", **options)[0]
    same(read(model, world / "none", tmp_path / "steps.nc", **options)[0], wanted)
    one = read(model, world / "none", tmp_path / "steps.nc", select={"step": 3.0}, **options)[0]
    same(one, wanted.part(torch.arange(24, 48)))

    # a field without steps is the mean that the configuration names
    xr.Dataset({"ps": (("lat", "lon"), halves[0])}, GRID).to_netcdf(tmp_path / "mean.nc")
    table_of(halves[0], "ps", first_step=0, last_step=3).to_csv(tmp_path / "mean.csv", index=False)
    same(
        read(model, world / "none", tmp_path / "mean.nc", steps=(0, 3), **options)[0],
        read(model, world / "none", tmp_path / "mean.csv", **options)[0],
    )


def test_absolute_time_means_lose_the_mean_of_their_own_months(world: Path, tmp_path: Path) -> None:
    """The mean of absolute values over December to March is the sum of those of anomalies and of the climatology."""
    model = load_model(world / "monthly")
    climatology = history().ps.groupby("time.month").mean().sel(month=[12, 1, 2, 3]).mean("month").values
    anomaly = np.random.default_rng(2).normal(size=(3, 4))
    for name, field in (("anomaly", anomaly), ("absolute", anomaly + climatology)):
        table_of(field, "ps", first_step=0, last_step=3).to_csv(tmp_path / f"{name}.csv", index=False)
    wanted = read(model, world / "monthly", tmp_path / "anomaly.csv", std=0.5)[0]
    found = read(model, world / "monthly", tmp_path / "absolute.csv", std=0.5, absolute=True, month=12)[0]
    torch.testing.assert_close(found.values, wanted.values, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"climatology is monthly; give observations\.month"):
        read(model, world / "monthly", tmp_path / "absolute.csv", std=0.5, absolute=True)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("variable,lat,lon,value\nps,0,0,1000\n", {}, r"several values of step, 0 to 3; give step, first_step and .*: row 1"),
        ("variable,lat,lon,step,value\nta,0,0,1,250\n", {}, r"ta has several values of plev, give each row a column plev: row 1"),
        ("variable,lat,lon,step,value\nps,0,0,4,1000\nps,0,0,1.5,1000\nps,0,9,-1,1000\n", {}, r": row 1, row 2, row 3"),
        ("variable,lat,lon,first_step,last_step,value\nps,0,0,3,1,1000\n", {}, r"from 0 to 3, in order: row 1"),
        ("variable,lat,lon,first_step,value\nps,0,0,1,1000\n", {}, r"give either step, or both first_step and last_step: row 1"),
        ("variable,lat,lon,step,first_step,last_step,value\nps,0,0,1,1,2,1000\n", {}, r"give either step, or both"),
        ("variable,lat,lon,step,plev,value\nta,0,0,1,700,250\n", {}, r"plev must be one of 850, 500 hPa: row 1"),
        ("variable,lat,lon,step,value\nps,0,0,1,1000\nps,0,0,1,1001\n", {}, r"repeat the observation of an earlier row .*row 2"),
        ("variable,lat,lon,value\nps,0,0,1000\n", {"steps": (0, 7)}, r"steps must be whole numbers from 0 to 3, in order: row 1"),
    ],
)  # fmt: skip
def test_steps_and_levels_that_are_not_there(world: Path, tmp_path: Path, text: str, options: Any, message: str) -> None:
    """Rows that say too little, too much or something that is not there are named, with what is accepted."""
    (tmp_path / "bad.csv").write_text(text)
    config = ObservationsConfig(file=str(tmp_path / "bad.csv"), std=1.0, **options)
    with pytest.raises(ConfigError, match=message):
        read_given(config, load_model(world / "none"), str(world / "none"))


def test_steps_are_for_sequences_and_dimensions_are_explained(world: Path, tmp_path: Path) -> None:
    """A model of single times takes no steps; a dimension of a field that nothing describes is refused."""
    single = make_model(tmp_path)
    (tmp_path / "a.csv").write_text("lat,lon,value,std\n0,0,280,1\n")
    given = ("--model", single, "--observations", tmp_path / "a.csv", "--set", "observations.steps=[0, 2]")
    message = one_line(call("sample", *given, "--out", tmp_path / "run"), 2)
    assert "observations.steps: only for models of sequences" in message
    xr.Dataset({"ps": (("season", "lat", "lon"), np.full((2, 3, 4), 1000.0))}, GRID).to_netcdf(tmp_path / "unknown.nc")
    config = ObservationsConfig(file=str(tmp_path / "unknown.nc"), std=1.0)
    with pytest.raises(ConfigError, match=r"ps has a dimension season of 2 values; choose one with observations\.select"):
        read_given(config, load_model(world / "none"), str(world / "none"))


def test_functions_see_steps_and_levels(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of fields is given every variable with its steps and levels."""
    (tmp_path / "trends.py").write_text(
        "def trend(model):\n    return lambda fields: (fields['ta'][:, -1, 0] - fields['ps'][:, 0]).flatten(1)[:, :2]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "values.csv").write_text("value,std\n-750,0.1\n-750,0.1\n")
    model = load_model(world / "none")
    config = ObservationsConfig(file=str(tmp_path / "values.csv"), operator="trends:trend")
    found, _ = read_for(config, model, str(world / "none"))
    x = torch.randn(3, *model.event_shape, generator=torch.Generator().manual_seed(0))
    fields = model.decode(x)
    wanted = (fields["ta"][:, -1, 0] - fields["ps"][:, 0]).reshape(3, -1)[:, :2]
    np.testing.assert_allclose(found.apply(x.flatten(1).to(torch.float64)).numpy(), wanted, rtol=0, atol=1e-3)
