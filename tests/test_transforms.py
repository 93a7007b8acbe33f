"""Transforms of variables: their inverses, bounds, tails and dry days, alone and through a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri

import piadm_hpc
from piadm_hpc.data.gridded import DataConfig
from piadm_hpc.data.transform_tensors import tensor_values
from piadm_hpc.data.transforms import TransformConfig, fit_transform

GENERATOR = np.random.default_rng(0)


def rain(count: int, seed: int = 0) -> np.ndarray:
    """Rain-like fields [count, 12, 16]: smooth, a third dry, skewness near 3.7."""
    z = np.random.default_rng(seed).normal(size=(count, 12, 16))
    z = gaussian_filter(z, (0, 1.5, 1.5), mode="wrap")
    z /= z.std()
    return np.where(z > ndtri(1 / 3), np.expm1(1.05 * (z - ndtri(1 / 3)).clip(0)), 0.0)


of_every_kind = pytest.mark.parametrize(
    "config, values",
    [
        ("log", GENERATOR.lognormal(size=(50, 4, 5))),
        ("sqrt", GENERATOR.gamma(2, size=(50, 4, 5))),
        ("logit", GENERATOR.beta(2, 5, size=(50, 4, 5))),
        ("boxcox", GENERATOR.gamma(2, size=(50, 4, 5))),
        ({"kind": "boxcox", "power": 0.3, "lower": -1.0}, GENERATOR.gamma(2, size=(50, 4, 5))),
        ("quantile", GENERATOR.gumbel(size=(50, 4, 5))),
        ({"kind": "quantile", "lower": 0.0, "upper": 1.0}, GENERATOR.beta(2, 5, size=(50, 4, 5))),
        ({"kind": "quantile", "lower": 0.0}, rain(50)),
        ({"kind": "boxcox", "power": 0.2}, GENERATOR.gamma(2, size=(50, 4, 5))),
        ("quantile", GENERATOR.normal(size=(50, 4, 5)) ** 3),
    ],
)


@of_every_kind
def test_values_come_back_and_bounds_hold(config: Any, values: Any) -> None:
    values = values.copy()
    values[0, 0, 0] = np.nan
    transform = fit_transform("x", values, TransformConfig.model_validate(config))
    scores = transform.scores(values)
    assert np.isnan(scores[0, 0, 0]) and np.isfinite(scores[1:]).all()
    assert np.allclose(transform.values(scores), values, rtol=2e-2, atol=2e-2, equal_nan=True)
    wild = transform.values(np.linspace(-9, 9, 2001))
    assert np.isfinite(wild).all() and (np.diff(wild) >= 0).all()
    assert wild.min() >= transform.lower and wild.max() <= transform.upper


@of_every_kind
def test_tensors_of_scores_become_the_same_values_and_are_differentiable(config: Any, values: Any) -> None:
    transform = fit_transform("v", values, TransformConfig.model_validate(config))
    z = torch.linspace(-4, 4, 401, dtype=torch.float64).requires_grad_()
    found = tensor_values(transform, z)
    np.testing.assert_allclose(found.detach().numpy(), transform.values(z.detach().numpy()), rtol=1e-9, atol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), z)
    assert bool(torch.isfinite(slope).all()) and bool((slope >= 0).all())
    if transform.kind != "quantile":
        step = 1e-6
        wanted = (transform.values(z.detach().numpy() + step) - transform.values(z.detach().numpy() - step)) / (2 * step)
        np.testing.assert_allclose(slope.numpy(), wanted, rtol=1e-4, atol=1e-4)
    if np.isfinite(transform.atom):
        assert bool((slope[z <= transform.atom] > 0).all()) and bool((found[z <= transform.atom] == 0).all())


def test_rain_from_a_normal_distribution_is_rain() -> None:
    data = rain(400)
    transform = fit_transform("pr", data, TransformConfig(kind="quantile", lower=0.0))
    scores = transform.scores(data)
    assert abs(scores.mean()) < 0.02 and abs(scores.std() - 1) < 0.02
    drawn = transform.values(np.random.default_rng(1).normal(size=200_000))
    assert drawn.min() == 0 and abs((drawn == 0).mean() - (data == 0).mean()) < 0.02
    for q in (0.5, 0.9, 0.99, 0.999):
        assert np.quantile(drawn, q) == pytest.approx(np.quantile(data, q), rel=0.1)


def test_dry_points_far_from_rain_are_the_driest() -> None:
    data = rain(100)
    transform = fit_transform("pr", data, TransformConfig(kind="quantile", lower=0.0))
    field = np.zeros((1, 12, 16))
    field[0, :, 8:] = 2.0
    scores = transform.scores(field)[0, 6, :8]
    assert (np.diff(scores) >= 0).all() and scores[0] < scores[-1] <= transform.atom


@pytest.mark.parametrize(
    "config, message",
    [
        ({"kind": "log"}, "3 values that are not above 0, as 'log' needs; use 'quantile'"),
        ({"kind": "sqrt", "lower": 1.0}, "values that are not from 1, as 'sqrt' needs; give other bounds"),
    ],
)
def test_values_outside_the_bounds_are_refused(config: Any, message: str) -> None:
    values = np.ones((2, 2, 2))
    values[0, 0] = values[1, 0, 0] = 0.0
    with pytest.raises(ValueError, match=message):
        fit_transform("pr", values, TransformConfig.model_validate(config))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"kind": "log", "power": 1.0}, "power belongs to 'boxcox'"),
        ({"kind": "sqrt", "upper": 1.0}, "'sqrt' has no upper bound"),
        ({"kind": "logit", "lower": 1.0, "upper": 0.0}, "lower 1.0 must be below upper 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformConfig.model_validate(config)


def test_samples_of_a_rain_model_are_rain(tmp_path: Path) -> None:
    data = rain(150)
    dims = {"y": ("y", np.arange(12.0)), "x": ("x", np.arange(16.0))}
    xr.Dataset({"pr": (("time", "y", "x"), data.astype(np.float32), {"units": "mm/day"})}, dims).to_netcdf(tmp_path / "a.nc")
    files = {"files": ["a.nc"], "variables": ["pr"], "spatial_dims": ["y", "x"], "allow_outliers": ["pr"]}
    files["transforms"] = {"pr": {"kind": "quantile", "lower": 0.0}}
    config = {"name": "m", "output": str(tmp_path / "m"), "network": "none", "data": files}
    model = piadm_hpc.load_model(piadm_hpc.train(config, root=tmp_path, report=lambda line: None))
    white = torch.randn(1000, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = model.reference.draw(white, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    drawn, real = model.decode(states)["pr"], rain(1000, seed=3)
    assert drawn.min() == 0 and abs(float((drawn == 0).mean() - (data == 0).mean())) < 0.02
    for q in (0.5, 0.9, 0.99):
        assert np.quantile(drawn, q) == pytest.approx(np.quantile(data, q), rel=0.1)
    assert np.quantile(drawn, 0.999) == pytest.approx(np.quantile(data, 0.999), rel=0.15)
    largest = np.sort(real.max((1, 2)))
    assert largest[0] / 2 < drawn.max((1, 2)).mean() < largest[-1] and drawn.max() < 2 * largest[-1]
    again = model.decode(model.encode({"pr": data.astype(np.float32)}))["pr"]
    assert np.allclose(again, data, rtol=0.05, atol=0.05) and ((again == 0) == (data == 0)).mean() > 0.999


def test_transforms_of_anomalies_and_of_unknown_variables_are_refused() -> None:
    for extra, message in (({"anomaly": "mean"}, "not of anomalies"), ({"transforms": {"pr": "log"}}, "transforms names pr")):
        with pytest.raises(ValueError, match=message):
            DataConfig.model_validate({"files": ["a.nc"], "variables": ["tas"], "transforms": {"tas": "log"}, **extra})
