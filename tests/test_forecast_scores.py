"""Scores of forecasts by lead are compared with closed forms: calibrated ensembles, single members, areas and dates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chisquare

from piadm_hpc.analysis.forecasts import forecast_scores

LAT, LON = np.array([60.0, 0.0, -60.0]), np.array([0.0, 90.0, 180.0, 270.0])
DIMS = ("init_time", "realization", "lead_time", "lat", "lon")
COORDS = {"lat": ("lat", LAT), "lon": ("lon", LON), "lead_time": [1, 2]}


def members(values: np.ndarray, **attrs: Any) -> xr.DataArray:
    """Forecasts [starts, members, leads, lat, lon]."""
    return xr.DataArray(values, dims=DIMS, coords=COORDS, attrs=attrs)


def truth_of(values: np.ndarray) -> xr.DataArray:
    """A truth [starts, leads, lat, lon]."""
    return xr.DataArray(values, dims=[dim for dim in DIMS if dim != "realization"], coords=COORDS)


def test_an_ensemble_that_is_exchangeable_with_the_truth_is_calibrated() -> None:
    """Spread equals error, the rank histogram is flat, and the CRPS is 1 / sqrt(pi); an ensemble twice as wide fails."""
    drawn = np.random.default_rng(1).normal(size=(400, 10, 2, 3, 4)) * np.array([1.0, 3.0])[:, None, None]
    found = forecast_scores(members(drawn[:, 1:]), truth_of(drawn[:, 0]))
    np.testing.assert_allclose(found["spread_skill"], 1, atol=0.05)
    np.testing.assert_allclose(found["crps"], np.array([1, 3]) / np.sqrt(np.pi), rtol=0.05)
    np.testing.assert_allclose(found["bias"], 0, atol=0.15)
    assert found["rank_histogram"].shape == (2, 10)
    # at one point every start is an independent draw
    alone = forecast_scores(members(drawn[:, 1:])[..., :1, :1], truth_of(drawn[:, 0])[..., :1, :1])
    for shares in alone["rank_histogram"].values:
        assert chisquare(shares * 400).pvalue > 1e-3
    wide = forecast_scores(members(2 * drawn[:, 1:]), truth_of(drawn[:, 0]))
    assert (wide["spread_skill"] > 1.5).all() and (wide["crps"] > found["crps"]).all()
    assert chisquare(wide["rank_histogram"].values[0] * 400).pvalue < 1e-6


def test_scores_of_two_members_are_those_worked_out_by_hand() -> None:
    """With members 1 and 4 and the truth 2, the fair CRPS is (1 + 2) / 2 minus half of their distance 3, which is 0."""
    pair = np.broadcast_to(np.array([1.0, 4.0])[:, None, None, None], (1, 2, 2, 3, 4))
    found = forecast_scores(members(pair), truth_of(np.full((1, 2, 3, 4), 2.0)))
    assert np.allclose(found["crps"], 0) and np.allclose(found["bias"], 0.5) and np.allclose(found["rmse"], 0.5)
    assert np.allclose(found["spread"], np.sqrt(4.5 * 3 / 2))
    assert np.allclose(found["rank_histogram"], [[0, 1, 0]] * 2)
    assert np.allclose(found["crps_map"], 0) and found["spread_map"].dims == ("lead_time", "lat", "lon")


def test_rows_count_by_their_area() -> None:
    """An error of one at 60 degrees north alone covers a quarter of the area of the three rows."""
    off = np.zeros((1, 2, 2, 3, 4))
    off[:, :, :, 0] = 1
    found = forecast_scores(members(off, units="K"), truth_of(np.zeros((1, 2, 3, 4))))
    np.testing.assert_allclose(found["crps"], 0.25)
    np.testing.assert_allclose(found["rmse"], 0.5)
    np.testing.assert_allclose(found["crps_map"][0, :, 0], [1, 0, 0])
    assert found["crps"].attrs["units"] == "K" and found["spread_skill"].attrs["units"] == "1"


def test_points_without_data_are_left_out() -> None:
    drawn = np.random.default_rng(0).normal(size=(5, 4, 2, 3, 4))
    drawn[..., 1, :] = np.nan
    whole = forecast_scores(members(drawn)[..., [0, 2], :], truth_of(np.zeros((5, 2, 3, 4)))[..., [0, 2], :])
    found = forecast_scores(members(drawn), truth_of(np.zeros((5, 2, 3, 4))))
    for name in ("crps", "rmse", "spread", "rank_histogram"):
        np.testing.assert_allclose(found[name], whole[name])
    assert np.isnan(found["crps_map"][:, 1]).all() and np.isfinite(found["crps_map"][:, 0]).all()


@pytest.mark.parametrize("calendar", ["standard", "noleap"])
def test_the_truth_of_a_lead_is_found_by_the_date_of_the_start(calendar: str) -> None:
    """Lead k is the k-th field after the start; perfect forecasts have no error, and leads after the last date are not scored."""
    dates = xr.date_range("2000-01-01", periods=6, freq="MS", calendar=calendar, use_cftime=calendar != "standard")
    values = np.arange(6.0)[:, None, None] * np.ones((3, 4))
    truth = xr.DataArray(values, dims=("time", "lat", "lon"), coords={"time": dates, "lat": LAT, "lon": LON})
    right = np.array([[1.0, 2.0], [4.0, 5.0], [5.0, 6.0]])[:, None, :, None, None] * np.ones((2, 1, 3, 4))
    forecasts = members(right + np.array([-0.5, 0.5])[:, None, None, None]).assign_coords(init_time=dates[[0, 3, 4]])
    found = forecast_scores(forecasts, truth)
    np.testing.assert_allclose(found["rmse"], 0, atol=1e-12)
    late = forecast_scores(forecasts.isel(init_time=[2]), truth)
    assert np.isfinite(late["crps"][0]) and np.isnan(late["crps"][1])
    with pytest.raises(ValueError, match="no field at the start 1999-12"):
        before = xr.date_range("1999-12-01", periods=3, freq="MS", calendar=calendar, use_cftime=calendar != "standard")
        forecast_scores(forecasts.assign_coords(init_time=before), truth)


def test_skill_is_measured_against_members_or_a_single_field() -> None:
    drawn = np.random.default_rng(2).normal(size=(60, 9, 2, 3, 4))
    truth, forecasts = truth_of(drawn[:, 0]), members(drawn[:, 1:])
    same = forecast_scores(forecasts, truth, baseline=forecasts)
    np.testing.assert_allclose(same["crps_skill"], 0, atol=1e-12)
    # the absolute error of zero is sqrt(2 / pi), the CRPS 1 / sqrt(pi)
    zero = forecast_scores(forecasts, truth, baseline=xr.zeros_like(forecasts.isel(realization=0, init_time=0)))
    np.testing.assert_allclose(zero["crps_skill"], 1 - np.sqrt(0.5), atol=0.06)
    assert zero["crps_skill_map"].shape == (2, 3, 4)


def test_cells_and_dimensions_in_any_order() -> None:
    """A map that is flattened into cells of equal weight has the scores of rows at the equator."""
    drawn = np.random.default_rng(3).normal(size=(7, 5, 2, 3, 4))
    equator = {"lat": ("lat", [-0.001, 0.0, 0.001])}
    forecasts = members(drawn).assign_coords(equator)
    truth = truth_of(np.zeros((7, 2, 3, 4))).assign_coords(equator)
    rows = forecast_scores(forecasts, truth)
    cells, flat = (array.stack(cell=("lat", "lon")).reset_index("cell").transpose("cell", ...) for array in (forecasts, truth))
    found = forecast_scores(cells, flat)
    np.testing.assert_allclose(found["crps"], rows["crps"])
    assert found["crps_map"].dims == ("lead_time", "cell") and "lat" in found.coords


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda m, t: (m.isel(realization=[0]), t), "1 member; spread and fair CRPS need two"),
        (lambda m, t: (m.isel(realization=0), t), "without realization"),
        (lambda m, t: (m, t.isel(lat=[0, 1])), "on their grid, lat"),
        (lambda m, t: (m, t.assign_coords(lat=LAT[::-1])), "in their order"),
        (lambda m, t: (m, t.isel(lead_time=[0])), "give it as many lead_time"),
        (lambda m, t: (m, t.isel(lead_time=0)), "or dates along time"),
        (lambda m, t: (m.assign_attrs(units="K"), t.assign_attrs(units="degC")), "in K, degC; convert"),
        (lambda m, t: (m.expand_dims(plev=2), t), "further dimensions, plev"),
    ],
)
def test_what_does_not_fit_is_refused(changed: Any, words: str) -> None:
    forecasts, truth = changed(members(np.zeros((1, 3, 2, 3, 4))), truth_of(np.zeros((1, 2, 3, 4))))
    with pytest.raises(ValueError, match=words):
        forecast_scores(forecasts, truth)
