"""Weights of samples given observations; the posterior of a Gaussian model is exact, and its mean weight is the evidence."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import RUN, add_network, call, make_model, one_line, write_config
from posteriors import dense, observe

from piadm_hpc.analysis.weights.importance import Importance
from piadm_hpc.config.observations import ObservationsConfig
from piadm_hpc.models.card import load_model
from piadm_hpc.models.observations.likelihood import log_likelihood
from piadm_hpc.models.observations.reading import read_for
from piadm_hpc.store.arrays import read_arrays
from piadm_hpc.store.reading import open_run

F64 = torch.float64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("posterior"))


def stations(path: Path) -> Path:
    """Six stations with errors of 0.5 K."""
    generator = np.random.default_rng(0)
    table = {"lat": generator.uniform(-60, 60, 6), "lon": generator.uniform(0, 360, 6), "value": 280 + generator.normal(size=6)}
    pd.DataFrame(table).assign(std=0.5, units="K").to_csv(path, index=False)
    return path


def test_a_likelihood_is_that_of_the_normal_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, x = (torch.randn(n, 5, dtype=F64, generator=generator) for n in (4, 3))
    seen = observe(rows, torch.randn(4, dtype=F64, generator=generator), 0.3, torch.tensor([0, 0, -1, 0]), 0.6)
    truth = torch.distributions.MultivariateNormal(seen.values, seen.noise_matrix()).log_prob(x @ rows.T)
    assert torch.allclose(log_likelihood(seen, x), truth, atol=1e-9)


def test_the_posterior_of_a_gaussian_has_equal_weights_whose_mean_is_the_evidence(model: Path, tmp_path: Path) -> None:
    """They agree up to the noise of the last level, 1.4 % of a standard deviation, which the two densities treat differently."""
    file = stations(tmp_path / "stations.csv")
    changes = {"samples": 8, "density": {"enabled": True}, "compute": {"precision": "float64"}}
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", **changes)
    assert call("sample", config, "--observations", file)["code"] == 0
    report = call("weigh", tmp_path / "run")
    assert report["code"] == 0 and "effective share" in report["out"], report
    arrays, facts = read_arrays(tmp_path / "run" / "weights.h5")
    assert facts["energy"] == "posterior" and Importance.of(arrays["log_weight"].values).effective > 0.95
    loaded = load_model(model)
    seen, _ = read_for(ObservationsConfig(file=str(file)), loaded, str(model))
    matrix = seen.rows.to_dense()  # type: ignore[union-attr]
    away = seen.values - matrix @ loaded.reference.mean
    covariance = matrix @ dense(loaded.reference) @ matrix.T + seen.noise_matrix()  # type: ignore[union-attr]
    evidence = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=F64), covariance).log_prob(away)
    assert float(facts["log_mean_weight"]) == pytest.approx(float(evidence), abs=0.1)


def test_weights_tell_a_posterior_from_another(model: Path, tmp_path: Path) -> None:
    """The network's score makes the Kalman posterior an approximation: weights differ, and they are finite."""
    network = add_network(model, tmp_path / "network")
    file = stations(tmp_path / "stations.csv")
    settings = {**RUN, "solver": {"tol": 0.1}, "grid": {"steps": 8}, "density": {"enabled": True, "traces": 4}}
    config = write_config(tmp_path / "run.toml", network, tmp_path / "run", **settings)
    assert call("sample", config, "--observations", file)["code"] == 0
    assert call("weigh", tmp_path / "run")["code"] == 0
    logs = read_arrays(tmp_path / "run" / "weights.h5")[0]["log_weight"].values
    assert np.isfinite(logs).all() and np.ptp(logs) > 1e-3
    with open_run(tmp_path / "run") as dataset:
        assert math.isfinite(float(dataset["log_density"].values.sum()))


def test_runs_without_observations_need_an_energy(model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", samples=5, density={"enabled": True})
    assert call("sample", config)["code"] == 0
    assert "so its weights need an energy; give --energy" in one_line(call("weigh", tmp_path / "run"), 2)
