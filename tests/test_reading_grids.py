"""Grids, selections, dates and names of files are corrected if there is only one way to do so, and refused otherwise."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import cftime
import netCDF4
import numpy as np
import pytest
import xarray as xr
from gridded import LAT, LON, decoded, gaussian_model, read, temperatures
from helpers import call, one_line, write_config

from piadm_hpc.data.grids import kind_of, why_not_global
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import ReferenceConfig
from piadm_hpc.models.training.fitting import fit_reference
from piadm_hpc.models.training.names import IN_THE_FOLDER
from piadm_hpc.store.arrays import read_arrays

TRUE = temperatures().tas.values


def refuse(folder: Path, words: str, **options: object) -> None:
    with pytest.raises(ValueError, match=words):
        read(folder, **options)


def test_columns_out_of_order_and_levels_without_data_are_told_apart(tmp_path: Path) -> None:
    fields = temperatures()
    fields.isel(lon=[3, 1, 2, 0, *range(4, 12)]).to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "lon is not in order: 0 comes after a whole turn round the globe; sort the columns")
    both = xr.concat([fields.tas, fields.tas - 30], "plev").assign_coords(plev=[850.0, 500.0])
    both[{"time": slice(5, 12), "plev": 1}] = np.nan
    both.transpose("time", "plev", "lat", "lon").to_dataset(name="tas").to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, r"^tas\[1\] is missing at every point in more samples than max_missing allows", levels="plev")
    assert read(tmp_path, levels="plev", max_missing=0.2).train.shape == (29, 2, 6, 12)


# --- grids ---------------------------------------------------------------------------------------------------------------


def radians(dataset: xr.Dataset) -> xr.Dataset:
    lat, lon = (np.deg2rad(dataset[name].values) for name in ("lat", "lon"))
    return dataset.assign_coords(lat=("lat", lat, {"units": "radians"}), lon=("lon", lon, {"units": "radians"}))


def radians_without_units(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(lat=np.deg2rad(LAT), lon=np.deg2rad(LON))


def cyclic(dataset: xr.Dataset) -> xr.Dataset:
    return xr.concat([dataset, dataset.isel(lon=[0]).assign_coords(lon=[360.0])], "lon")


def first_again(dataset: xr.Dataset) -> xr.Dataset:
    return xr.concat([dataset, dataset.isel(lon=[0])], "lon")


def unsorted(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(lon=("lon", np.where(LON > 180, LON - 360, LON), dataset.lon.attrs))


def curvilinear(dataset: xr.Dataset) -> xr.Dataset:
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    plain = dataset.drop_vars(["lat", "lon"])
    return plain.assign_coords(nav_lat=(("lat", "lon"), lat), nav_lon=(("lat", "lon"), lon))


def auxiliary(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_vars(["lat", "lon"]).assign(latitude=("lat", LAT), longitude=("lon", LON))


def called_degrees(dataset: xr.Dataset) -> xr.Dataset:
    turned = radians(dataset)
    return turned.assign_coords({name: (name, turned[name].values, dataset[name].attrs) for name in ("lat", "lon")})


def falling(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(lon=slice(None, None, -1))


def around(dataset: xr.Dataset, first: int, last: int) -> xr.Dataset:
    """Take the columns from `first` to `last`, some of them twice, as ocean models store them."""
    columns = np.arange(first, last)
    return dataset.isel(lon=columns % 12).assign_coords(lon=("lon", 30.0 * columns, dataset.lon.attrs))


def halo_to_the_east(dataset: xr.Dataset) -> xr.Dataset:
    return around(dataset, 0, 14)


def halo_on_both_sides(dataset: xr.Dataset) -> xr.Dataset:
    turned = around(dataset, -1, 13)
    return turned.assign_coords(lon=("lon", turned.lon.values % 360, dataset.lon.attrs))


def without_angles_on_land(dataset: xr.Dataset) -> xr.Dataset:
    found = curvilinear(dataset)
    land = np.zeros((6, 12), bool)
    land[2, 3:5] = True
    return found.assign_coords({name: (("lat", "lon"), np.where(land, np.nan, found[name])) for name in ("nav_lat", "nav_lon")})


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (called_degrees, "converted from radians to degrees"),
        (falling, "lon reversed to rise"),
        (halo_to_the_east, "the last 2 of lon are the first once more"),
        (halo_on_both_sides, "the last 2 of lon are the first once more"),
        (without_angles_on_land, "lat is given by nav_lat"),
        (radians, "converted from radians to degrees"),
        (radians_without_units, "converted from radians to degrees"),
        (cyclic, "a cyclic point"),
        (first_again, "a cyclic point"),
        (unsorted, "shifted to begin at -150"),
        (curvilinear, "lat is given by nav_lat; lon is given by nav_lon"),
        (auxiliary, "lat is given by latitude"),
    ],
)
def test_grids_that_can_be_put_right_in_one_way(tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any, note: str) -> None:
    change(temperatures()).to_netcdf(tmp_path / "a.nc")
    data = read(tmp_path)
    assert note in caplog.text
    np.testing.assert_allclose(data.coordinates["lat"].values, LAT, atol=1e-6)
    lon = data.coordinates["lon"].values
    np.testing.assert_allclose(np.sort(lon % 360), LON, atol=1e-6)
    expected = TRUE[..., [round(value) for value in (lon % 360) / 30]]
    np.testing.assert_allclose(decoded(data), expected, atol=1e-3)
    assert kind_of("lat", data.coordinates["lat"].attrs) == "latitude" and data.wrap


def test_latitudes_a_little_past_the_pole_end_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lat = np.linspace(-90.00001, 90.00001, 6)
    temperatures().assign_coords(lat=("lat", lat, {"units": "degrees_north"})).to_netcdf(tmp_path / "a.nc")
    assert np.abs(read(tmp_path).coordinates["lat"].values).max() == 90 and "reaches past the pole" in caplog.text
    temperatures().assign_coords(lat=("lat", 1.1 * lat, {"units": "degrees_north"})).to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, r"a.nc: lat reaches from -99 to 99; latitudes end at -90 and 90")


def bent(dataset: xr.Dataset) -> xr.Dataset:
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    return dataset.drop_vars(["lat", "lon"]).assign_coords(
        TLAT=(("lat", "lon"), lat + 5 * np.sin(np.deg2rad(lon)), {"units": "degrees_north"}),
        TLON=(("lat", "lon"), lon, {"units": "degrees_east"}),
    )


def without_a_row(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(lat=("lat", np.where(np.arange(6) == 3, np.nan, LAT), dataset.lat.attrs))


def shuffled(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(lat=("lat", LAT[[0, 2, 1, 3, 4, 5]], dataset.lat.attrs))


def in_units(dataset: xr.Dataset, lat: str, lon: str) -> xr.Dataset:
    return dataset.assign_coords(lat=("lat", LAT, {"units": lat}), lon=("lon", LON, {"units": lon}))


def counted_west(dataset: xr.Dataset) -> xr.Dataset:
    return in_units(dataset, "degrees_north", "degrees_west")


def of_a_gradian(dataset: xr.Dataset) -> xr.Dataset:
    return in_units(dataset, "gon", "gon")


def in_millidegrees(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(lon=("lon", 1000 * LON, dataset.lon.attrs))


def other_cyclic(dataset: xr.Dataset) -> xr.Dataset:
    return xr.concat([dataset, dataset.isel(lon=[0]).assign_coords(lon=[360.0]) + 1], "lon", combine_attrs="override")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (bent, "TLAT, TLON are two-dimensional, and rows of 'lat' are not circles of latitude; bring the file to a regular grid"),
        (without_a_row, "lat has 1 values that are not finite, at positions 3"),
        (shuffled, "the values of lat do not rise or fall steadily"),
        (counted_west, "lon is in 'degrees_west'; put it into degrees_east or radians"),
        (of_a_gradian, "lat is in 'gon'; put it into degrees_north or radians; lon is in 'gon'"),
        (in_millidegrees, "lon reaches from 0 to 330000; longitudes go round the globe once"),
        (other_cyclic, "lon has 0 twice, with different values of tas"),
    ],
)
def test_grids_that_cannot_be_put_right_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    change(temperatures()).to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, words)


def test_spatial_dims_that_are_swapped_are_refused(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "'lat' is the latitude; give latitude first", spatial_dims=("lon", "lat"))


def test_files_on_one_grid_may_write_it_differently(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    other = temperatures(seed=1, start="2003-01-01")
    west = (
        other.assign_coords(lon=("lon", (LON + 180) % 360 - 180, other.lon.attrs)).sortby("lon").isel(lat=slice(None, None, -1))
    )
    west.to_netcdf(tmp_path / "b.nc")
    data = read(tmp_path, "a.nc", "b.nc")
    np.testing.assert_allclose(decoded(data)[36:], other.tas.values, atol=1e-3)
    other.isel(lat=slice(3)).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ValueError, match=r"b.nc: its lat \(3 values\) differs from the grid's \(6 values, -75 to 75\)"):
        read(tmp_path, "a.nc", "b.nc")


@pytest.mark.parametrize("part", [{"lat": slice(3, 6)}, {"lon": slice(2, 9)}, {"lat": slice(1, 5)}])
def test_a_regional_grid_is_not_wrapped(tmp_path: Path, caplog: pytest.LogCaptureFixture, part: dict) -> None:
    temperatures().isel(part).to_netcdf(tmp_path / "a.nc")
    assert not read(tmp_path).wrap and "wrap = false is used, since the grid is not global" in caplog.text
    model = load_model(gaussian_model(tmp_path))
    assert model.card["wrap"] is False
    with pytest.raises(ValueError, match=r"'harmonic_eof' needs a global grid with latitudes in degrees, and .* use 'smooth'"):
        gaussian_model(tmp_path, reference={"basis": "harmonic_eof", "split": 2})


@pytest.mark.parametrize("columns", [[10, 11, 0, 1, 2], [0, 1, 2, 10, 11]])
def test_a_region_across_greenwich_stays_in_one_piece(tmp_path: Path, caplog: pytest.LogCaptureFixture, columns: list) -> None:
    """Neighbours in the model are neighbours on the globe, however the file counts longitudes or divides the region."""
    part = temperatures().isel(lon=columns)
    part.to_netcdf(tmp_path / "a.nc")
    data = read(tmp_path)
    assert data.coordinates["lon"].values.tolist() == [-60, -30, 0, 30, 60] and not data.wrap
    np.testing.assert_allclose(decoded(data), TRUE[..., [10, 11, 0, 1, 2]], atol=1e-3)
    assert "lon counted on from -60 to 60" in caplog.text


def test_rows_without_latitudes_have_equal_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    temperatures().drop_vars(["lat", "lon"]).to_netcdf(tmp_path / "a.nc")
    grid = read(tmp_path).coordinates
    assert kind_of("lat", grid["lat"].attrs) is None and not caplog.records
    temperatures().assign_coords(lat=np.arange(6), lon=np.arange(12)).to_netcdf(tmp_path / "a.nc")
    assert kind_of("lat", read(tmp_path).coordinates["lat"].attrs) == "latitude"
    assert "lat and lon count from 0 and name no units; taken as degrees" in caplog.text


def test_what_is_global() -> None:
    assert why_not_global(LAT, LON) is None and why_not_global(LAT[::-1], LON - 180) is None
    assert "latitudes reach from" in str(why_not_global(np.array([-91.0, 0, 91])))
    assert "not from pole to pole" in str(why_not_global(LAT[1:], LON))
    assert "not evenly once round" in str(why_not_global(LAT, LON[:-1]))
    assert "not evenly once round" in str(why_not_global(LAT, np.append(LON, 360)))


def test_a_plane_is_taken_as_it_is(tmp_path: Path) -> None:
    plane = temperatures().rename(lat="y", lon="x")
    plane.assign_coords(y=("y", 1e5 * np.arange(6), {"units": "m"}), x=("x", 1e5 * np.arange(12), {"units": "m"})).to_netcdf(
        tmp_path / "a.nc"
    )
    assert read(tmp_path, spatial_dims=("y", "x")).wrap
    data = {"spatial_dims": ["y", "x"]}
    with pytest.raises(ValueError, match=r"'harmonic_eof' needs a global grid .*it has no latitudes"):
        gaussian_model(tmp_path, data=data, reference={"basis": "harmonic_eof", "split": 2})


def test_harmonic_modes_need_no_held_out_fields(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    model = load_model(gaussian_model(tmp_path, reference={"basis": "harmonic_eof", "split": 3}))
    data = read(tmp_path)
    alone = fit_reference(data.train, data.train[:0], ReferenceConfig(basis="harmonic_eof", split=3), latitudes=LAT.tolist())
    assert np.allclose(alone.spectrum, model.reference.spectrum)
    variance = float(data.train.double().flatten(1).var(0).sum())
    assert float(model.denoiser.degrees @ model.reference.spectrum) == pytest.approx(variance, rel=0.05)


# --- selection -----------------------------------------------------------------------------------------------------------


def on_levels(path: Path, values: list, **attrs: str) -> None:
    """Temperatures on levels, each ten degrees warmer than the one before."""
    levels = xr.DataArray(values, dims="lev", name="lev", attrs=attrs)
    dataset = xr.concat([temperatures().tas + 10 * k for k in range(len(values))], levels).to_dataset(name="tas")
    dataset["tas"].attrs = temperatures().tas.attrs
    dataset.to_netcdf(path)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1000.0, 850.0, 500.0], 850),
        ([1000.0, 850.2, 500.0], 850),
        (["r1", "r2", "r3"], "r2"),
        ([0, 1, 2], 1),
        (["r10", "r1", "r11"], "r1"),
        (list(np.array([0.1, 0.2, 0.3], np.float32)), 0.2),
        ([cftime.DatetimeNoLeap(1990, m, 28) for m in (1, 2, 3)], "1990-02-28"),
        (list(np.array(["1990-10-15", "1990-01-15", "1991-01-15"], "M8[ns]")), "1990-01"),
        ([-1.0, 0.0, 1.0], 0),
        (list(np.array(["1990-01-15", "1990-02-15", "1990-03-15"], "M8[ns]")), "1990-02-15"),
        (list(np.array(["1990-01-15", "1990-02-15", "1990-03-15"], "M8[ns]")), datetime.date(1990, 2, 15)),
    ],
)
def test_one_value_is_selected(tmp_path: Path, values: list, wanted: object) -> None:
    on_levels(tmp_path / "a.nc", values)
    np.testing.assert_allclose(decoded(read(tmp_path, select={"lev": wanted})), TRUE + 10, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "wanted", "words"),
    [
        ([1e5, 8.5e4, 5e4], 500, r"lev has no 500 within 0.1 %; its values \[Pa\] are 100000, 85000, 50000"),
        ([1000.0, 850.0], 500, "lev has no 500 within 0.1 %"),
        ([500.0, 500.0, 850.0], 500, "lev has 500 2 times, at positions 0, 1"),
        (["r1", "r2"], 1, "lev has no 1; its values .* are r1, r2"),
        ([1.0, 2.0], "r1", "lev has no r1, since it holds numbers"),
        (list(np.array(["1990-01-15", "1990-02-15"], "M8[ns]")), 3, "since it holds dates; give one, such as 2000-01-15"),
        (list(np.array(["1990-01-15", "1990-01-16"], "M8[ns]")), "1990-01", "lev has 1990-01 2 times"),
        (list(np.array(["1990-02-15", "1990-11-15"], "M8[ns]")), "1990-1", "lev has no 1990-1; its values are 1990-02-15"),
        ([850.0, 500.0], float("inf"), "lev has no inf within 0.1 %"),
        ([np.nan, 850.0], 500, "lev has no 500 within 0.1 %"),
    ],
)
def test_selections_that_are_not_there_are_refused(tmp_path: Path, values: list, wanted: object, words: str) -> None:
    on_levels(tmp_path / "a.nc", values, **({} if isinstance(values[0], np.datetime64) else {"units": "Pa"}))
    refuse(tmp_path, words, select={"lev": wanted})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"select": {"lat": 15}}, "'lat' is used twice, in spatial_dims and in select"),
        ({"levels": "lon"}, "'lon' is used twice, in spatial_dims and in levels"),
        ({"sample_dims": ("time", "lat")}, "'lat' is used twice, in sample_dims and in spatial_dims"),
        ({"spatial_dims": ("lat", "lat")}, "'lat' is used twice, in spatial_dims and in spatial_dims"),
        ({"select": {"lev": 1}, "levels": {"lev": (1.0,)}}, "'lev' is used twice, in select and in levels"),
        ({"variables": ("tas", "tas")}, "variables names 'tas' twice"),
        ({"stride": 5}, "stride is how far apart sequences begin; give their length, sequence, as well"),
        ({"levels": {"lev": ()}}, "a dimension is named without values"),
    ],
)
def test_a_name_has_one_place_in_a_recipe(tmp_path: Path, keys: dict, words: str) -> None:
    refuse(tmp_path, words, **keys)


def test_samples_are_not_selected_and_levels_are_not_mixed(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "select: 'time' is a dimension of samples", select={"time": 3})
    for name, level, seed in (("a.nc", 500.0, 0), ("b.nc", 850.0, 1)):
        temperatures(seed=seed).expand_dims(lev=[level]).to_netcdf(tmp_path / name)
    with pytest.raises(ValueError, match=r"b.nc: its lev is 850.0, and 500.0 in the first file; name lev in sample_dims"):
        read(tmp_path, "a.nc", "b.nc")


# --- dates ---------------------------------------------------------------------------------------------------------------


def test_samples_are_in_the_order_of_their_dates(tmp_path: Path) -> None:
    """The level rises with time, so the last quarter is the warmest, whatever the files are called or hold first."""
    whole = temperatures(120)
    whole = whole.assign(tas=(whole.tas.dims, whole.tas.values + np.arange(120)[:, None, None], whole.tas.attrs))
    for year in range(10):
        whole.isel(time=slice(12 * year, 12 * year + 12)).to_netcdf(tmp_path / f"year_{year + 1}.nc")
    whole.isel(time=np.random.default_rng(0).permutation(120)).to_netcdf(tmp_path / "shuffled.nc")
    whole.isel(time=slice(None, None, -1)).to_netcdf(tmp_path / "backwards.nc")
    for files in ("year_*.nc", "shuffled.nc", "backwards.nc"):
        data = read(tmp_path, files, test_fraction=0.25)
        test = data.normalisation.decode(data.test)["tas"]
        np.testing.assert_allclose(test, whole.tas.values[90:], atol=1e-2)


def test_undated_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for k in range(12):
        temperatures(4, seed=k).assign_coords(time=np.arange(4)).to_netcdf(tmp_path / f"part_{k}.nc")
    assert read(tmp_path, "part_*.nc").files == tuple(f"part_{k}.nc" for k in range(12))


def test_samples_that_occur_twice_are_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = temperatures(100)
    whole.isel(time=slice(0, 70)).to_netcdf(tmp_path / "a.nc")
    whole.isel(time=slice(60, 100)).to_netcdf(tmp_path / "b.nc")
    assert len(read(tmp_path, "a.nc", "b.nc", "./a.nc").train) == 100
    assert "10 samples (2005-01-01 to 2005-10-01) of a.nc and b.nc occur twice; each is used once" in caplog.text


@pytest.mark.parametrize("dated", [True, False])
def test_test_samples_that_are_trained_on_are_refused(tmp_path: Path, dated: bool) -> None:
    whole = temperatures(40) if dated else temperatures(40).assign_coords(time=np.arange(40))
    whole.to_netcdf(tmp_path / "a.nc")
    whole.isel(time=slice(30, 40)).to_netcdf(tmp_path / "copy.nc")
    with pytest.raises(ValueError, match=r"10 samples.* stand both in a.nc and copy.nc, which are different parts"):
        read(tmp_path, "a.nc", "copy.nc", test_files=("copy.nc",))


def test_members_of_an_ensemble_share_dates_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for k in range(3):
        temperatures(seed=k).to_netcdf(tmp_path / f"member{k}.nc")
    data = read(tmp_path, "member*.nc", test_files=("member2.nc",))
    assert (len(data.train), len(data.test)) == (72, 36)
    assert "36 held-out samples (2000-01-01 to 2002-12-01) have dates that are trained on too" in caplog.text
    part = read(tmp_path, "member*.nc", test_fraction=0.1)  # 11 of 108 is not a whole number of dates per member
    assert (len(part.train), len(part.test)) == (96, 12)


def with_times(path: Path, times: np.ndarray, units: str | None, calendar: str | None = None, **more: object) -> None:
    """Write 36 temperatures with these times, bounds [n, 2] and cell methods."""
    dataset = temperatures().drop_vars("time")
    attrs = {key: value for key, value in (("units", units), ("calendar", calendar)) if value is not None}
    if "bounds" in more:
        dataset["time_bnds"] = (("time", "two"), more["bounds"])
        attrs["bounds"] = "time_bnds"
    dataset = dataset.assign_coords(time=("time", times, attrs))
    dataset["tas"].attrs["cell_methods"] = more.get("cell_methods", "area: mean")
    dataset.to_netcdf(path, encoding={"time": {"_FillValue": None}} if not np.isnan(times).any() else {})


ENDS = np.cumsum(np.tile([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], 3)).astype(float)
MONTHS = np.tile(np.arange(12), 3)


def months_read(folder: Path) -> np.ndarray:
    """Find the month whose climatology was subtracted from each sample, from the seasonal cycle that the file holds."""
    data = read(folder, anomaly="monthly")
    removed = TRUE - decoded(data)
    return np.array([int(np.abs(data.climatology[:, 0] - field).max((1, 2)).argmin()) for field in removed])


@pytest.mark.parametrize(
    "more",
    [
        {"bounds": np.stack([np.append(0, ENDS[:-1]), ENDS], 1)},
        {"cell_methods": "time: mean"},
        {"cell_methods": "area: mean time: maximum (interval: 1 hour)"},
    ],
)
def test_stamps_at_the_ends_of_months_stand_for_the_months_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, more: dict
) -> None:
    with_times(tmp_path / "a.nc", ENDS, "days since 1990-01-01", "noleap", **more)
    assert (months_read(tmp_path) == MONTHS).all() and "labelled by" in caplog.text


def test_stamps_that_do_not_say_what_they_stand_for_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_times(tmp_path / "a.nc", ENDS, "days since 1990-01-01", "noleap")
    assert (months_read(tmp_path) == (MONTHS + 1) % 12).all()
    assert "add bounds or cell_methods = 'time: mean'" in caplog.text


@pytest.mark.parametrize("first", [1, 2, 7])
def test_means_over_months_that_are_no_whole_years_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: int
) -> None:
    times = ENDS[first - 1 :][:36] if first > 1 else np.append(ENDS[:-1], ENDS[-1] + 31)
    times = np.append(times, ENDS[-1] + np.array([31, 59, 90, 120, 151, 181]))[:36]
    with_times(tmp_path / "a.nc", times, "days since 1990-01-01", "noleap", cell_methods="time: mean")
    read(tmp_path, anomaly="monthly")
    assert ("add bounds to the file" in caplog.text) == (first > 1)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (np.zeros((36, 2)), r"time_bnds does not hold time for 36 of 36 samples, .*\(time 31, bounds 0 to 0\)"),
        (24 * np.stack([np.append(0, ENDS[:-1]), ENDS], 1), "time_bnds does not hold time for 35 of 36 samples"),
        (np.full((36, 2), np.nan), "time_bnds is missing for 36 of 36 samples"),
    ],
)
def test_bounds_that_contradict_their_times_are_refused(tmp_path: Path, bounds: np.ndarray, words: str) -> None:
    with_times(tmp_path / "a.nc", ENDS, "days since 1990-01-01", "noleap", bounds=bounds)
    refuse(tmp_path, words)


@pytest.mark.parametrize("sentinel", [-999.0, 1e20, 9.96921e36])
def test_times_that_stand_for_missing_ones_are_named(tmp_path: Path, sentinel: float) -> None:
    times = 30.0 * np.arange(36)
    times[7] = sentinel
    with_times(tmp_path / "a.nc", times, "days since 1990-01-01")
    refuse(tmp_path, rf"time is {sentinel:g} for 1 of 36 samples, at positions 7, far from all others".replace("+", r"\+"))


def test_stamps_at_the_beginnings_of_months_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begins = np.append(0, ENDS[:-1])
    with_times(tmp_path / "a.nc", begins, "days since 1990-01-01", "noleap", cell_methods="time: mean")
    assert (months_read(tmp_path) == MONTHS).all() and not caplog.records


@pytest.mark.parametrize(
    ("units", "calendar", "reason"),
    [
        (
            "months since 1990-01-15",
            "standard",
            "units 'months since 1990-01-15' and calendar 'standard', which cannot be decoded",
        ),
        ("days since 1990-01-01", "365_days", "units 'days since 1990-01-01' and calendar '365_days', which cannot be decoded"),
        ("day as %Y%m%d.%f", None, "units 'day as %Y%m%d.%f', which are no time since a date"),
        (None, None, "time has no units"),
    ],
)
def test_dates_that_cannot_be_decoded_name_units_and_calendar(tmp_path: Path, units: str, calendar: str, reason: str) -> None:
    with_times(tmp_path / "a.nc", 30.0 * np.arange(36), units, calendar)
    with pytest.raises(ValueError, match="monthly") as refused:
        read(tmp_path, anomaly="monthly")
    assert reason in str(refused.value)
    assert len(read(tmp_path).train) == 36, "dates are not needed for the fields themselves"


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
def test_a_missing_date_is_refused_with_its_place(tmp_path: Path, calendar: str) -> None:
    times = 30.0 * np.arange(36)
    times[7] = np.nan
    with_times(tmp_path / "a.nc", times, "days since 1990-01-01", calendar)
    refuse(tmp_path, "a.nc: time is missing for 1 of 36 samples, at positions 7")


def test_calendars_may_differ_between_files_and_years(tmp_path: Path) -> None:
    with_times(tmp_path / "a.nc", 30.0 * np.arange(36) + 29, "days since 1850-01-01", "360_day")  # with 30 February
    temperatures(12, seed=5, start="1849-01-01").to_netcdf(tmp_path / "b.nc")
    data = read(tmp_path, "a.nc", "b.nc")
    np.testing.assert_allclose(decoded(data)[:12], temperatures(12, seed=5, start="1849-01-01").tas.values, atol=1e-2)


# --- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tas", "2 metre temperature", "'2 metre temperature' is no name for a variable"),
        ("tas", "seed", "'seed' is a name that files of samples use themselves"),
        ("tas", "t2m-max", "'t2m-max' is no name for a variable"),
        ("lat", "block", "'block' is a name that files of samples use themselves"),
        ("lat", "mask", "'mask' is the name of an array in model folders"),
        ("lon", "variable", "'variable' is the name of an array in model folders"),
    ],
)
def test_names_that_samples_cannot_have_are_refused_by_train_and_can_be_changed(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    temperatures().rename({old: new}).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    names = {"tas": "tas", "lat": "lat", "lon": "lon"} | {old: new}
    keys = {"variables": [names["tas"]], "spatial_dims": [names["lat"], names["lon"]]}
    with pytest.raises(ValueError, match=f"samples could not be stored: {words}.* choose other names with data.rename"):
        gaussian_model(tmp_path, data=keys)
    model = gaussian_model(tmp_path, data={"rename": {new: old}})
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", samples=2)
    assert call("sample", config)["code"] == 0
    # what the recipe renames is renamed in files that are compared, too
    assert call("report", tmp_path / "run", "--against", tmp_path / "a.nc")["code"] == 0


def test_names_that_cannot_be_changed_are_refused(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    refuse(tmp_path, "rename: no file has a 't2m'", rename={"t2m": "tas"})
    refuse(tmp_path, "a.nc: rename: there is already a tas", rename={"lat": "tas"})


def test_reserved_names_are_those_of_a_model_folder(tmp_path: Path) -> None:
    temperatures().to_netcdf(tmp_path / "a.nc")
    splits = {"validation_fraction": 0.2, "test_fraction": 0.2}
    for anomaly, basis in (("mean", "eof"), ("none", "harmonic_eof")):
        model = gaussian_model(tmp_path, data={"anomaly": anomaly, **splits}, reference={"basis": basis, "rank": 4, "split": 2})
        for file in ("reference.h5", "statistics.h5"):
            arrays, _ = read_arrays(model / file)
            found = set(arrays) | {dim for array in arrays.values() for dim in array.dims}
            assert found - {"lat", "lon"} <= IN_THE_FOLDER


def test_a_lone_mistake_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text(
        f'name = "m"\noutput = "m"\nnetwork = "none"\n[data]\nfiles = ["{tmp_path}/a.nc"]\nvariables = ["tas"]\n'
    )
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", 2)
    assert one_line(call("train", tmp_path / "train.toml", "--no-probe"), 2) == "a.nc: no variable 'tas'; there are none"
