"""Observations of conditional models and of forecasts, against closed forms and the Kalman filter; restarts and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import call, one_line
from posteriors import closed_form, dense
from test_conditional_models import INPUTS, make, today, write_world

import piadm_hpc
from piadm_hpc.data.observations import read_observations
from piadm_hpc.models.card import load_model
from piadm_hpc.models.observations.encode import encode
from piadm_hpc.run.conditions import encoded_conditions

F64 = torch.float64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gaussian model given the month before, a number and a class, and one with a network."""
    folder = tmp_path_factory.mktemp("cycling")
    write_world(folder)
    make(folder, "given", condition={"inputs": INPUTS, "dropout": 0.2})
    inputs = {"tas_1": {"kind": "lag"}, "tas_2": {"kind": "lag", "lag": 2}, "month": {"kind": "month"}}
    make(folder, "months", condition={"inputs": inputs})
    with xr.open_dataset(folder / "fields.nc") as fields:
        fields.isel(time=slice(-4, None)).to_netcdf(folder / "starts.nc")
        fields.isel(time=slice(-2, None)).to_netcdf(folder / "start.nc")
    return folder


def stations(path: Path, count: int = 12, **columns: Any) -> pd.DataFrame:
    """Readings around 280 K at scattered places, written as CSV."""
    generator = np.random.default_rng(0)
    places = {"lat": generator.uniform(-65, 65, count), "lon": generator.uniform(-180, 180, count)}
    table = pd.DataFrame({**places, "value": 280.0 + generator.normal(size=count), "std": 0.2, "units": "K"}).assign(**columns)
    table.to_csv(path, index=False)
    return table


@pytest.mark.parametrize("score", ["kalman", "mmps"])
def test_a_conditional_model_has_the_posterior_of_its_fields(world: Path, tmp_path: Path, score: str) -> None:
    """For every condition, mean plus residual has the moments of the posterior after two rounds."""
    stations(tmp_path / "stations.csv")
    config = piadm_hpc.RunConfig(
        model=str(world / "given"), samples=60, out=str(tmp_path / "run"), condition={"file": str(today(world))},
        observations={"file": str(tmp_path / "stations.csv"), "score": score}, compute={"precision": "float64"},
        output={"batch": 180}, solver={"tol": 1e-3}, grid={"steps": 8},
    )  # fmt: skip
    with piadm_hpc.sample(config) as samples:
        assert int(samples.rounds.max()) <= 2 and bool(samples.converged.all())
        fields = samples.tas.values  # realization x condition x lat x lon, or samples
    model = load_model(world / "given")
    condition = encoded_conditions(config, model, "cpu")
    assert model.conditioning is not None and condition is not None
    means = model.conditioning.mean(condition).flatten(1).to(F64) + model.reference.mean
    observations, _ = encode(read_observations(tmp_path / "stations.csv", ["tas"]), model)
    by_condition = fields.reshape(60, 3, *fields.shape[-2:])
    for k in range(3):
        states = model.normalisation.encode({"tas": by_condition[:, k]}).flatten(1).to(F64)
        mean, covariance = closed_form(means[k], dense(model.reference), observations)
        deviation = torch.sqrt(covariance.diagonal())
        assert float(((states.mean(0) - mean) / deviation).square().mean().sqrt()) < 2.5 / np.sqrt(60)
        assert float((states.var(0) / deviation**2).mean()) == pytest.approx(1, abs=0.15)
    assert float((means[0] - means[1]).abs().max()) > 0.5


def cycled(folder: Path, out: Path, observations: Path, **changes: Any) -> piadm_hpc.RunConfig:
    keys: dict[str, Any] = {"model": str(folder / "months"), "condition": {"file": str(folder / "start.nc")}, "samples": 4}
    keys |= {"rollout": {"leads": 4}, "solver": {"tol": 1e-3}, "output": {"batch": 100}, "out": str(out)}
    keys |= {"observations": {"file": str(observations)}, "grid": {"steps": 8}}
    return piadm_hpc.RunConfig(**{**keys, **changes})


def readings(path: Path, leads: tuple[int, ...] = (1, 2, 4), **columns: Any) -> pd.DataFrame:
    """Readings at other places for every lead, two of them with errors in common."""
    parts = [stations(path, 9).assign(lead=lead, lat=lambda t, lead=lead: t["lat"] - 2 * lead) for lead in leads]
    table = pd.concat(parts).assign(**columns)
    table["value"] += 2 * np.sin(np.arange(len(table)))
    first = np.arange(len(table)) % 9 < 2
    table["group"], table["correlation"] = np.where(first, table["lead"], np.nan), np.where(first, 0.5, 0.0)
    table.to_csv(path, index=False)
    return table


def kalman(folder: Path, path: Path, leads: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and covariance of every lead by the textbook's Kalman filter on the last two fields, with dense matrices."""
    model = load_model(folder / "months")
    conditioning, d = model.conditioning, 128
    assert conditioning is not None
    with xr.open_dataset(folder / "start.nc") as start:
        z = model.normalisation.encode({"tas": start.tas.values}).flatten().to(F64)
        month = int(start.time.dt.month[-1])

    def mean(last: torch.Tensor, month: int) -> torch.Tensor:
        fields = last.reshape(-1, 2, 8, 16)
        inputs = {f"tas_{lag}": model.normalisation.decode(fields[:, 2 - lag])["tas"] for lag in (1, 2)}
        return conditioning.mean(conditioning.encode(inputs | {"month": np.full(len(last), month)})).flatten(1).to(F64)

    steps = torch.eye(2 * d, dtype=F64) * 1.0
    M = (mean(steps, 1) - mean(0 * steps, 1)).T
    Q, P, found = dense(model.reference), torch.zeros(2 * d, 2 * d, dtype=F64), []
    shift = torch.cat([torch.cat([torch.zeros(d, d), torch.eye(d)], 1).to(F64), M])
    table = read_observations(path, ["tas"])
    for lead in range(1, leads + 1):
        z = torch.cat([z[d:], mean(z[None], (month + lead - 1) % 12 + 1)[0] + model.reference.mean])
        P = shift @ P @ shift.T
        P[d:, d:] += Q
        if (table["lead"] == lead).any():
            seen, _ = encode(table.keep(table["lead"] == lead), model)
            rows = torch.cat([torch.zeros(len(seen), d, dtype=F64), seen.rows.to_dense()], 1)
            K = P @ rows.T @ torch.linalg.inv(rows @ P @ rows.T + seen.noise_matrix())
            z, P = z + K @ (seen.values - rows @ z), P - K @ rows @ P
        found.append((z[d:], P[d:, d:]))
    return found


def test_cycled_forecasts_of_a_linear_gaussian_world_are_the_kalman_filters(world: Path, tmp_path: Path) -> None:
    """Means and covariances of 300 members agree at four leads, one of them without observations; a lead takes two rounds."""
    readings(tmp_path / "readings.csv")
    config = cycled(world, tmp_path / "run", tmp_path / "readings.csv", samples=300, output={"batch": 300})
    with piadm_hpc.sample(config) as samples:
        fields = samples.tas.values[0] if samples.tas.ndim == 5 else samples.tas.values
        assert int(samples.rounds.max()) <= 2
    model = load_model(world / "months")
    for lead, (mean, covariance) in enumerate(kalman(world, tmp_path / "readings.csv", 4)):
        states = model.normalisation.encode({"tas": fields[:, lead]}).flatten(1).to(F64)
        deviation = torch.sqrt(covariance.diagonal())
        assert float(((states.mean(0) - mean) / deviation).square().mean().sqrt()) < 1.6 / np.sqrt(300), lead
        values, vectors = torch.linalg.eigh(covariance)
        along = ((states - states.mean(0)) @ vectors[:, -8:]).square().mean(0) / values[-8:]
        assert float((along - 1).abs().max()) < 0.3, lead
        assert float((states.var(0) / deviation**2).mean()) == pytest.approx(1, abs=0.05), lead


def test_cycled_members_do_not_depend_on_who_else_is_drawn_and_go_on_after_any_lead(world: Path, tmp_path: Path) -> None:
    """Starts are named by dates and updated by observations of their own, as are the two fields that the model is given."""
    table = readings(tmp_path / "readings.csv").drop(columns="lead")
    table["time"] = np.repeat(["2013-05-01", "2013-06-01", "2013-07-01"], 9)
    table.to_csv(tmp_path / "dated.csv", index=False)
    config = cycled(world, tmp_path / "run", tmp_path / "dated.csv", condition={"file": str(world / "starts.nc")})
    with piadm_hpc.sample(config) as samples:
        whole = samples.tas.load().values
    shards = sorted((tmp_path / "run" / "shards").glob("*.h5"))
    for shard in shards[2::4]:
        shard.unlink()
    (tmp_path / "run" / "samples.h5").unlink()
    with piadm_hpc.sample(config) as samples:
        np.testing.assert_allclose(samples.tas.values, whole, rtol=0, atol=5e-3)
    alone = cycled(world, tmp_path / "alone", tmp_path / "dated.csv", only=[2])
    with piadm_hpc.sample(alone) as samples:
        np.testing.assert_allclose(samples.tas.values[0, 0], whole[-1, 2], rtol=0, atol=5e-3)
    free = piadm_hpc.RunConfig(**{**alone.model_dump(), "observations": None, "out": str(tmp_path / "free")})
    with piadm_hpc.sample(free) as samples:
        assert float(np.abs(samples.tas.values[0, 0] - whole[-1, 2]).mean()) > 0.05


@pytest.mark.parametrize(
    ("columns", "drop", "words"),
    [
        ({}, "lead", "give a column lead (1 is the first), or time"),
        ({"lead": 1.5}, None, "lead must be a whole number from 1 on: row 1"),
        ({"lead": 9}, None, "none of them belongs to one of the 4 leads"),
        ({"time": "soon"}, "lead", "time must be a date such as 1998-03-01: row 1"),
        ({"value": 7.0, "units": ""}, None, "standard deviations from the model's mean"),
    ],
)
def test_observations_of_no_lead_are_refused(
    world: Path, tmp_path: Path, columns: dict[str, Any], drop: str | None, words: str
) -> None:
    table = readings(tmp_path / "readings.csv", (1,), **columns)
    (table if drop is None else table.drop(columns=drop)).to_csv(tmp_path / "readings.csv", index=False)
    arguments = ["rollout", "--model", world / "months", "--init", world / "start.nc", "--leads", 4, "--out", tmp_path / "run"]
    assert words in one_line(call(*arguments, "--observations", tmp_path / "readings.csv"), 2)
