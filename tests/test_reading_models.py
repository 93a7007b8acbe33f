"""`report`, `verify`, `reference` and `tune` read files as `train` does, on the grid and in the units of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from gridded import LAT, LON, bare, gaussian_model, temperatures, with_values
from helpers import call, one_line, write_config

from piadm_hpc.analysis.comparison import fields_like
from piadm_hpc.models.card import load_model
from piadm_hpc.models.target import states_like
from piadm_hpc.store.arrays import read_arrays, write_arrays

OTHER = temperatures(24, seed=7, start="2010-01-01")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of the fields of one file and of their anomalies from the mean and from the months, and a run of the first."""
    folder = tmp_path_factory.mktemp("models")
    temperatures().to_netcdf(folder / "a.nc")
    for anomaly in ("none", "mean", "monthly"):
        gaussian_model(folder, name=anomaly, data={"anomaly": anomaly}).rename(folder / anomaly)
    config = write_config(folder / "run.toml", folder / "none", folder / "run", samples=4)
    assert call("sample", config)["code"] == 0
    return folder


def like(models: Path, name: str, dataset: xr.Dataset, tmp_path: Path) -> np.ndarray:
    bare(dataset, tmp_path / "real.nc")
    return fields_like(models / name, tmp_path / "real.nc").fields["tas"]


def anomalies(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean, or the monthly means, of the training file, and the anomalies of OTHER from them."""
    trained = temperatures().tas
    if kind == "mean":
        return trained.values.mean(0)[None], OTHER.tas.values - trained.values.mean(0)
    clim = trained.groupby("time.month").mean().values
    return clim, OTHER.tas.values - clim[OTHER.time.dt.month.values - 1]


# --- one reader ------------------------------------------------------------------------------------------------------------


def commands(models: Path, file: Path, out: Path) -> list[tuple[object, ...]]:
    tune = ("tune", models / "run.toml", "--batch", 2, "--by", "mmd", "--set", "grid.steps=3", "--against", file)
    return [
        ("report", models / "run", "--against", file),
        ("verify", models / "run", "--against", file),
        ("verify", models / "run", "--training", file),
        ("reference", models / "none", "--data", file, "--out", out / "reference.h5"),
        tune,
    ]


def test_every_command_reports_the_same_mistakes(models: Path, tmp_path: Path) -> None:
    values = OTHER.tas.values.copy()
    values[3, 2, 2] = -9999
    wrong = {
        "sentinel.nc": with_values(OTHER, values),
        "levels.nc": xr.concat(
            [OTHER, OTHER + 1], xr.DataArray([850.0, 500.0], dims="lev", name="lev"), combine_attrs="override"
        ),
        "units.nc": with_values(OTHER, OTHER.tas.values, units="m s-1"),
        "coarse.nc": OTHER.isel(lat=slice(None, None, 2)),
        "anomalies.nc": with_values(OTHER, OTHER.tas.values - OTHER.tas.values.mean(0)),
    }
    words = {
        "sentinel.nc": "1 values of -9999, first at time 3, lat 2, lon 2",
        "levels.nc": "tas has a further dimension 'lev' of 2 values",
        "units.nc": "tas is in 'm s-1', which cannot be converted to 'K'",
        "coarse.nc": "its lat (3 values) differs from the grid's (6 values",
        "anomalies.nc": "one holds anomalies or other units",
    }
    for name, dataset in wrong.items():
        bare(dataset, tmp_path / name)
        for command in commands(models, tmp_path / name, tmp_path):
            assert words[name] in one_line(call(*command), 2), (name, command[0])


def turned(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(lat=slice(None, None, -1))


def west(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(lon=("lon", (LON + 180) % 360 - 180, dataset.lon.attrs)).sortby("lon")


def cyclic(dataset: xr.Dataset) -> xr.Dataset:
    return xr.concat([dataset, dataset.isel(lon=[0]).assign_coords(lon=[360.0])], "lon")


def finer(dataset: xr.Dataset) -> xr.Dataset:
    """Insert rows between those of the model, which reading must omit."""
    return dataset.reindex(lat=np.linspace(-75, 75, 11), method="nearest", tolerance=15.1).assign_coords(
        lat=("lat", np.linspace(-75, 75, 11), dataset.lat.attrs)
    )


def celsius(dataset: xr.Dataset) -> xr.Dataset:
    return with_values(dataset, dataset.tas.values - 273.15, units="degC")


def members(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(time=np.arange(24)).rename(time="number")


@pytest.mark.parametrize("change", [turned, west, cyclic, finer, celsius, members])
def test_files_are_brought_to_the_models_grid_and_units(models: Path, tmp_path: Path, change: Any) -> None:
    np.testing.assert_allclose(like(models, "none", change(OTHER), tmp_path), OTHER.tas.values, atol=1e-3)


def test_gaps_are_left_out_as_in_training(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = OTHER.tas.values.copy()
    values[7, 3, 3] = np.nan
    assert len(like(models, "none", with_values(OTHER, values), tmp_path)) == 23
    assert "1 of 24 samples have gaps beyond the static mask" in caplog.text
    values[:, 1:3, 3:6] = np.nan
    fields = like(models, "none", with_values(OTHER, values), tmp_path)
    assert np.isnan(fields[:, 1:3, 3:6]).all() and np.isfinite(fields).sum() == 23 * (72 - 6)
    with pytest.raises(ValueError, match=r"real.nc: 6 points of the model have no data; none needs tas on its own grid"):
        states_like(models / "none", load_model(models / "none"), tmp_path / "real.nc")


def test_a_glob_is_read_as_one(models: Path, tmp_path: Path) -> None:
    OTHER.isel(time=slice(12, 24)).to_netcdf(tmp_path / "year_1.nc")
    OTHER.isel(time=slice(0, 12)).to_netcdf(tmp_path / "year_2.nc")
    found = fields_like(models / "none", str(tmp_path / "year_*.nc")).fields["tas"]
    np.testing.assert_allclose(found, OTHER.tas.values, atol=1e-4)


def test_of_many_fields_evenly_spaced_ones_are_read(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piadm_hpc.analysis.comparison.MAX_BYTES", 8 * 72 * 6)
    found = like(models, "none", OTHER, tmp_path)
    np.testing.assert_allclose(found, OTHER.tas.values[[0, 5, 9, 14, 18, 23]], atol=1e-4)


# --- anomalies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "monthly"])
@pytest.mark.parametrize("change", [lambda dataset: dataset, celsius, turned])
def test_the_models_climatology_is_removed_from_absolute_fields(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, change: Any
) -> None:
    found = like(models, kind, change(OTHER), tmp_path)
    np.testing.assert_allclose(found, anomalies(kind)[1], atol=2e-3)
    assert "the model's climatology is subtracted from tas" in caplog.text


@pytest.mark.parametrize("kind", ["mean", "monthly"])
@pytest.mark.parametrize("attrs", [{}, {"units": "degC"}, {"long_name": "temperature anomaly", "units": "degC"}])
def test_anomalies_are_taken_as_they_are(models: Path, tmp_path: Path, kind: str, attrs: dict) -> None:
    expected = anomalies(kind)[1]
    found = like(models, kind, with_values(OTHER, expected, **attrs), tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_cannot_be_told_is_refused(models: Path, tmp_path: Path) -> None:
    undated = OTHER.assign_coords(time=np.arange(24))
    with pytest.raises(ValueError, match=r"holds absolute values, .*the file no months \(time has no units\)|time has no units"):
        like(models, "monthly", undated, tmp_path)
    half = with_values(OTHER, OTHER.tas.values - 0.5 * temperatures().tas.values.mean(0))
    with pytest.raises(ValueError, match="does not tell whether it holds anomalies or absolute values; write 'anomaly'"):
        like(models, "mean", half, tmp_path)


@pytest.mark.parametrize("kind", ["mean", "monthly"])
def test_absolute_values_in_units_that_look_like_anomalies_are_refused(models: Path, tmp_path: Path, kind: str) -> None:
    """Degrees Celsius that are labelled kelvin lie nearer to zero than to the climatology, and are no anomalies all the same."""
    mislabelled = with_values(OTHER, OTHER.tas.values - 273.15, units="K")
    with pytest.raises(ValueError, match="holds absolute values, and the model anomalies; subtract the mean first"):
        like(models, kind, mislabelled, tmp_path)


def test_models_that_did_not_keep_their_mean_refuse_absolute_fields(models: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for path in (models / "mean").iterdir():
        (tmp_path / "old" / path.name).write_bytes(path.read_bytes())
    arrays, attrs = read_arrays(tmp_path / "old" / "reference.h5")
    write_arrays(tmp_path / "old" / "reference.h5", {k: v for k, v in arrays.items() if k != "climatology"}, attrs)
    with pytest.raises(ValueError, match="holds absolute values, and the model anomalies; subtract the mean first"):
        like(tmp_path, "old", OTHER, tmp_path)
    expected = anomalies("mean")[1]
    np.testing.assert_allclose(like(tmp_path, "old", with_values(OTHER, expected), tmp_path), expected, atol=1e-4)


def test_anomalies_and_absolute_fields_are_not_trained_on_together(models: Path, tmp_path: Path) -> None:
    OTHER.to_netcdf(tmp_path / "a.nc")
    for attrs in ({}, {"long_name": "temperature anomaly"}):
        bare(with_values(temperatures(seed=3), anomalies("monthly")[1][np.arange(36) % 24], **attrs), tmp_path / "b.nc")
        with pytest.raises(ValueError, match=r"b.nc: the mean of tas is .* one holds anomalies or other units"):
            gaussian_model(tmp_path, data={"files": ["a.nc", "b.nc"]})


def test_the_report_of_a_model_of_anomalies_is_one_of_anomalies(models: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.toml", models / "monthly", tmp_path / "run", samples=4)
    assert call("sample", config)["code"] == 0
    assert call("report", tmp_path / "run", "--against", models / "a.nc")["code"] == 0
    scores = json.loads((tmp_path / "run" / "report.json").read_text())["scores"]["tas"]["scores"]
    assert abs(scores["global_mean"]["reference"]) < 0.01, "the training fields' anomalies have no mean"


def test_the_recipe_of_the_model_reads_files_like_its_own(tmp_path: Path) -> None:
    """Levels are selected, sentinels masked and names changed as in training; files in the form of samples are read as well."""
    levels = xr.DataArray([850.0, 500.0], dims="lev", name="lev")
    raw = xr.concat([temperatures().tas, temperatures().tas + 30], levels).to_dataset(name="t")
    raw["t"].attrs = temperatures().tas.attrs
    raw = raw.where(np.abs(raw.lat - LAT[2]) + raw.lon > 1, -999).transpose("time", "lev", "lat", "lon")
    raw.to_netcdf(tmp_path / "a.nc", encoding={"t": {"_FillValue": None}})
    keys = {"rename": {"t": "tas"}, "select": {"lev": 850}, "missing_values": [-999]}
    model = gaussian_model(tmp_path, data=keys)
    found = fields_like(model, tmp_path / "a.nc").fields["tas"]
    expected = temperatures().tas.values
    assert np.isnan(found[:, 2, 0]).all() and np.isfinite(found).sum() == 36 * 71
    np.testing.assert_allclose(np.nan_to_num(found), np.where(np.isfinite(found), expected, 0), atol=1e-3)
    plain = temperatures(seed=4)
    plain.to_netcdf(tmp_path / "plain.nc")
    assert len(fields_like(model, tmp_path / "plain.nc")) == 36
