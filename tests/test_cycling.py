"""Observations of conditional models, and of forecasts: closed forms, the Kalman filter, restarts, and bad input."""

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
    """For every condition the moments of mean plus residual given the observations, in two rounds."""
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
