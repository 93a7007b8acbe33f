"""Spectra, coastlines, units and maps of levels and cells, from which figures are made, are compared with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from piadm_hpc.analysis.drawing import colours
from piadm_hpc.analysis.drawing.coastlines import coastlines, coastlines_between
from piadm_hpc.analysis.drawing.labels import bracketed, meridian, parallel, readable, squared
from piadm_hpc.analysis.drawing.maps import draw_map, nearest_picture
from piadm_hpc.analysis.drawing.quantities import kind_of_quantity, shown_units
from piadm_hpc.analysis.figures import Picture, draw
from piadm_hpc.analysis.grids import MapGrid, grid_of
from piadm_hpc.analysis.planes import chosen, planes_of, variables_in
from piadm_hpc.analysis.scores import area_mean
from piadm_hpc.analysis.spectra import power_of
from piadm_hpc.analysis.verify.joint import correlation_matrix
from piadm_hpc.data.grids import row_shares
from piadm_hpc.data.power import cosine_power

RAIN = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}


# --- spectra ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("along_rows", "along_columns", "expected"), [(3, 0, 3), (0, 6, 3), (0, 5, 2), (4, 8, 5), (0, 0, 0)])
def test_a_cosine_has_all_its_power_in_its_wavenumber(along_rows: int, along_columns: int, expected: int) -> None:
    """On 16 x 32 points, m and n half waves have the wavenumber 16 sqrt((m/16)^2 + (n/32)^2), rounded down."""
    y, x = (np.arange(16) + 0.5) / 16, (np.arange(32) + 0.5) / 32
    wave = 3 * np.cos(np.pi * along_rows * y)[:, None] * np.cos(np.pi * along_columns * x)
    power = cosine_power(wave[None])
    assert power.shape == (17,) and power.argmax() == expected
    assert power[expected] == pytest.approx((wave**2).mean())
    assert np.delete(power, expected).max() < 1e-12


def test_powers_add_up_to_the_mean_square_and_a_trend_does_not_leak() -> None:
    fields = np.random.default_rng(0).normal(size=(5, 12, 20))
    assert cosine_power(fields).sum() == pytest.approx((fields**2).mean())
    trend = np.linspace(-1, 1, 32) * np.ones((16, 1))
    weights = np.full(16, 1 / 16)
    cosine, fourier = (power_of(trend[None], weights, name)[0] for name in ("cosine", "zonal"))
    assert cosine[8:].sum() < 0.05 * fourier[4:].sum()  # the same scales: k half waves of 16 points, k waves of 32
    assert power_of(trend[None], weights, None).shape == (1, 0)


# --- coastlines and words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "latitude", "longitude", "coast"),
    [
        ("Lisbon", 38.7, -9.4, True),
        ("Cape of Good Hope", -34.4, 18.5, True),
        ("Cape Horn", -55.6, -68.0, True),
        ("Tokyo", 35.3, 139.8, True),
        ("middle of the Pacific", 0.0, -135.0, False),
        ("Sahara", 23.0, 5.0, False),
        ("Siberia", 60.0, 100.0, False),
        ("inside Antarctica", -80.0, 90.0, False),
    ],
)
def test_coasts_are_where_they_are(place: str, latitude: float, longitude: float, coast: bool) -> None:
    """The nearest vertex is less than 1.5 degrees from places on coasts, and more than 5 from places far from them."""
    points = np.concatenate(coastlines())
    east = (points[:, 0] - longitude + 180) % 360 - 180
    nearest = float(np.hypot(points[:, 1] - latitude, east * np.cos(np.deg2rad(latitude))).min())
    assert nearest < 1.5 if coast else nearest > 5, place


def test_coastlines_have_no_lines_across_the_map() -> None:
    assert max(np.abs(np.diff(line, axis=0)).max() for line in coastlines()) < 12
    text = (Path(colours.__file__).with_name("coastlines.txt")).read_text()
    assert "Natural Earth" in text and "public domain" in text and len(text) < 40_000


def test_coastlines_follow_the_meridian_at_which_a_map_begins() -> None:
    """Every stretch of 360 degrees has all coasts; the west coast of America lies at 235 degrees east as at -125."""
    for west in (-180.0, 0.0, 20.0):
        points = np.concatenate(coastlines_between(west, west + 360))
        for longitude in (-124.1, 18.5, 151.2):
            at = west + (longitude - west) % 360
            assert np.abs(points[:, 0] - at).min() < 0.6
    assert len(coastlines_between(-140, -130)) < len(coastlines()) / 4


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("K", "K"),
        ("kg m-2 s-1", "kg m⁻² s⁻¹"),
        ("m**2 s**-2", "m² s⁻²"),
        ("W/m^2", "W/m²"),
        ("degC", "°C"),
        ("degrees_Celsius", "°C"),
        ("1", ""),
        ("mm day-1", "mm day⁻¹"),
    ],
)
def test_units_are_printed_as_people_write_them(given: str, shown: str) -> None:
    assert readable(given) == shown and bracketed(given) == (f" [{shown}]" if shown else "")


def test_degrees_and_powers_are_printed_as_on_maps() -> None:
    assert [meridian(x) for x in (0, 90, 180, 270, 360, -45, 182.5)] == ["0°", "90°E", "180°", "90°W", "0°", "45°W", "177.5°W"]
    assert [parallel(y) for y in (-30, 0, 66.5)] == ["30°S", "0°", "66.5°N"]
    assert [squared(units) for units in ("K", "degC", "1", "mm day-1")] == ["K²", "°C²", "1", "(mm day⁻¹)²"]


@pytest.mark.parametrize(
    ("attrs", "kind", "factor", "units"),
    [
        (RAIN, "water", 86400.0, "mm day-1"),
        ({"units": "kg/m2/s"}, "water", 86400.0, "mm day-1"),
        ({"units": "mm/day"}, "water", 1.0, "mm/day"),
        ({"units": "kg m-2 s-1", "standard_name": "surface_carbon_flux"}, "other", 1.0, "kg m-2 s-1"),
        ({"units": "K"}, "temperature", 1.0, "K"),
        ({"units": "degC", "standard_name": "sea_surface_temperature"}, "temperature", 1.0, "degC"),
        ({"units": "Pa", "standard_name": "air_pressure_at_mean_sea_level"}, "other", 0.01, "hPa"),
        ({"units": "1", "standard_name": "specific_humidity"}, "water", 1000.0, "g kg-1"),
        ({"units": "m s-1", "standard_name": "eastward_wind"}, "other", 1.0, "m s-1"),
        ({}, "other", 1.0, "1"),
    ],
)
def test_what_a_variable_measures_decides_its_colours_and_units(attrs: dict, kind: str, factor: float, units: str) -> None:
    assert kind_of_quantity(attrs) == kind and shown_units(attrs) == (factor, units)
    colour_map = {"water": "BrBG", "temperature": "RdBu_r", "other": "PuOr_r"}[kind]
    assert colours.difference(np.array([-1.0, 2.0]), attrs)["cmap"] == colour_map


def test_scales_are_around_zero_for_anomalies_and_from_zero_for_rain() -> None:
    anomalies = colours.amount(np.array([5.0, 6.0]), {"units": "K", "long_name": "temperature anomaly"})
    assert anomalies["vmin"] == -anomalies["vmax"]
    rain = colours.amount(np.array([0.0, 7.0]), RAIN)
    assert rain["vmin"] == 0 and rain["vmax"] >= 6.9
    dry, wet = (np.array(rain["cmap"](end)[:3]) for end in (0.0, 1.0))
    assert dry[0] > dry[2] and wet[1] > wet[0] and wet.sum() < dry.sum()  # brown, then dark blue-green
    warm = colours.amount(np.array([250.0, 300.0]), {"units": "K"})
    assert 250 <= warm["vmin"] < warm["vmax"] <= 300
    assert np.isfinite([colours.amount(np.full(3, np.nan), {})[end] for end in ("vmin", "vmax")]).all()


# --- grids and planes -------------------------------------------------------------------------------------------------


def dataset_of(array: xr.DataArray, name: str = "ta") -> xr.Dataset:
    return xr.Dataset({name: array}, attrs={"sample_dim": "realization", "variables": name})


def levels() -> xr.DataArray:
    """Samples over steps, levels and a map, with the map's dimensions apart from each other."""
    values = np.random.default_rng(0).normal(size=(6, 2, 4, 3, 8)) + 250
    coords = {"lat": [-60.0, -20.0, 20.0, 60.0], "lon": np.arange(8) * 45.0, "step": [1, 2]}
    coords |= {"plev": ("plev", [850.0, 500.0, 100.0], {"units": "hPa"})}
    dims = ("realization", "step", "lat", "plev", "lon")
    return xr.DataArray(values, dims=dims, coords=coords, attrs={"units": "K", "long_name": "air temperature"})


def test_levels_are_maps_of_their_own_and_steps_are_further_samples() -> None:
    dataset = dataset_of(levels())
    planes, without = planes_of(dataset, variables_in(dataset))
    assert [plane.name for plane in planes] == ["ta_plev850", "ta_plev500", "ta_plev100"] and not without
    assert planes[1].title == "air temperature, plev 500 hPa" and [plane.number for plane in planes] == [0, 1, 2]
    assert planes[0].grid.whole and len({plane.file_name for plane in planes}) == 3
    for plane in planes:
        expected = dataset.ta.sel(plane.where).transpose("realization", "step", "lat", "lon").values.reshape(12, 4, 8)
        np.testing.assert_array_equal(plane.samples(dataset), expected)
    np.testing.assert_array_equal(planes[0].samples(dataset, most=2), planes[0].samples(dataset)[[0, -1]])
    kept, notes = chosen(planes, {"plev": "480"}, most=4)
    assert [plane.where for plane in kept] == [{"plev": 500.0}] and not notes
    kept, notes = chosen(planes, {}, most=2)
    assert [plane.number for plane in kept] == [0, 2] and "2 of the 3 maps of ta" in notes[0]
    for select, words in (({"height": "2"}, "no such dimension"), ({"plev": "high"}, "no such value; there are 850")):
        with pytest.raises(ValueError, match=words):
            chosen(planes, select, most=4)


def cells(count: int = 500) -> xr.DataArray:
    """Cells spread evenly over the sphere (a Fibonacci lattice), with the sine of their latitude as values."""
    sine = 1 - 2 * (np.arange(count) + 0.5) / count
    lat, lon = np.rad2deg(np.arcsin(sine)), np.rad2deg(np.arange(count) * np.pi * (3 - np.sqrt(5))) % 360
    coords = {
        "lat": ("cell", lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("cell", lon, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    return xr.DataArray(sine + np.zeros((3, 1)), dims=("realization", "cell"), coords=coords, attrs={"units": "K"})


def test_cells_are_drawn_by_the_nearest_one_and_gaps_stay_gaps() -> None:
    dataset = dataset_of(cells())
    grid = grid_of(dataset, "ta", ["realization"])
    assert grid.shape == (500, 1) and grid.transform is None and not grid.whole
    assert area_mean(dataset.ta.values[:, :, None], grid.weights) == pytest.approx(0, abs=1e-3)
    picture = nearest_picture(grid, dataset.ta.values[0])
    rows = np.sin(np.deg2rad(np.linspace(-90, 90, picture.shape[0])))
    assert np.isfinite(picture).all() and np.abs(picture - rows[:, None]).max() < 0.2
    land = np.where(dataset.lat.values > 30, np.nan, dataset.ta.values[0])
    gaps = np.isnan(nearest_picture(grid, land))
    assert gaps[rows > 0.65].all() and not gaps[rows < 0.35].any()
    alone, _ = planes_of(dataset, variables_in(dataset))
    assert alone[0].samples(dataset).shape == (3, 500, 1)


def test_a_region_of_cells_is_not_spread_over_the_globe() -> None:
    array = cells(3000)
    there = (array.lat > 35) & (array.lat < 65) & (array.lon < 40)
    grid = grid_of(dataset_of(array.isel(cell=np.flatnonzero(there))), "ta", ["realization"])
    picture = nearest_picture(grid, np.ones(int(there.sum())))
    assert np.isfinite(picture).mean() > 0.9 and picture.shape[1] < 720


@pytest.mark.parametrize(
    ("dims", "attrs", "geographic", "transform"),
    [
        (("lat", "lon"), ({}, {}), True, "cosine"),
        (("y", "x"), ({"units": "m"}, {"units": "m"}), False, "cosine"),
        (("rlat", "rlon"), ({"standard_name": "grid_latitude"}, {"standard_name": "grid_longitude"}), False, "cosine"),
        (("j", "i"), ({}, {}), False, "cosine"),
    ],
)
def test_only_degrees_on_the_earth_have_coasts(dims: tuple, attrs: tuple, geographic: bool, transform: str) -> None:
    """Rows weigh by the cosine if they are latitudes, also rotated ones, and equally in a plane, however small its numbers."""
    axes = (np.linspace(10, 80, 5), np.linspace(0, 60, 7))
    coords = {dim: (dim, values, attr) for dim, values, attr in zip(dims, axes, attrs, strict=True)}
    array = xr.DataArray(np.zeros((2, 5, 7)), dims=("realization", *dims), coords=coords)
    grid = grid_of(dataset_of(array), "ta", ["realization"])
    assert grid.geographic == geographic and grid.transform == transform
    expected = np.cos(np.deg2rad(axes[0])) if dims[0] in ("lat", "rlat") else np.ones(5)
    np.testing.assert_allclose(grid.weights, expected / expected.sum())


def test_curved_rows_are_placed_by_their_two_dimensional_coordinates() -> None:
    lat, lon = np.meshgrid(np.linspace(40, 60, 8), np.linspace(-5, 25, 10), indexing="ij")
    coords = {
        "lat": (("y", "x"), lat + 0.1 * lon, {"standard_name": "latitude"}),
        "lon": (("y", "x"), lon, {"standard_name": "longitude"}),
    }
    array = xr.DataArray(lon + np.zeros((2, 1, 1)), dims=("realization", "y", "x"), coords=coords)
    grid = grid_of(dataset_of(array), "ta", ["realization"])
    assert grid.geographic and grid.shape == (8, 10) and grid.dims == ("y", "x")
    picture = nearest_picture(grid, array.values[0].ravel())
    columns = np.nanmean(picture, 0)
    assert np.corrcoef(columns, np.arange(len(columns)))[0, 1] > 0.99


def test_variables_without_a_place_are_named() -> None:
    array = xr.DataArray(np.zeros((3, 4)), dims=("realization", "component"))
    planes, without = planes_of(dataset_of(array), variables_in(dataset_of(array)))
    assert not planes and "no place on a map" in without[0]


# --- maps and pages ---------------------------------------------------------------------------------------------------


def test_every_map_names_its_degrees_and_has_coasts() -> None:
    from matplotlib.figure import Figure

    lat, lon = np.linspace(-87.5, 87.5, 36), np.arange(72) * 5.0
    grid = MapGrid(("lat", "lon"), lat, lon, row_shares("lat", lat, {}), True, ("latitude", "longitude"))
    figure = Figure(figsize=(8, 3))
    axes = figure.subplots(1, 2)
    for axis in axes:
        draw_map(axis, grid, np.ones((36, 72)), {"cmap": "viridis"}, "title")
    figure.canvas.draw()
    for axis in axes:
        assert {"90°E", "180°", "90°W"} <= {label.get_text() for label in axis.get_xticklabels()}
        assert {"30°N", "0°", "30°S"} <= {label.get_text() for label in axis.get_yticklabels()}
        assert any(len(collection.get_paths()) > 50 for collection in axis.collections)
        assert axis.get_xlim() == (-2.5, 357.5) and axis.get_ylim() == (-90, 90)


@pytest.mark.parametrize("kind", ["cells", "plane"])
def test_figures_of_cells_are_drawn_and_of_planes_as_a_page_of_pdf(kind: str, tmp_path: Path) -> None:
    if kind == "cells":
        dataset = dataset_of(cells(200).assign_attrs(RAIN))
    else:
        axes: dict[str, Any] = {name: (name, np.arange(6) * 2000.0, {"units": "m"}) for name in ("y", "x")}
        dataset = dataset_of(xr.DataArray(np.ones((3, 6, 6)), dims=("realization", "y", "x"), coords=axes, attrs={"units": "1"}))
    ((plane,), _) = planes_of(dataset, variables_in(dataset))
    picture = Picture(
        name=plane.name, attrs=plane.attrs, grid=plane.grid, fields=plane.samples(dataset), power=None, reference=None,
        title=plane.title, names=range(3), sweeps=np.ones((3, 1), int), residual=np.full((3, 1), 1e-3), tol=1e-2,
    )  # fmt: skip
    suffix, begins = (".png", b"\x89PNG") if kind == "cells" else (".pdf", b"%PDF")
    draw(picture, tmp_path / f"a{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert content[:4] == begins and len(content) > 20_000


def test_correlations_of_variables_are_those_of_numpy() -> None:
    """They weigh deviations from the mean of each point equally; points that one of the variables lacks are left out."""
    generator = np.random.default_rng(4)
    a = generator.normal(size=(50, 3, 4))
    b = 0.8 * a + 0.6 * generator.normal(size=(50, 3, 4)) + np.arange(4) * 100
    b[:, 0, 0] = np.nan
    weights = np.full(3, 1 / 3)
    found = correlation_matrix([a, b], weights)
    flat = [(one - one.mean(0)).reshape(50, 12)[:, 1:].ravel() for one in (a, b)]
    np.testing.assert_allclose(found, np.corrcoef(flat))
    assert found[0, 1] == pytest.approx(0.8, abs=0.07)
