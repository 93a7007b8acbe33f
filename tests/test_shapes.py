"""Samples of other shapes than one field on rows and columns: levels, sequences of times, HEALPix and unstructured cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, one_line
from scipy.ndimage import gaussian_filter

import piadm_hpc
from piadm_hpc.data.dates import Dates
from piadm_hpc.data.gridded import DataConfig, read_fields
from piadm_hpc.data.healpix import Healpix
from piadm_hpc.data.sequences import starts_of
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.training.fields import train
from piadm_hpc.run.plan import plan

LEVELS = [1000, 850, 500, 200, 50]
LAT, LON = np.linspace(-60.0, 60.0, 3), np.arange(4) * 90.0


def profiles(count: int = 360, calendar: str = "noleap") -> xr.Dataset:
    """Monthly temperatures whose anomalies follow from those of the level below and of the month before."""
    generator = np.random.default_rng(0)
    chance = gaussian_filter(
        generator.normal(size=(count + 30, len(LEVELS), 3, 4)), (0, 0, 0.7, 0.7), mode=("nearest", "nearest", "nearest", "wrap")
    )
    for level in range(1, len(LEVELS)):
        chance[:, level] = 0.8 * chance[:, level - 1] + 0.6 * chance[:, level]
    for month in range(1, len(chance)):
        chance[month] = 0.8 * chance[month - 1] + 0.6 * chance[month]
    time = xr.date_range("1990-01-01", periods=count, freq="MS", calendar=calendar, use_cftime=True)
    season = 5 * np.sin(2 * np.pi * (np.arange(count) % 12) / 12)[:, None, None, None]
    fields = 250 + chance[30:] / chance.std() + season * np.arange(1, 6)[:, None, None]
    surface = {"units": "hPa", "standard_name": "surface_air_pressure"}
    return xr.Dataset(
        {
            "ta": (("plev", "lat", "time", "lon"), fields.transpose(1, 2, 0, 3).astype(np.float32), {"units": "K"}),
            "ps": (("time", "lat", "lon"), (1000 - fields[:, 0]).astype(np.float32), surface),
        },
        {
            "time": time,
            "plev": ("plev", LEVELS, {"units": "hPa", "positive": "down", "axis": "Z"}),
            "lat": ("lat", LAT, {"units": "degrees_north", "axis": "Y"}),
            "lon": ("lon", LON, {"units": "degrees_east"}),
            "orography": (("lat", "lon"), np.full((3, 4), 7.0), {"units": "m"}),
            "height": ((), 2.0, {"units": "m"}),
        },
    )


def made(folder: Path, name: str = "model", **sections: Any) -> Path:
    """Train a Gaussian model on the a.nc of a folder."""
    record = {"name": name, "output": str(folder / name), "network": "none", "reference": {"modes": 300}} | sections
    return train(TrainConfig.model_validate(record), root=folder, report=lambda line: None)


def sampled(folder: Path, model: Path, samples: int = 4, name: str = "run") -> xr.Dataset:
    """Run the model and open its samples."""
    record = {"model": str(model), "out": str(folder / name), "samples": samples, "grid": {"steps": 4}}
    return piadm_hpc.sample(piadm_hpc.RunConfig.model_validate(record))


def drawn(reference: GaussianReference, count: int) -> torch.Tensor:
    """Draw samples of a reference."""
    white = torch.randn(count, *reference.event_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return reference.draw(white, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)).to(torch.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of profiles, and a model of twelve months of them as one event."""
    folder = tmp_path_factory.mktemp("profiles")
    profiles().to_netcdf(folder / "a.nc")
    data = {"files": ["a.nc"], "variables": ["ta", "ps"], "levels": "plev", "anomaly": "monthly", "validation_fraction": 0.15}
    made(folder, "year", data=data | {"sequence": 12, "stride": 1})
    made(folder, "profile", data=data)
    return folder


def correlations(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of fields [n, steps, levels, *grid] between steps and between levels, averaged over the rest."""
    a = ((fields - fields.mean(0)) / fields.std(0)).reshape(*fields.shape[:3], -1)
    return (
        np.einsum("nslp,ntlp->st", a, a) / a[:, 0].size,
        np.einsum("nslp,nsmp->lm", a, a) / a[:, :, 0].size,
    )


def test_correlations_between_levels_and_months_are_the_datas(world: Path) -> None:
    """Samples of a year's five levels have the correlations of the training data within 0.05."""
    model = load_model(world / "year")
    recipe = {"files": [str(world / "a.nc")], "variables": ["ta", "ps"], "levels": "plev", "anomaly": "monthly"}
    data = read_fields(DataConfig.model_validate(recipe | {"sequence": 12, "stride": 1, "validation_fraction": 0.15}))
    ours, theirs = (
        correlations(model.decode(states)["ta"].astype(np.float64)) for states in (drawn(model.reference, 600), data.train)
    )
    assert theirs[0][0, 1] > 0.7 and theirs[1][0, 1] > 0.7 > theirs[1][0, 4]
    for found, expected in zip(ours, theirs, strict=True):
        assert np.abs(found - expected).max() < 0.05


def test_levels_steps_and_coordinates_come_back(world: Path) -> None:
    """A run of sequences has the file's levels with their attributes, the steps, and the coordinates of the fields."""
    dataset, given = sampled(world, world / "year"), profiles()
    assert dataset.ta.dims == ("realization", "step", "plev", "lat", "lon")
    assert dataset.ps.dims == ("realization", "step", "lat", "lon")
    assert dataset.ta.shape == (4, 12, 5, 3, 4) and np.isfinite(dataset.ta).all() and dataset.plev.dtype.kind == "i"
    assert dataset.plev.values.tolist() == LEVELS and dataset.plev.attrs.items() >= given.plev.attrs.items()
    assert dataset.lat.attrs["axis"] == "Y" and dataset.orography.attrs == given.orography.attrs and dataset.height == 2
    assert dataset.step.attrs["months_per_step"] == 1 and dataset.step.attrs["calendar"] == "noleap"
    # a single time has the same fields and names as a step of a sequence
    profile = sampled(world, world / "profile", name="profiles")
    assert profile.ta.dims == ("realization", "plev", "lat", "lon") and profile.ta.attrs == dataset.ta.attrs


def test_absolute_sequences_have_every_steps_own_month(world: Path) -> None:
    """Step k of a year that begins in November gets the climatology of the month k months later."""
    stored = sampled(world, world / "year", name="absolute")
    found = piadm_hpc.open(world / "absolute", absolute=True, month=11)
    means = profiles().ta.isel(time=slice(0, 306)).groupby("time.month").mean().transpose("month", "plev", "lat", "lon")
    assert found.month.dims == ("realization", "step") and found.month.values[0].tolist() == [11, 12, *range(1, 11)]
    added = (found.ta - stored.ta).isel(realization=0).values
    np.testing.assert_allclose(added, means.sel(month=found.month.values[0]).values, rtol=0, atol=2e-3)


def test_sequences_are_verified_reported_and_refitted(world: Path) -> None:
    """Each level is compared as a separate field, over all steps, with files of single times in other units."""
    sampled(world, world / "year", name="verified")
    other = profiles().sortby("plev").assign_coords(plev=("plev", [5000, 20000, 50000, 85000, 100000], {"units": "Pa"}))
    other.to_netcdf(world / "pascal.nc")
    report = call("verify", world / "verified", "--against", world / "pascal.nc")
    assert report["code"] == 0 and "ta_plev850: mean" in report["out"] and "ps: extremes" in report["out"], report
    record = json.loads((world / "verified" / "report" / "verify.json").read_text())["ta"]
    fields = profiles().ta.transpose("time", "plev", "lat", "lon").values.astype(np.float64)
    direct = correlations(fields.reshape(30, 12, 5, 3, 4))
    data = record["correlation_plev"]["data"]
    # anomalies of the file are from the model's climatology, which is of other years
    assert data[0] == pytest.approx(1) and np.abs(np.array(data) - direct[1][0]).max() < 0.1
    assert len(record["correlation_step"]["samples"]) == 12 and "ta: correlations between steps" in report["out"]
    call("verify", world / "verified")
    record = json.loads((world / "verified" / "report" / "verify.json").read_text())["ta"]
    assert np.abs(np.array(record["correlation_plev"]["data"]) - data).max() < 0.1
    report = call("reference", world / "year", "--data", world / "pascal.nc", "--out", world / "refitted.h5")
    assert report["code"] == 0 and (world / "refitted.h5").is_file(), report


def test_one_step_and_one_level_are_selected(world: Path) -> None:
    """`open`, `export`, `report` and `verify` take one step and one level, and refuse those that do not exist."""
    run, climatology = world / "selected", world / "selected.nc"
    whole = sampled(world, world / "year", name="selected")
    with piadm_hpc.open(run, select={"step": 3, "plev": 500}) as found:
        xr.testing.assert_identical(found.load(), whole.sel(step=3, plev=500).load())
        assert found.ta.dims == ("realization", "lat", "lon") and found.step == 3 and found.plev == 500
    with piadm_hpc.open(run, absolute=True, month=11, select={"step": 3}) as found:
        assert found.month.values.tolist() == [2] * 4
    report = call("export", run, "--select", "step=3", "--select", "plev=500", "--out", climatology)
    assert report["code"] == 0, report
    with xr.open_dataset(climatology) as stored:
        np.testing.assert_array_equal(stored.ta.values, whole.ta.sel(step=3, plev=500).values)
        np.testing.assert_array_equal(stored.ps.values, whole.ps.sel(step=3).values)
    for command in ("report", "verify"):
        report = call(command, run, "--select", "step=3", "--select", "plev=850")
        assert report["code"] == 0 and "amples of step 3 of 12 alone" in report["out"], report
        assert "ta_plev850" in report["out"] and "ta_plev500" not in report["out"]
        assert "no dimension 'depth'" in one_line(call("export", run, "--select", "depth=3"), 2)
        assert "step has no 40" in one_line(call(command, run, "--select", "step=40"), 2)
    with pytest.raises(ValueError, match=r"plev has no 700 within 0.1 %; its values \[hPa\] are 1000, 850"):
        piadm_hpc.open(run, select={"plev": "700", "step": 3})
    scores = json.loads((run / "report.json").read_text())["scores"]["ta_plev850"]
    assert scores["num_samples"] == 4


def test_memory_of_a_sequence_is_that_of_its_numbers(world: Path) -> None:
    """The plan of a year counts twelve times the output of a month."""
    sizes = []
    for name in ("profile", "year"):
        record = {"model": str(world / name), "samples": 64, "grid": {"steps": 4}}
        sizes.append(plan(piadm_hpc.RunConfig.model_validate(record)).output_bytes)
    assert sizes[1] == 12 * sizes[0]


def dates(day: list[float], series: list[int] | None = None) -> Dates:
    """Make dates on the given days."""
    days = np.array(day, dtype=np.float64)
    return Dates(days.astype(np.int64), np.ones(len(days), int), days, np.array(series or [0] * len(days)), "noleap")


def test_gaps_and_members_break_sequences() -> None:
    """Sequences never cross a gap in time, a change of member, or samples that are left out."""
    file = np.zeros(8, dtype=int)
    everything = np.arange(8)
    gap = dates([0, 1, 2, 3, 7, 8, 9, 10])
    assert starts_of(gap, file, everything, 2, 2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert starts_of(gap, file, everything, 3, 1).tolist() == [[0, 1, 2], [1, 2, 3], [4, 5, 6], [5, 6, 7]]
    assert starts_of(gap, file, everything, 5, 1).shape == (0, 5)
    assert starts_of(gap, file, np.array([0, 1, 2, 4, 5, 6, 7]), 3, 3).tolist() == [[0, 1, 2], [4, 5, 6]]
    members = dates([0, 0, 1, 1, 2, 2, 3, 3], [0, 1] * 4)
    assert starts_of(members, file, everything, 4, 4).tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert starts_of("no dates", np.repeat([0, 1], 4), everything, 3, 3).tolist() == [[0, 1, 2], [4, 5, 6]]


def test_sequences_decode_to_the_fields_they_were_made_of(tmp_path: Path) -> None:
    """Step k of a decoded sequence is the field k samples after the first in the file, for every level and variable."""
    given = profiles(36)
    given.to_netcdf(tmp_path / "a.nc")
    recipe = {"files": [str(tmp_path / "a.nc")], "variables": ["ps", "ta"], "levels": {"plev": [500, 1000]}, "sequence": 3}
    data = read_fields(DataConfig.model_validate(recipe))
    assert data.train.shape == (12, 9, 3, 4) and data.leading["plev"].values.tolist() == [500, 1000]
    fields = data.normalisation.decode(data.train)
    wanted = given.ta.sel(plev=[500, 1000]).transpose("time", "plev", "lat", "lon").values.reshape(12, 3, 2, 3, 4)
    np.testing.assert_allclose(fields["ta"], wanted, rtol=1e-5)
    np.testing.assert_allclose(fields["ps"], given.ps.values.reshape(12, 3, 3, 4), rtol=1e-5)
    torch.testing.assert_close(data.normalisation.encode(fields), data.train, rtol=0, atol=2e-4)


def test_transforms_hold_for_every_level_and_step(tmp_path: Path) -> None:
    """Sequences of a transformed variable keep its bound, whatever the state."""
    generator = np.random.default_rng(0)
    rain = generator.gamma(0.5, 2, size=(60, 2, 3, 4)).astype(np.float32)
    rain[rain < 0.3] = 0
    xr.Dataset({"pr": (("time", "plev", "lat", "lon"), rain)}, {"lat": LAT, "lon": LON}).to_netcdf(tmp_path / "a.nc")
    recipe = {"files": [str(tmp_path / "a.nc")], "variables": ["pr"], "levels": "plev", "sequence": 2}
    data = read_fields(DataConfig.model_validate(recipe | {"transforms": {"pr": {"kind": "quantile", "lower": 0}}}))
    assert len(data.normalisation.transforms) == 4
    values = data.normalisation.decode(torch.full((1, *data.normalisation.event_shape), -3.0))["pr"]
    assert values.shape == (1, 2, 2, 3, 4) and (values == 0).all()
    again = data.normalisation.decode(data.train)["pr"]
    given = rain.reshape(30, 2, 2, 3, 4)
    within = given < np.quantile(given, 0.95)
    np.testing.assert_allclose(again[within], given[within], rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "keep them in every sample with levels"),
        ({"levels": "height"}, "none of ta, ps has the dimension 'height'"),
        ({"levels": {"plev": [700]}}, "plev has no 700"),
        ({"levels": {"plev": [500, 500]}}, "twice at the same value"),
        ({"levels": "plev", "sequence": 400}, "0 sequences of 400"),
        ({"levels": {"plev": "all", "lat": "all"}}, "used twice"),
    ],
)
def test_levels_and_sequences_that_are_not_there_are_refused(world: Path, data: dict[str, Any], words: str) -> None:
    """The error says what was given and what to do about levels and sequences that the data do not have."""
    record = {"files": ["a.nc"], "variables": ["ta", "ps"], "anomaly": "mean"} | data
    with pytest.raises(ValueError, match=words):
        made(world, "refused", data=record)


def test_conditions_on_earlier_fields_need_variables_of_one_field(world: Path) -> None:
    """A lag of a variable with levels is refused; the month of the first step is an input like any other."""
    data = {"files": ["a.nc"], "variables": ["ta", "ps"], "levels": "plev", "anomaly": "monthly"}
    with pytest.raises(ValueError, match="a sample of ta has 5 values of plev"):
        made(world, "refused", data=data, condition={"inputs": {"before": {"kind": "lag"}}})
    given = {"season": {"kind": "month"}, "before": {"kind": "lag", "variable": "ps"}}
    model = load_model(made(world, "given", data=data, condition={"inputs": given}))
    assert model.conditioning is not None and model.conditioning.num_maps == 1 + 6
    year = made(world, "given-year", data=data | {"sequence": 4}, condition={"inputs": {"season": {"kind": "month"}}})
    assert load_model(year).event_shape == (24, 3, 4)


def test_healpix_centres() -> None:
    """Both orders have the same cells, parents lie between their children, and rings are those of Gorski et al. (2005)."""
    nested, ring = (np.stack(Healpix(16, order).angles(np.arange(3072))) for order in (True, False))
    assert np.array_equal(*(np.unique(np.round(angles, 9), axis=1) for angles in (nested, ring)))
    # the first ring has four cells, whose sine is 1 - 1 / (3 nside^2); the equator's begins at half a cell
    np.testing.assert_allclose(np.sin(np.deg2rad(ring[0][:4])), 1 - 1 / 768)
    np.testing.assert_allclose(ring[1][:4], [45, 135, 225, 315])
    assert np.count_nonzero(np.isclose(ring[0], 0, atol=1e-12)) == 64
    assert np.all(np.diff(np.round(ring[0], 9)) <= 0)

    def unit(angles: np.ndarray) -> np.ndarray:
        y, x = np.deg2rad(angles)
        return np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])

    middle = unit(nested).reshape(3, 768, 4).mean(2)
    parents = unit(np.stack(Healpix(8, True).angles(np.arange(768))))
    assert (middle / np.linalg.norm(middle, axis=0) * parents).sum(0).min() > np.cos(np.deg2rad(1.0))
    with pytest.raises(ValueError, match="power of two"):
        Healpix(12, True)
    with pytest.raises(ValueError, match="0 to 47"):
        Healpix(2, False).angles(np.array([48]))


def on_cells(order: str = "nested", nside: int = 16, count: int = 40) -> xr.Dataset:
    """Smooth fields on a HEALPix grid, which only its grid mapping describes."""
    cells = np.arange(12 * nside**2)
    lat, lon = (np.deg2rad(angle) for angle in Healpix(nside, order == "nested").angles(cells))
    waves = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat), np.sin(lat) * np.cos(lat) * np.cos(lon)])
    generator = np.random.default_rng(0)
    fields = 280 + generator.normal(size=(count, 4)) @ waves + 0.1 * generator.normal(size=(count, len(cells)))
    mapping = {"grid_mapping_name": "healpix", "healpix_nside": nside, "healpix_order": order}
    return xr.Dataset(
        {
            "tas": (("time", "cell"), fields.astype(np.float32), {"units": "K", "grid_mapping": "crs"}),
            "crs": ((), np.int32(0), mapping),
        },
        {
            "time": xr.date_range("2000-01-01", periods=count, freq="D"),
            "cell": ("cell", cells, {"long_name": "a cell"}),
        },
    )


ON_CELLS: dict[str, Any] = {"files": ["a.nc"], "variables": ["tas"], "spatial_dims": ["cell"], "validation_fraction": 0.2}


def test_a_healpix_file_goes_the_whole_way(tmp_path: Path) -> None:
    """A model of nested cells is trained and sampled; its samples have a grid mapping and are verified in ring order."""
    on_cells().to_netcdf(tmp_path / "a.nc")
    model = made(tmp_path, data=ON_CELLS | {"anomaly": "mean"}, reference={"modes": 40})
    dataset = sampled(tmp_path, model)
    assert dataset.tas.dims == ("realization", "cell") and dataset.tas.attrs["grid_mapping"] == "crs"
    assert dataset.cell.dtype.kind == "i" and dataset.cell.attrs["long_name"] == "a cell"
    assert dataset.crs.attrs["healpix_order"] == "nested" and dataset.crs.attrs["healpix_nside"] == 16
    np.testing.assert_allclose(dataset.lat, Healpix(16, True).angles(np.arange(3072))[0])
    rings = on_cells("ring")
    place = np.lexsort(np.round(Healpix(16, True).angles(np.arange(3072)), 6))
    ring_place = np.lexsort(np.round(Healpix(16, False).angles(np.arange(3072)), 6))
    values = np.empty_like(rings.tas.values)
    values[:, ring_place] = on_cells().tas.values[:, place]
    rings.assign(tas=rings.tas.copy(data=values)).to_netcdf(tmp_path / "rings.nc")
    report = call("verify", tmp_path / "run", "--against", tmp_path / "rings.nc")
    assert report["code"] == 0 and "tas: extremes" in report["out"], report
    own = call("verify", tmp_path / "run", "--against", tmp_path / "a.nc")
    assert own["out"].split("Reference")[0] == report["out"].split("Reference")[0]
    for command in (["report", tmp_path / "run"], ["export", tmp_path / "run", "--to", "netcdf", "--absolute"]):
        report = call(*command)
        assert report["code"] == 0, report
    with xr.open_dataset(tmp_path / "run" / "samples.nc") as exported:
        assert exported.tas.dims == ("realization", "cell") and {"lat", "lon"} <= set(exported.coords)
        assert exported.crs.attrs["grid_mapping_name"] == "healpix"
        assert abs(float(exported.tas.mean()) - 280) < 2


def test_unstructured_cells_need_their_places(tmp_path: Path) -> None:
    """Cells may have latitudes and longitudes in radians; if they have none, the error says what to do."""
    given = on_cells(nside=4).drop_vars("crs")
    lat, lon = Healpix(4, True).angles(given.cell.values)
    bare = given.drop_vars("cell").rename(cell="ncells")
    bare.to_netcdf(tmp_path / "bare.nc")
    data = ON_CELLS | {"spatial_dims": ["ncells"], "anomaly": "mean"}
    with pytest.raises(ValueError, match="192 is the number of cells of HEALPix with nside 4"):
        made(tmp_path, data=data | {"files": ["bare.nc"]})
    attrs = {"units": "radian", "standard_name": "latitude"}
    placed = bare.assign(
        clat=("ncells", np.deg2rad(lat), attrs), clon=("ncells", np.deg2rad(lon), attrs | {"standard_name": "longitude"})
    )
    placed.to_netcdf(tmp_path / "a.nc")
    dataset = sampled(tmp_path, made(tmp_path, data=data, reference={"modes": 20}))
    assert dataset.clat.dims == ("ncells",) and dataset.clat.attrs["units"] == "degrees_north"
    np.testing.assert_allclose(dataset.clat, lat, atol=1e-9)
    some = placed.isel(ncells=slice(0, 100))
    some.to_netcdf(tmp_path / "some.nc")
    message = one_line(call("verify", tmp_path / "run", "--against", tmp_path / "some.nc"), 2)
    assert "92 of the grid's 192 cells are not among its 100" in message


def test_grids_are_interpolated_only_on_request(tmp_path: Path) -> None:
    """A file on a finer, reversed grid is refused; with `regrid` it is interpolated to the first file's, round the globe."""

    def fields(lat: np.ndarray, lon: np.ndarray, start: str) -> xr.Dataset:
        # linear in latitude and a wave in longitude, whose error of interpolation follows from its second derivative
        time = xr.date_range(start, periods=3, freq="D")
        values = np.arange(1, 4)[:, None, None] * (lat[:, None] / 10 + np.cos(np.deg2rad(lon)))
        return xr.Dataset({"tas": (("time", "lat", "lon"), values)}, {"time": time, "lat": lat, "lon": lon})

    coarse, fine = (
        (np.linspace(-60.0, 60.0, 5), np.arange(12) * 30.0),
        (np.linspace(62.0, -62.0, 32), np.arange(-180, 180, 4.0) + 1),
    )
    fields(*coarse, "2000-01-01").to_netcdf(tmp_path / "a.nc")
    fields(*fine, "2001-01-01").to_netcdf(tmp_path / "b.nc")
    recipe = {"files": [str(tmp_path / "a.nc"), str(tmp_path / "b.nc")], "variables": ["tas"]}
    with pytest.raises(ValueError, match=r'data\.regrid = "linear"'):
        read_fields(DataConfig.model_validate(recipe))
    data = read_fields(DataConfig.model_validate(recipe | {"regrid": "linear"}))
    found = data.normalisation.decode(data.train)["tas"]
    assert np.abs(found[3:] - found[:3]).max() < 3 * np.deg2rad(4) ** 2 / 8 + 1e-4
    small = fields(coarse[0], np.arange(6) * 30.0, "2002-01-01")
    small.to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ValueError, match="its lon reaches from 0 to 150"):
        read_fields(DataConfig.model_validate(recipe | {"regrid": "linear"}))


def test_a_network_of_levels_and_steps_with_gaps_is_trained_and_sampled(tmp_path: Path) -> None:
    """Channels of a U-Net are levels and steps; masked points stay missing, at their own level alone."""
    given = profiles(60)
    given["ta"] = given.ta.where((given.plev < 1000) | (given.lat < 0))
    given.to_netcdf(tmp_path / "a.nc")
    data = {"files": ["a.nc"], "variables": ["ta", "ps"], "levels": "plev", "anomaly": "monthly", "sequence": 2}
    network, optimiser = {"width": 4, "multipliers": [1], "embedding": 8}, {"steps": 2, "validate_every": 1, "batch": 4}
    condition = {"inputs": {"season": {"kind": "month"}}}
    model = made(tmp_path, data=data, network=network, optimiser=optimiser, reference={"modes": 20}, condition=condition)
    loaded = load_model(model)
    assert loaded.event_shape == (12, 3, 4) and loaded.denoiser is not None and loaded.denoiser.network is not None
    xr.Dataset({"season": ("case", [7])}).to_netcdf(tmp_path / "given.nc")
    record = {"model": str(model), "out": str(tmp_path / "run"), "samples": 2, "grid": {"steps": 4}}
    config = piadm_hpc.RunConfig.model_validate(record | {"condition": {"file": str(tmp_path / "given.nc")}})
    missing = np.isnan(piadm_hpc.sample(config).ta).all(("realization", "step")).transpose("plev", "lat", "lon")
    assert missing.values[0].sum() == 8 and not missing.values[1:].any()


def test_observations_of_fields_with_levels_need_a_level(world: Path) -> None:
    """A place does not determine the level of a variable that has several; a variable without levels needs none."""
    (world / "stations.csv").write_text("variable,lat,lon,value,std\nps,0,0,1,1\nta,0,0,1,1\n")
    message = one_line(
        call("sample", "--model", world / "profile", "--observations", world / "stations.csv", "--out", world / "o"), 2
    )
    assert "ta has several values of plev, give each row a column plev: row 2" in message
