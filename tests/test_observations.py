"""Observations are read from files and converted to states: places, units, masks, mistakes, and runs that use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import call, make_model, on_ranks, one_line, write_config
from posteriors import closed_form, dense

import piadm_hpc
from piadm_hpc.config.run import RunConfig
from piadm_hpc.data.observations import read_observations
from piadm_hpc.gaussian import conditioned
from piadm_hpc.gaussian.observed import LinearObservations
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.models.observations.encode import encode
from piadm_hpc.models.observations.geometry import geometry_of
from piadm_hpc.models.observations.places import Grid
from piadm_hpc.models.observations.record import read_table, write_table
from piadm_hpc.run.plan import plan
from piadm_hpc.run.resolve import resolve
from piadm_hpc.store.reading import open_run

LAT, LON = np.linspace(87.5, -87.5, 36), np.arange(72) * 5.0
GLOBE = Grid(LAT, LON, True, True)
LAT8, LON16 = np.linspace(70, -70, 8), np.arange(16) * 22.5
REGION = Grid(np.linspace(30, 60, 7), np.linspace(-20, 40, 13), True, False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("observed"))


def stations(path: Path, count: int = 12, **columns: Any) -> pd.DataFrame:
    """Readings of 280 K and more at scattered places, written as CSV."""
    generator = np.random.default_rng(0)
    places = {"lat": generator.uniform(-80, 80, count), "lon": generator.uniform(-180, 360, count)}
    values = 280.0 + generator.normal(size=count)
    table = pd.DataFrame({**places, "value": values}).assign(**{"std": 0.3, "units": "K", **columns})
    table.to_csv(path, index=False)
    return table


def value(grid: Grid, field: np.ndarray, places: tuple[np.ndarray, np.ndarray]) -> float:
    return float(field.ravel()[places[0]] @ places[1])


@pytest.mark.parametrize("lon", [0.0, 2.4, 357.6, -2.4, 180.0, -180.0, 359.999])
@pytest.mark.parametrize("lat", [87.5, 45.1, 0.0, -87.0])
def test_points_are_read_bilinearly_round_the_globe(lat: float, lon: float) -> None:
    """Fields that are linear in latitude, or in longitude across the date line, are interpolated exactly."""
    assert value(GLOBE, np.repeat(LAT, 72), GLOBE.point(lat, lon, nearest=False)) == pytest.approx(lat)
    east = np.tile((LON + 180) % 360 - 180, 36)
    wanted = (lon + 180) % 360 - 180
    if abs(wanted) < 170:
        assert value(GLOBE, east, GLOBE.point(lat, lon, nearest=False)) == pytest.approx(wanted, abs=1e-9)
    places, weights = GLOBE.point(lat, lon, nearest=True)
    assert len(places) == 1 and weights.tolist() == [1.0]
    away = abs((LON[places[0] % 72] - lon + 180) % 360 - 180)
    assert away <= 2.5 and abs(LAT[places[0] // 72] - lat) <= 2.5


def test_past_the_last_row_its_value_holds() -> None:
    field = np.repeat(LAT, 72)
    assert value(GLOBE, field, GLOBE.point(90.0, 10.0, nearest=False)) == 87.5
    assert value(GLOBE, field, GLOBE.point(-89.9, 10.0, nearest=False)) == -87.5


def test_boxes_are_means_by_area() -> None:
    places, weights = GLOBE.box(-90, 90, 0, 360)
    assert len(places) == 36 * 72 and weights.sum() == pytest.approx(1)
    assert np.allclose(weights, GLOBE.area.ravel()) and np.allclose(weights, GLOBE.harmonic(0, 0)[1])
    cosine = np.repeat(np.cos(np.deg2rad(LAT)), 72)
    # the mean of cos over the sphere is pi / 4
    assert value(GLOBE, cosine, (places, weights)) == pytest.approx(np.pi / 4, rel=2e-3)
    # the box lies across the date line and is named from either side
    over, same = GLOBE.box(10, 20, 350, 10), GLOBE.box(10, 20, -10, 10)
    assert np.array_equal(over[0], same[0]) and np.allclose(over[1], same[1])
    assert set((over[0] % 72).tolist()) == {70, 71, 0, 1, 2}  # the box covers half of the outer cells
    half = {int(j): over[1][over[0] % 72 == j].sum() for j in (70, 71)}
    assert half[70] == pytest.approx(half[71] / 2)


@pytest.mark.parametrize(("degree", "order"), [(1, 0), (1, 1), (2, -1), (5, 3)])
def test_coefficients_of_harmonics(degree: int, order: int) -> None:
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(36)[0]))[::-1]
    grid = Grid(lat, LON, True, True)
    wave = grid.harmonic(degree, order)[1] / grid.area.ravel()
    assert value(grid, wave, grid.harmonic(degree, order)) == pytest.approx(1, abs=5e-3)
    assert value(grid, wave, grid.harmonic(degree + 1, order)) == pytest.approx(0, abs=5e-3)
    assert value(grid, wave, grid.harmonic(degree, -order if order else 1)) == pytest.approx(0, abs=5e-3)


def test_a_region_ends() -> None:
    lat, lon = np.array([45.0, 45.0, 45.0, 62.6, 27.4]), np.array([0.0, 340.0, 60.0, 0.0, 0.0])
    assert REGION.outside(lat, lon).tolist() == [False, False, True, True, True]
    assert value(REGION, np.tile(REGION.columns, 7), REGION.point(45.0, 342.0, nearest=False)) == pytest.approx(-18)


def encoded(model: Path, path: Path, **options: Any) -> tuple[LinearObservations, Model]:
    loaded = load_model(model)
    table = read_observations(path, ["tas"], std=options.pop("std", None))
    return encode(table, loaded, **options)[0], loaded


def test_values_and_errors_are_in_the_units_of_states(model: Path, tmp_path: Path) -> None:
    """The observed values of a state are those of the field to which it decodes, in any units."""
    kelvin = stations(tmp_path / "a.csv")
    celsius = kelvin.assign(value=kelvin["value"] - 273.15, units="degC")
    celsius.to_csv(tmp_path / "b.csv", index=False)
    one, loaded = encoded(model, tmp_path / "a.csv")
    other, _ = encoded(model, tmp_path / "b.csv")
    torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.std, other.std)
    field = np.full((1, 8, 16), 281.0, dtype=np.float32)
    seen = one.apply(loaded.encode({"tas": field}).flatten(1).to(torch.float64))[0]
    torch.testing.assert_close(
        (one.values - seen) / one.std * 0.3, torch.from_numpy(kelvin["value"].to_numpy() - 281), rtol=0, atol=1e-3
    )


def test_tables_come_in_several_shapes(model: Path, tmp_path: Path) -> None:
    table = stations(tmp_path / "long.csv")
    wide = table.drop(columns=["value", "std", "units"]).assign(tas=table["value"], tas_std=table["std"])
    wide = wide.rename(columns={"lat": "latitude", "lon": "Longitude"})
    wide.to_csv(tmp_path / "wide.csv", index=False)
    dataset = xr.Dataset({name: ("station", table[name].to_numpy()) for name in ("lat", "lon")})
    dataset["tas"], dataset["tas_std"] = (
        ("station", table["value"].to_numpy(), {"units": "K"}),
        ("station", table["std"].to_numpy()),
    )
    dataset.to_netcdf(tmp_path / "wide.nc")
    dataset.rename(tas="value", tas_std="std").to_netcdf(tmp_path / "long.nc")
    made = [encoded(model, tmp_path / name)[0] for name in ("long.csv", "wide.csv", "wide.nc", "long.nc")]
    for other in made[1:]:
        torch.testing.assert_close(other.values, made[0].values)
        torch.testing.assert_close(other.rows.to_dense(), made[0].rows.to_dense())
    again = read_table(write_table(tmp_path / "kept.nc", read_observations(tmp_path / "long.csv", ["tas"])))
    assert again.sha256 == read_observations(tmp_path / "long.csv", ["tas"]).sha256


def fields(path: Path, step: int = 1, **attrs: str) -> xr.DataArray:
    """Write a field on the model's grid, or one coarser by `step`, with two values missing."""
    lat, lon = np.linspace(70, -70, 8), np.arange(16) * 22.5
    array = xr.DataArray(
        280 + np.cos(np.deg2rad(lat))[:, None] * np.sin(np.deg2rad(lon)), {"lat": lat, "lon": lon}, ("lat", "lon")
    )
    array = array.coarsen(lat=step, lon=step).mean()
    array[0, :2] = np.nan
    array.attrs = {"units": "K", **attrs}
    for dim, units in (("lat", "degrees_north"), ("lon", "degrees_east")):
        array[dim].attrs = {"units": units}
    array.to_dataset(name="tas").to_netcdf(path)
    return array


def test_fields_are_points_on_the_grid_and_boxes_when_coarser(model: Path, tmp_path: Path) -> None:
    fields(tmp_path / "fine.nc")
    fine, _ = encoded(model, tmp_path / "fine.nc", std=0.1)
    assert len(fine) == 126 and bool((fine.rows.to_dense() > 0).sum(1).eq(1).all())
    fields(tmp_path / "coarse.nc", 2)
    coarse, _ = encoded(model, tmp_path / "coarse.nc", std=0.1)
    dense_rows = coarse.rows.to_dense()
    assert len(coarse) == 30 and int((dense_rows > 0).sum(1).min()) >= 4
    torch.testing.assert_close(dense_rows.sum(1), torch.ones(30, dtype=torch.float64))
    read_as_points, _ = encoded(model, tmp_path / "coarse.nc", std=0.1, cells="points")
    assert int((read_as_points.rows.to_dense() > 0).sum(1).max()) <= 4


def test_all_mistakes_of_a_table_come_at_once(model: Path, tmp_path: Path) -> None:
    table = stations(tmp_path / "good.csv")
    path = tmp_path / "bad.csv"
    std = table["std"].to_numpy().copy()
    std[[2, 5]] = 0.0, -1.0
    correlation = np.zeros(12)
    correlation[3] = 0.5
    table.assign(std=std, correlation=correlation).to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"bad.csv: std must be a positive number: row 3, row 6; a correlation needs a group: row 4"
    ):
        read_observations(path, ["tas"])
    table.drop(columns=["std", "lat"]).to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"has no column std; .* 12 rows without exactly one place \(row 1, .*give lat, lon; or south"
    ):
        read_observations(path, ["tas"])
    twice = pd.concat([table, table.iloc[[4]]])
    twice.assign(variable=["tas"] * 12 + ["tos"], lat=[*twice["lat"][:12], 95.0]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"unknown variable 'tos' \(row 13\); did you mean tas\?; outside .*: row 13"):
        encoded(model, path)
    twice.assign(units=["K"] * 12 + ["hPa"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"tas is in 'hPa', .* \(row 13\); 1 rows repeat the observation of an earlier row"):
        encoded(model, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lat,lon,value,std\n", "has no row with a value"),
        ("lat,lon,value,std\n1,2,,1\n", "has no row with a value"),
        ("lat,lon,value,std\n1,2,warm,1\n", "value: 1 entries are no numbers ('warm' in row 1)"),
        ("lat,lon\n1,2\n", "has no column value, nor one named tas; it has lat, lon"),
        ("", "cannot be read as a table"),
        ("south,north,west,east,value,std\n20,10,0,5,280,1\n", "boxes need south < north"),
        ("degree,order,value,std\n2,3,280,1\n", "|order| <= degree"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(model: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError) as error:
        encoded(model, tmp_path / "bad.csv")
    assert message in str(error.value)


def test_masked_points_are_not_observed(tmp_path: Path) -> None:
    """In a model of a sea, coastal places are interpolated from the sea, places on land are refused, and fields omit land."""
    model = make_model(tmp_path)
    loaded = load_model(model)
    mask = np.ones((1, 8, 16), dtype=bool)
    mask[0, :, 5:9] = False
    from dataclasses import replace

    from piadm_hpc.data.normalise import Normalisation

    assert isinstance(loaded.normalisation, Normalisation)
    sea = replace(loaded, normalisation=replace(loaded.normalisation, mask=mask))
    (tmp_path / "coast.csv").write_text("lat,lon,value,std\n0,105,280,1\n")
    seen, _ = encode(read_observations(tmp_path / "coast.csv", ["tas"]), sea)
    assert seen.rows.to_dense().sum() == pytest.approx(1) and set((seen.rows.indices()[1] % 16).tolist()) == {4}
    (tmp_path / "land.csv").write_text("lat,lon,value,std\n0,140,280,1\n10,10,280,1\n")
    with pytest.raises(ValueError, match=r"where the model has no data \(masked\): row 1"):
        encode(read_observations(tmp_path / "land.csv", ["tas"]), sea)
    fields(tmp_path / "fine.nc")
    left, table = encode(read_observations(tmp_path / "fine.nc", ["tas"], std=0.1), sea)
    assert len(left) == len(table) == 126 - 8 * 4


RUN = {"samples": 40, "output": {"batch": 20}, "grid": {"steps": 8}, "solver": {"tol": 1e-3}}


def test_a_run_given_observations(model: Path, tmp_path: Path) -> None:
    """Its samples have the posterior's moments; its folder keeps the observations, refuses others, and passes `verify`."""
    table = stations(tmp_path / "stations.csv", 10)
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", **RUN)
    report = call("sample", config, "--observations", tmp_path / "stations.csv", "--set", "compute.precision=float64")
    assert report["code"] == 0, report
    observations, loaded = encoded(model, tmp_path / "stations.csv")
    reference = loaded.reference
    mean, covariance = closed_form(reference.mean, dense(reference), observations)
    with open_run(tmp_path / "run") as samples:
        states = loaded.encode({"tas": samples["tas"].values}).flatten(1).to(torch.float64)
        assert int(samples["rounds"].max()) <= 2 and bool(samples["converged"].all())
    deviation = torch.sqrt(covariance.diagonal())
    assert float(((states.mean(0) - mean) / deviation).square().mean().sqrt()) < 3 / np.sqrt(40)
    assert float((states.var(0) / deviation**2).mean()) == pytest.approx(1, abs=0.2)
    assert read_table(tmp_path / "run" / "observations.nc")["value"] == pytest.approx(table["value"].to_numpy())

    # other observations are refused; the same ones under another name are not
    stations(tmp_path / "other.csv", 10, std=0.31)
    refused = call("sample", config, "--observations", tmp_path / "other.csv", "--set", "compute.precision=float64")
    assert refused["code"] == 1 and "observations.sha256" in refused["err"]
    (tmp_path / "stations.csv").rename(tmp_path / "moved.csv")
    moved = call("sample", config, "--observations", tmp_path / "moved.csv", "--set", "compute.precision=float64")
    assert moved["code"] == 0, moved

    generator = np.random.default_rng(7)
    withheld = pd.DataFrame(
        {"lat": generator.uniform(-60, 60, 30), "lon": generator.uniform(0, 360, 30), "value": 280.0, "std": 4.0}
    )
    withheld.to_csv(tmp_path / "withheld.csv", index=False)
    verified = call("verify", tmp_path / "run", "--withheld", tmp_path / "withheld.csv")
    assert verified["code"] == 0, verified
    assert "Withheld observations" in verified["out"] and "optimal interpolation" in verified["out"]
    record = json.loads((tmp_path / "run" / "report" / "verify.json").read_text())
    found, best = (record["withheld"][name] for name in ("samples", "optimal_interpolation"))
    assert found["fair_crps"] == pytest.approx(best["fair_crps"], rel=0.25)
    assert set(found) >= {"coverage_50", "coverage_90", "spread_over_skill", "rank_p_value", "rank_histogram"}
    assert record["given"]["observations"] == 10
    assert "<img" in (tmp_path / "run" / "report" / "verify.html").read_text()


def test_a_field_with_errors_at_every_point_is_the_wiener_filters(model: Path, tmp_path: Path) -> None:
    """By factors and by conjugate gradients, a denoised Gaussian field has the mean and variances of the Wiener filter."""
    loaded = load_model(model)
    reference = loaded.reference
    white = torch.randn(1, *reference.event_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = reference.draw(white, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    noisy = loaded.decode(truth)["tas"][0] + np.random.default_rng(2).normal(size=(8, 16))
    coordinates = {"lat": ("lat", LAT8, {"units": "degrees_north"}), "lon": ("lon", LON16, {"units": "degrees_east"})}
    xr.Dataset({"tas": (("lat", "lon"), noisy, {"units": "K"})}, coordinates).to_netcdf(tmp_path / "noisy.nc")
    observations, _ = encoded(model, tmp_path / "noisy.nc", std=1.0)
    mean, covariance = closed_form(reference.mean, dense(reference), observations)
    deviation = torch.sqrt(covariance.diagonal())
    for name, dense_systems in (("factors", 2000), ("iterations", 100)):
        run = RunConfig(
            model=str(model), samples=40, out=str(tmp_path / name), compute={"precision": "float64"}, output={"batch": 40},
            grid={"steps": 8}, observations={"file": str(tmp_path / "noisy.nc"), "std": 1.0},
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conditioned, "DENSE", dense_systems)
            samples = piadm_hpc.sample(run)
        states = loaded.encode({"tas": samples["tas"].values}).flatten(1).to(torch.float64)
        assert int(samples["rounds"].max()) <= 2 and len(observations) == 128
        assert float(((states.mean(0) - mean) / deviation).square().mean().sqrt()) < 3 / np.sqrt(40)
        assert float((states.var(0) / deviation**2).mean()) == pytest.approx(1, abs=0.2)


def test_variables_that_the_model_transforms_are_observed_as_values(tmp_path: Path) -> None:
    """If errors are small, observing values is equivalent to observing their logarithms with relative errors."""
    waves = (
        0.5
        * np.random.default_rng(0).normal(size=(80, 3, 1, 1))
        * np.stack([np.cos(np.deg2rad(k * LON16 + 40 * k)) * np.cos(np.deg2rad(LAT8))[:, None] for k in (1, 2, 3)])
    )
    values = np.exp(waves.sum(1) + 0.1 * np.random.default_rng(1).normal(size=(80, 8, 16)))
    dims = {"lat": ("lat", LAT8, {"units": "degrees_north"}), "lon": ("lon", LON16, {"units": "degrees_east"})}
    xr.Dataset({"pr": (("time", "lat", "lon"), values, {"units": "mm/day"})}, dims).to_netcdf(tmp_path / "fields.nc")
    data = {"files": ["fields.nc"], "variables": ["pr"], "transforms": {"pr": "log"}, "allow_outliers": ["pr"]}
    record: dict[str, Any] = {"name": "m", "output": str(tmp_path / "m"), "network": "none", "data": data}
    folder = piadm_hpc.train({**record, "reference": {"basis": "eof", "rank": 3}}, root=tmp_path, report=lambda line: None)
    model, truth = load_model(folder), values[-1]
    rows, columns = np.array([2, 3, 4, 5]), np.array([1, 6, 10, 14])
    seen = truth[rows, columns]
    table = pd.DataFrame({"lat": LAT8[rows], "lon": LON16[columns], "value": seen, "std": 0.02 * seen, "units": "mm/day"})
    table.to_csv(tmp_path / "gauges.csv", index=False)
    run = RunConfig(
        model=str(folder), samples=40, out=str(tmp_path / "run"), observations={"file": str(tmp_path / "gauges.csv")},
        compute={"precision": "float64"}, output={"batch": 40}, grid={"steps": 10}, solver={"tol": 1e-2},
    )  # fmt: skip
    with piadm_hpc.sample(run) as samples:
        drawn = samples["pr"].values
        assert int(samples["rounds"].median()) <= 6 and float(drawn.min()) > 0
    encoded_states = model.encode({"pr": drawn}).flatten(1).to(torch.float64)
    mean, scale = (np.asarray(part).reshape(8, 16) for part in (model.normalisation.mean, model.normalisation.scale))
    places = torch.from_numpy(rows * 16 + columns)
    pick = torch.eye(128, dtype=torch.float64)[places]
    wanted = torch.from_numpy((np.log(seen) - mean[rows, columns]) / scale[rows, columns])
    observations = LinearObservations(
        wanted, pick.to_sparse().coalesce(), torch.from_numpy(0.02 / scale[rows, columns]),
        torch.full((4,), -1), torch.zeros(4, dtype=torch.float64),
    )  # fmt: skip
    centre, covariance = closed_form(model.reference.mean, dense(model.reference), observations)
    deviation = torch.sqrt(covariance.diagonal())
    assert float(((encoded_states.mean(0) - centre) / deviation).square().mean().sqrt()) < 3 / np.sqrt(40)
    assert float((encoded_states.var(0) / deviation**2).mean()) == pytest.approx(1, abs=0.2)


def test_members_do_not_depend_on_ranks_batches_or_who_else_is_drawn(model: Path, tmp_path: Path) -> None:
    stations(tmp_path / "stations.csv", 10)
    whole = write_config(tmp_path / "run.toml", model, tmp_path / "whole", samples=6, output={"batch": 3})
    given = ["--observations", tmp_path / "stations.csv", "--set", "compute.precision=float64"]
    assert call("sample", whole, *given)["code"] == 0
    done, reports = on_ranks(
        2,
        tmp_path / "ranks",
        [
            {"args": ["sample", whole, *given, "--set", f"out={tmp_path / 'ranks2'}", "--time-ranks", 2]},
            {"args": ["sample", whole, *given, "--set", f"out={tmp_path / 'some'}", "--only", "4,1", "--model-batch", 3]},
        ],
    )
    assert done.returncode == 0 and all(report["code"] == 0 for rank in reports for report in rank), (done, reports)
    with open_run(tmp_path / "whole") as one, open_run(tmp_path / "ranks2") as other, open_run(tmp_path / "some") as some:
        np.testing.assert_allclose(other["tas"].values, one["tas"].values, rtol=0, atol=2e-4)
        np.testing.assert_allclose(some["tas"].values, one["tas"].sel(realization=[1, 4]).values, rtol=0, atol=2e-4)


def test_bad_observations_are_one_message(model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", **RUN)
    assert "no such file" in one_line(call("sample", config, "--observations", tmp_path / "none.csv"), 2)
    stations(tmp_path / "celsius.csv", 12, units="", value=7.0)
    message = one_line(call("sample", config, "--observations", tmp_path / "celsius.csv"), 2)
    assert "standard deviations from the model's mean; are they in other units" in message
    stations(tmp_path / "good.csv")
    given = ("--observations", tmp_path / "good.csv")
    message = one_line(call("sample", config, *given, "--set", "observations.absolute=true"), 2)
    assert "the model is not one of anomalies" in message
    message = one_line(call("sample", config, *given, "--set", "observations.score=kalmann"), 2)
    assert "observations.score: must be" in message and "did you mean 'kalman'?" in message
    message = one_line(call("sample", config, *given, "--density", "--set", "observations.score=mmps"), 2)
    assert "the score 'mmps' has no derivative for densities" in message
    assert "drawn without observations" in one_line(_verified(tmp_path, model), 2)


def test_a_plan_counts_the_factors(model: Path, tmp_path: Path) -> None:
    stations(tmp_path / "stations.csv", 12)
    config = RunConfig(model=str(model), samples=2, grid={"steps": 8}, observations={"file": str(tmp_path / "stations.csv")})
    assert "12 of " in str(plan(config)) and "factors of 9 noise levels, 0.0 MB" in str(plan(config))
    run = resolve(config, load_model(model))
    assert run.given is not None and run.given.posterior.update is not None
    run.finished(run.sampler.draw([0, 1]).x)
    factors = run.given.posterior.update._factors.values()
    memory = sum(factor.nbytes for factor in factors)
    assert memory == run.given.posterior.update.factor_bytes(len(factors)) and len(factors) <= 9


def _verified(folder: Path, model: Path) -> dict[str, Any]:
    config = write_config(folder / "plain.toml", model, folder / "plain", samples=2, grid={"steps": 8})
    assert call("sample", config)["code"] == 0
    return call("verify", folder / "plain", "--withheld", folder / "good.csv")


def test_the_mean_of_all_points_by_a_function(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of the fields is a plug-in, and the samples agree with its observed value."""
    (tmp_path / "observing.py").write_text(
        "def warmest(model):\n    return lambda fields: fields['tas'].flatten(1).logsumexp(1, keepdim=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "values.csv").write_text("value,std\n296.0,0.1\n")
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", samples=4, output={"batch": 4}, grid={"steps": 12})
    given = ("--observations", tmp_path / "values.csv", "--set", "observations.operator=observing:warmest")
    report = call("sample", config, *given, "--set", "compute.precision=float64", "--set", "solver.tol=1e-2")
    assert report["code"] in (0, 3), report
    with open_run(tmp_path / "run") as samples:
        seen = torch.from_numpy(samples["tas"].values.astype(np.float64)).flatten(1).logsumexp(1)
    assert float((seen - 296).abs().max()) < 1


def test_distances_and_angles_of_a_molecule(tmp_path: Path) -> None:
    """The end-to-end distance of the shipped dipeptide is usually 0.67 +- 0.09 nm; another one and an angle are observed."""
    (tmp_path / "nmr.csv").write_text("atoms,value,std,units\n1 18,7.6,0.2,angstrom\n6-8-14,112,4,degree\n")
    config = RunConfig(model="alanine-dipeptide", chain={"eta": 0.0}, observations={"file": str(tmp_path / "nmr.csv")})
    molecule = load_model("alanine-dipeptide")
    run = resolve(config, molecule)
    solution = run.sampler.draw(list(range(8)))
    positions = molecule.decode(run.finished(solution.x))["coordinates"].astype(np.float64)
    assert bool(solution.converged.all())
    distance = np.linalg.norm(positions[:, 1] - positions[:, 18], axis=1)
    one, other = (positions[:, k] - positions[:, 8] for k in (6, 14))
    angle = np.rad2deg(np.arccos((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)))
    assert np.abs(distance - 0.76).max() < 0.08
    assert run.given is not None
    seen = run.given.posterior.observations.apply(run.finished(solution.x).flatten(1).to(torch.float64)).numpy()
    np.testing.assert_allclose(seen, np.stack([distance, angle], 1), rtol=1e-4)
    (tmp_path / "bad.csv").write_text("atoms,value,std,units\n1 22,7.6,0.2,angstrom\n1 1,1,1,nm\nCA,1,1,nm\n1 2,1,1,K\n")
    with pytest.raises(ValueError, match=r"from 0 to 21: row 1, row 2, row 3; value is in 'K', .*\(row 4\)"):
        resolve(config.replace(observations={"file": str(tmp_path / "bad.csv")}), molecule)


def test_groups_of_atoms_are_observed_as_an_overhauser_effect(tmp_path: Path) -> None:
    """r^-6 is averaged over the pairs; groups of one atom give plain distances, and angles have no groups."""
    (tmp_path / "noe.csv").write_text("atoms,value,std\n1/2/3 5/6,0.4,0.05\n0-7,0.5,0.1\n0 4 7,90,5\n")
    table = read_observations(tmp_path / "noe.csv", ["coordinates"], placed=False)
    geometry, values, _ = geometry_of(table, 8)
    positions = torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = torch.stack([(positions[:, i] - positions[:, j]).norm(dim=1) for i in (1, 2, 3) for j in (5, 6)])
    found = geometry(positions)
    torch.testing.assert_close(found[:, 0], (pairs**-6).mean(0) ** (-1 / 6))
    torch.testing.assert_close(found[:, 1], (positions[:, 0] - positions[:, 7]).norm(dim=1))
    assert values.tolist() == [0.4, 0.5, 90.0]
    (tmp_path / "bad.csv").write_text("atoms,value,std\n1/1 2,1,1\n1/2 3 4,1,1\n1/2 2,1,1\n1/9 2,1,1\n1/2 3,1,1\n")
    with pytest.raises(ValueError, match=r"indices from 0 to 7: row 1, row 2, row 3, row 4$"):
        geometry_of(read_observations(tmp_path / "bad.csv", ["coordinates"], placed=False), 8)
