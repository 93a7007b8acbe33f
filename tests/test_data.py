"""Reading gridded files: formats, splits, standardisation and gaps, and the mistakes that files can have."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from pydantic import ValidationError

from piadm_hpc.data.gridded import DataConfig, GriddedData, read_fields
from piadm_hpc.theory.bases import SphericalHarmonics

LAT, LON, YEARS = np.linspace(75, -75, 6), np.arange(8) * 45.0, 36


def make_dataset(seed: int = 0, *, months: bool = True) -> xr.Dataset:
    generator = np.random.default_rng(seed)
    fields = 280 + 3 * generator.normal(size=(YEARS, 6, 8)) * (1 + np.arange(6))[:, None]
    time = np.datetime64("2001-01-15") + np.arange(YEARS) * np.timedelta64(30, "D") if months else np.arange(YEARS)
    data = xr.Dataset({"tas": (("time", "lat", "lon"), fields.astype(np.float32), {"units": "K", "long_name": "temperature"})})
    data["pr"] = (("time", "lat", "lon"), generator.gamma(2.0, size=fields.shape).astype(np.float32), {"units": "mm/day"})
    data = data.assign_coords(time=time, lat=LAT, lon=LON)
    data["lat"].attrs["units"], data["lon"].attrs["units"] = "degrees_north", "degrees_east"
    return data


def read(tmp_path: Path, **options: Any) -> GriddedData:
    return read_fields(DataConfig(**{"files": ("*.nc",), "variables": ("tas",), **options}), tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_dataset().to_netcdf(tmp_path / "a.nc")
    return tmp_path


def refuse(tmp_path: Path, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **options)


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["netcdf4", "netcdf3", "zarr"])
def test_formats_give_the_same_states(tmp_path: Path, kind: str) -> None:
    dataset = make_dataset()
    if kind == "zarr":
        dataset.to_zarr(tmp_path / "a.zarr")
    else:
        dataset.to_netcdf(tmp_path / "a.nc", format={"netcdf4": "NETCDF4", "netcdf3": "NETCDF3_CLASSIC"}[kind])
    data = read(tmp_path, files=("a.*",))
    values = dataset["tas"].values
    expected = (values - values.mean(0)) / values.std(0)
    assert data.train.shape == (YEARS, 6, 8) and data.train.dtype == torch.float32
    assert np.allclose(data.train.numpy(), expected, atol=1e-4)
    assert data.variables[0].attrs == {"units": "K", "long_name": "temperature"}
    assert data.coordinates["lat"].attrs == {"units": "degrees_north", "standard_name": "latitude"}


def test_plain_hdf5_has_numbered_dimensions(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["field"] = np.random.default_rng(0).normal(size=(12, 6, 8))
    data = read(
        tmp_path,
        files=("plain.h5",),
        variables=("field",),
        sample_dims=("phony_dim_0",),
        spatial_dims=("phony_dim_1", "phony_dim_2"),
    )
    assert data.train.shape == (12, 6, 8)
    assert np.array_equal(data.coordinates["phony_dim_1"].values, np.arange(6))


def test_states_decode_to_the_fields_they_came_from(folder: Path) -> None:
    data = read(folder, variables=("tas", "pr"))
    source = make_dataset()
    assert data.train.shape == (YEARS, 2, 6, 8)
    decoded = data.normalisation.decode(data.train)
    assert np.allclose(decoded["tas"], source["tas"].values, atol=1e-3)
    assert np.allclose(decoded["pr"], source["pr"].values, atol=1e-4)
    assert torch.allclose(data.normalisation.encode(decoded), data.train, atol=1e-4)


def test_members_are_concatenated_and_held_out_by_file(tmp_path: Path) -> None:
    for k in range(4):
        make_dataset(k).to_netcdf(tmp_path / f"member{k}.nc")
    data = read(tmp_path, validation_files=("member2*",), test_files=("member3.nc",))
    assert (len(data.train), len(data.validation), len(data.test)) == (2 * YEARS, YEARS, YEARS)
    assert np.allclose(data.normalisation.decode(data.test)["tas"], make_dataset(3)["tas"].values, atol=1e-3)
    assert float(data.train.mean(0).abs().max()) < 1e-4, "statistics are those of the training part alone"
    assert data.files == ("member0.nc", "member1.nc", "member2.nc", "member3.nc")


def test_the_last_fraction_is_held_out(folder: Path) -> None:
    data = read(folder, validation_fraction=0.25, test_fraction=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 9, 9)
    assert np.allclose(data.normalisation.decode(data.test)["tas"], make_dataset()["tas"].values[27:], atol=1e-3)


def test_monthly_climatology_is_removed(tmp_path: Path) -> None:
    dataset = make_dataset()
    season = 20 * np.sin(2 * np.pi * dataset["time"].dt.month.values / 12)
    dataset["tas"] = dataset["tas"] + season[:, None, None].astype(np.float32)
    dataset.to_netcdf(tmp_path / "a.nc")
    data = read(tmp_path, anomaly="monthly")
    months = dataset["time"].dt.month.values
    decoded = data.normalisation.decode(data.train)["tas"]
    assert data.climatology is not None and data.climatology.shape == (12, 1, 6, 8)
    assert np.abs(decoded[months == 3].mean(0)).max() < 1e-3
    assert np.allclose(decoded + data.climatology[months - 1, 0], dataset["tas"].values, atol=1e-3)
    assert "monthly climatology" in data.variables[0].attrs["long_name"]


def test_time_mean_is_removed_for_anomalies(folder: Path) -> None:
    data = read(folder, anomaly="mean")
    assert np.abs(data.normalisation.decode(data.train)["tas"].mean(0)).max() < 1e-3


def test_sample_dimensions_are_stacked(tmp_path: Path) -> None:
    both = xr.concat([make_dataset(k) for k in range(3)], "member")
    both.to_netcdf(tmp_path / "a.nc")
    data = read(tmp_path, sample_dims=("member", "time"), anomaly="monthly")
    assert len(data.train) == 3 * YEARS


def test_a_level_is_selected_and_attributes_added(tmp_path: Path) -> None:
    levels = xr.concat([make_dataset(k) for k in range(2)], "lev").assign_coords(lev=[850.0, 500.0])
    levels.to_netcdf(tmp_path / "a.nc")
    data = read(tmp_path, select={"lev": 500.2}, attributes={"tas": {"standard_name": "air_temperature"}})
    assert np.allclose(data.normalisation.decode(data.train)["tas"], make_dataset(1)["tas"].values, atol=1e-3)
    assert data.variables[0].attrs["standard_name"] == "air_temperature"


def test_quiet_points_are_not_blown_up(tmp_path: Path) -> None:
    dataset = make_dataset()
    dataset["tas"].values[:, 0, 0] = 280 + 1e-4 * np.arange(YEARS)
    dataset.to_netcdf(tmp_path / "a.nc")
    scale = read(tmp_path, scale_floor=0.2).normalisation.scale
    assert scale.min() >= 0.19 * np.sqrt((scale**2).mean())
    assert len(np.unique(read(tmp_path, scale="global").normalisation.scale)) == 1


def test_area_weights_make_white_noise_white_on_the_sphere(folder: Path) -> None:
    plain, weighted = read(folder, scale="global"), read(folder, scale="global", area_weights=True)
    root = SphericalHarmonics(6, 8, 2, LAT.tolist()).sqrt_weights.float()
    assert torch.allclose(weighted.train, plain.train * root[:, None], atol=1e-5)


# --- gaps ------------------------------------------------------------------------------------------------------------


def test_land_becomes_a_mask_and_other_gaps_leave_samples_out(tmp_path: Path) -> None:
    dataset = make_dataset()
    dataset["tas"].values[:, 1:3, 2:4] = np.nan
    dataset["tas"].values[5, 0, 0] = np.nan
    dataset.to_netcdf(tmp_path / "a.nc")
    data = read(tmp_path)
    assert data.excluded == 1 and len(data.train) == YEARS - 1
    assert int((~data.normalisation.mask).sum()) == 4 and data.normalisation.state_mask() is not None
    assert bool(torch.isfinite(data.train).all()) and float(data.train[:, 1:3, 2:4].abs().max()) == 0
    assert np.isnan(data.normalisation.decode(data.train)["tas"][:, 1:3, 2:4]).all()


def test_fields_without_any_value_are_refused(tmp_path: Path) -> None:
    dataset = make_dataset()
    dataset["tas"].values[:] = np.nan
    dataset.to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "a.nc: tas has no finite value")


def test_gaps_that_move_through_all_samples_are_refused(tmp_path: Path) -> None:
    dataset = make_dataset()
    for k in range(YEARS):
        dataset["tas"].values[k, k // 8, k % 8] = np.nan
    dataset.to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "every sample has gaps of its own.*lower max_missing")


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_missing_files_and_variables_are_named(folder: Path) -> None:
    refuse(folder, r"no file matches nowhere\*\.nc", files=("nowhere*.nc", "a.nc"))
    refuse(folder, "no variable 'tass'; nearest are tas", variables=("tass",))
    refuse(folder, "no variable 'zzz'; there are tas, pr", variables=("zzz",))


def test_dimensions_are_checked(folder: Path) -> None:
    refuse(folder, "tas has no dimension 'member'; it has time, lat, lon", sample_dims=("member",))
    refuse(folder, "(?s)'y'.*'x'", spatial_dims=("y", "x"))
    refuse(folder, "no dimension 'y', 'x'; it has time, lat, lon; name those of a field in spatial_dims", spatial_dims=("y", "x"))
    refuse(folder, "select: no dimension 'lev'", select={"lev": 1.0})


def test_a_further_dimension_is_refused(tmp_path: Path) -> None:
    xr.concat([make_dataset(k) for k in range(2)], "lev").to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "further dimension 'lev'")
    refuse(tmp_path, "'lev' has no coordinate values", select={"lev": 1.0})


def test_text_is_refused(folder: Path) -> None:
    dataset = make_dataset()
    dataset["tas"] = dataset["tas"].astype(str)
    dataset.to_netcdf(folder / "a.nc", mode="w")
    refuse(folder, "tas holds .*, not numbers")


def test_all_broken_files_are_listed(folder: Path) -> None:
    (folder / "b.nc").write_text("not a file")
    make_dataset().isel(lat=slice(3)).to_netcdf(folder / "c.nc")
    refuse(folder, r"(?s)b\.nc: cannot be read as NetCDF.*c\.nc: its lat \(3 values\) differs")


def test_splits_are_checked(folder: Path) -> None:
    refuse(folder, "test_files .* match none of the files read: a.nc", test_files=("b*",))
    refuse(folder, "0 samples are left", test_files=("a*",))
    refuse(folder, r"no training samples in month\(s\)", anomaly="monthly", test_fraction=0.8)
    with pytest.raises(ValidationError, match="not both"):
        DataConfig(files=("a",), variables=("b",), test_files=("c",), test_fraction=0.1)
    with pytest.raises(ValidationError, match="leaves nothing"):
        DataConfig(files=("a",), variables=("b",), validation_fraction=0.6, test_fraction=0.4)


def test_constant_and_undated_fields_are_refused(tmp_path: Path) -> None:
    dataset = make_dataset(months=False)
    dataset["pr"].values[:] = 1.0
    dataset.to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "pr does not vary", variables=("tas", "pr"))
    refuse(tmp_path, "calendar dates", anomaly="monthly")
