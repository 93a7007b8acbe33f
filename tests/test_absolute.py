"""`piadm_hpc.open` and `piadm export` add the climatology of a model of anomalies back to its samples."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from gridded import LAT, LON, gaussian_model, temperatures
from helpers import call, one_line, write_config

import piadm_hpc
from piadm_hpc.models.climatology import climatology_of
from piadm_hpc.models.record import read_card, write_card
from piadm_hpc.store.arrays import read_arrays, write_arrays
from piadm_hpc.store.reading import open_run

RUN = {"samples": 5, "grid": {"steps": 4}}
INPUTS = {"dated": {"before": {"kind": "lag"}, "month": {"kind": "month"}}, "lagged": {"before": {"kind": "lag"}}}


def fields() -> xr.Dataset:
    """Return temperatures of air and surface, the latter 5 K warmer and with half the spread, with gaps over a continent."""
    air = temperatures()
    air["tas"].attrs |= {"standard_name": "air_temperature", "cell_methods": "time: mean"}
    surface = (0.5 * air.tas + 149).where((air.lon > 60) | (air.lat > 0))
    attrs = {"units": "K", "long_name": "surface temperature", "standard_name": "surface_temperature"}
    return air.assign(ts=surface.assign_attrs(attrs))


def climatology(name: str, kind: str) -> np.ndarray:
    """Return the mean of the file over time [1, lat, lon], or of every month [12, lat, lon]."""
    values = fields()[name].astype(np.float64)
    return values.mean("time").values[None] if kind == "mean" else values.groupby("time.month").mean().values


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train models of the fields, of their anomalies, and of anomalies given others, each with a run beside it."""
    folder = tmp_path_factory.mktemp("world")
    fields().to_netcdf(folder / "a.nc")
    two = {"variables": ["tas", "ts"]}
    for kind in ("none", "mean", "monthly"):
        gaussian_model(folder, name=kind, data=two | {"anomaly": kind}).rename(folder / kind)
    for name, inputs in INPUTS.items():
        gaussian_model(folder, name=name, data={"anomaly": "monthly"}, condition={"inputs": inputs}).rename(folder / name)
    before = xr.DataArray(np.zeros((2, len(LAT), len(LON))), dims=("case", "lat", "lon"), attrs={"units": "K"})
    given = xr.Dataset({"before": before, "month": ("case", [2, 11])}, {"lat": LAT, "lon": LON})
    given["before"].attrs["long_name"] = "anomaly of the month before"
    given.to_netcdf(folder / "given.nc")
    for name in ("none", "mean", "monthly", *INPUTS):
        condition = {"condition": {"file": str(folder / "given.nc")}} if name in INPUTS else {}
        config = write_config(folder / f"{name}.toml", folder / name, folder / f"{name}-run", **RUN, **condition)
        report = call("sample", config)
        assert report["code"] == 0, report
    return folder


def require_sum(found: xr.DataArray, stored: xr.DataArray, added: np.ndarray) -> None:
    """Check that absolute fields are the stored ones plus the climatology, to rounding, and missing in the same places."""
    assert found.dims == stored.dims and found.dtype == stored.dtype == np.float32
    expected = stored.values.astype(np.float64) + added
    np.testing.assert_allclose(found.values, expected, rtol=3e-7, atol=0)
    assert np.array_equal(np.isnan(found.values), np.isnan(stored.values))


@pytest.mark.parametrize("month", [7, [1, 2, 12], np.arange(1, 13)])
def test_monthly_samples_have_the_climatology_of_their_month(world: Path, month: Any) -> None:
    months = np.resize(month, 5)
    with open_run(world / "monthly-run") as stored, piadm_hpc.open(world / "monthly-run", absolute=True, month=month) as found:
        for name in ("tas", "ts"):
            require_sum(found[name], stored[name], climatology(name, "monthly")[months - 1])
        assert np.isnan(found.ts.values).any() and 250 < float(found.tas.mean()) < 300
        assert found.month.dims == ("realization",) and found.month.values.tolist() == months.tolist()
        assert "climatology" in found.month.attrs["long_name"] and "month" in found.tas.coords
        assert "added the climatology" in found.attrs["history"] and found.attrs["seed"] == stored.attrs["seed"]
        assert np.array_equal(found.model_calls, stored.model_calls)


def test_a_mean_over_time_needs_no_month(world: Path) -> None:
    with open_run(world / "mean-run") as stored, piadm_hpc.open(world / "mean-run", absolute=True) as found:
        for name in ("tas", "ts"):
            require_sum(found[name], stored[name], climatology(name, "mean"))
        assert "month" not in found.coords


@pytest.mark.parametrize("kind", ["mean", "monthly"])
def test_names_are_those_of_the_absolute_field_again(world: Path, kind: str) -> None:
    month = 1 if kind == "monthly" else None
    with open_run(world / f"{kind}-run") as stored, piadm_hpc.open(world / f"{kind}-run", absolute=True, month=month) as found:
        for name in ("tas", "ts"):
            assert "anomaly" in stored[name].attrs["long_name"] and "standard_name" not in stored[name].attrs
            names = {key: found[name].attrs[key] for key in ("long_name", "standard_name", "units")}
            assert names == {key: fields()[name].attrs[key] for key in names}
        assert found.tas.attrs["cell_methods"] == "time: mean"


def harmed(model: Path, to: Path, change: Callable[[dict[str, Any]], Any], **recipe: Any) -> Path:
    """Copy a model with changed arrays, with further keys in the recipe's data, and with correct checksums."""
    shutil.copytree(model, to)
    arrays, attrs = read_arrays(to / "reference.h5")
    change(arrays)
    write_arrays(to / "reference.h5", arrays, attrs)
    with pytest.raises(ValueError, match=r"its sha256 is not the one in card\.toml"):
        climatology_of(to)
    card = read_card(to / "card.toml")
    card.training.config["data"] |= recipe
    digest = hashlib.sha256((to / "reference.h5").read_bytes()).hexdigest()
    write_card(to / "card.toml", card.model_copy(update={"sha256": card.sha256 | {"reference.h5": digest}}))
    return to


def test_a_model_that_stored_no_names_gets_those_that_its_card_tells(world: Path, tmp_path: Path) -> None:
    attributes = {"ts": {"standard_name": "surface_temperature"}}
    old = harmed(world / "mean", tmp_path / "old", lambda arrays: arrays["climatology"].attrs.clear(), attributes=attributes)
    found = climatology_of(old)
    assert found is not None and found.names == {
        "tas": {"long_name": "air temperature"},
        "ts": {"standard_name": "surface_temperature", "long_name": "surface temperature"},
    }


def test_a_model_of_anomalies_without_its_climatology_is_refused(world: Path, tmp_path: Path) -> None:
    old = harmed(world / "mean", tmp_path / "old", lambda arrays: arrays.pop("climatology"))
    config = write_config(tmp_path / "run.toml", old, tmp_path / "run", **RUN)
    assert call("sample", config)["code"] == 0
    words = one_line(call("export", tmp_path / "run", "--absolute"), 2)
    assert "is a model of anomalies and keeps no climatology; add or subtract it yourself" in words


# --- months of samples, and how fields are opened ----------------------------------------------------------------------------


def test_months_belong_to_sample_numbers(world: Path) -> None:
    """A sample alone in its shard has the month that it has among all samples, in every dialect and in chunks."""
    months = [4, 5, 6]
    for shard in sorted((world / "monthly-run" / "shards").iterdir()):
        with piadm_hpc.open(shard, absolute=True, month=months) as found:
            assert found.month.values.tolist() == [months[k % 3] for k in found.realization.values]
    with piadm_hpc.open(world / "monthly-run", absolute=True, month=months, dialect="ecmwf", chunks={}) as found:
        assert found.tas.dims == ("number", "lat", "lon") and found.tas.chunks[0] == (1,) * 5
        assert found.month.dims == ("number",)


def test_fields_are_lazy(world: Path) -> None:
    with piadm_hpc.open(world / "monthly-run", absolute=True, month=1) as found:
        assert found.tas.chunks is not None and found.tas[3].shape == (6, 12)


def test_without_dask_they_are_read_at_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piadm_hpc.analysis.opening.find_spec", lambda name: None)
    with open_run(world / "monthly-run") as stored, piadm_hpc.open(world / "monthly-run", absolute=True, month=6) as found:
        assert found.tas.chunks is None
        require_sum(found.tas, stored.tas, climatology("tas", "monthly")[5])


def test_conditions_that_name_months_need_no_option(world: Path) -> None:
    """In a run of members times conditions, every condition gets the climatology of the month that it names."""
    added = climatology("tas", "monthly")[[1, 10]]
    with open_run(world / "dated-run") as stored, piadm_hpc.open(world / "dated-run", absolute=True) as found:
        assert found.tas.dims == ("realization", "condition", "lat", "lon") and found.sizes["realization"] == 5
        require_sum(found.tas, stored.tas, added)
        assert found.month.dims == ("realization", "condition") and (found.month.values == [2, 11]).all()
    with piadm_hpc.open(world / "dated-run", absolute=True, month=[2, 11], flat=True) as found:
        assert found.tas.dims[0] == "sample" and found.month.values.tolist() == [2, 11] * 5
    with pytest.raises(ValueError, match="the run was drawn for month 2, 11, not 7; leave month out"):
        piadm_hpc.open(world / "dated-run", absolute=True, month=7)


def test_conditions_without_months_take_those_that_are_given(world: Path) -> None:
    with open_run(world / "lagged-run") as stored, piadm_hpc.open(world / "lagged-run", absolute=True, month=[3, 9]) as found:
        require_sum(found.tas, stored.tas, climatology("tas", "monthly")[[2, 8]])
    with pytest.raises(ValueError, match="does not determine the months of its samples"):
        piadm_hpc.open(world / "lagged-run", absolute=True)


def test_samples_given_absolute_observations_are_of_their_month(world: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("lat,lon,value,std,variable\n15,60,280,2,tas\n")
    given = {"file": str(tmp_path / "one.csv"), "absolute": True, "month": 8}
    config = write_config(tmp_path / "run.toml", world / "monthly", tmp_path / "run", **RUN, observations=given)
    assert call("sample", config)["code"] == 0
    with open_run(tmp_path / "run") as stored, piadm_hpc.open(tmp_path / "run", absolute=True) as found:
        require_sum(found.tas, stored.tas, climatology("tas", "monthly")[7])


def test_samples_that_are_absolute_already_stay_as_they_are(world: Path) -> None:
    with open_run(world / "none-run") as stored, piadm_hpc.open(world / "none-run", absolute=True) as found:
        xr.testing.assert_identical(found.load(), stored.load())


# --- the command ----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")  # of zarr, about a format that is still changing
@pytest.mark.parametrize(("form", "name"), [("netcdf", "out.nc"), ("zarr", "out.zarr")])
def test_export(world: Path, tmp_path: Path, form: str, name: str) -> None:
    run, out = world / "monthly-run", tmp_path / name
    report = call("export", run, "--to", form, "--absolute", "--month", "11,12,1-2", "--out", out)
    assert report["code"] == 0, report
    opened = xr.open_zarr(out) if form == "zarr" else xr.open_dataset(out)
    with opened as found, open_run(run) as stored:
        require_sum(found.tas, stored.tas, climatology("tas", "monthly")[[10, 11, 0, 1, 10]])
        assert found.month.values.tolist() == [11, 12, 1, 2, 11] and found.tas.attrs["standard_name"] == "air_temperature"


def test_export_of_conditions_and_by_default(world: Path, tmp_path: Path) -> None:
    assert call("export", world / "dated-run", "--absolute", "--out", tmp_path / "dated.nc")["code"] == 0
    with xr.open_dataset(tmp_path / "dated.nc") as found, open_run(world / "dated-run", flat=True) as stored:
        require_sum(found.tas, stored.tas, climatology("tas", "monthly")[[1, 10] * 5])


BAD = {
    "no month": ((), "monthly-run", "give month (--month 7), or a month for every sample in turn (--month 1-12)"),
    "month 13": (("--month", "7,13"), "monthly-run", "give a whole number from 1 to 12"),
    "month 0": (("--month", "0"), "monthly-run", "give a whole number from 1 to 12"),
    "words": (("--month", "July"), "monthly-run", "--month 'July': give months from 1 to 12, such as 7, 1-12 or 12,1,2"),
    "mean": (("--month", "7"), "mean-run", "month: the model's climatology is one mean for all months; leave it out"),
    "absolute": (("--month", "7"), "none-run", "month: the samples are absolute already; leave it out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_line(world: Path, tmp_path: Path, case: str) -> None:
    options, run, words = BAD[case]
    assert words in one_line(call("export", world / run, "--absolute", *options, "--out", tmp_path / "out.nc"), 2)
    assert not (tmp_path / "out.nc").exists()


@pytest.mark.parametrize("month", [7.0, True, [], [[1, 2]], "July"])
def test_months_of_other_kinds_are_refused(world: Path, month: Any) -> None:
    with pytest.raises(ValueError, match="give a whole number from 1 to 12, or one for every sample in turn"):
        piadm_hpc.open(world / "monthly-run", absolute=True, month=month)


def test_a_month_alone_is_refused(world: Path) -> None:
    with pytest.raises(ValueError, match="month: only for absolute samples"):
        piadm_hpc.open(world / "monthly-run", month=7)


def test_models_that_are_gone_changed_or_know_no_climatology_are_refused(world: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.toml", tmp_path / "model", tmp_path / "run", **RUN)
    shutil.copytree(world / "mean", tmp_path / "model")
    assert call("sample", config)["code"] == 0
    shutil.rmtree(tmp_path / "model")
    assert "its model cannot be found" in one_line(call("export", tmp_path / "run", "--absolute"), 2)
    shutil.copytree(world / "monthly", tmp_path / "model")
    assert "is not the model the samples were made with" in one_line(call("export", tmp_path / "run", "--absolute"), 2)


def test_anomalies_that_were_trained_on_as_they_are_are_refused(tmp_path: Path) -> None:
    found = fields()
    found["tas"].attrs["long_name"] = "air temperature anomaly"
    found[["tas"]].to_netcdf(tmp_path / "a.nc")
    config = write_config(tmp_path / "run.toml", gaussian_model(tmp_path), tmp_path / "run", **RUN)
    assert call("sample", config)["code"] == 0
    words = one_line(call("export", tmp_path / "run", "--absolute"), 2)
    assert "tas of" in words and "are anomalies by their names" in words and "add the one that your data were made with" in words


def test_months_without_training_data_are_refused(tmp_path: Path) -> None:
    winter = fields()[["tas"]]
    winter.isel(time=winter.time.dt.month.isin([12, 1, 2])).to_netcdf(tmp_path / "a.nc")
    model = gaussian_model(tmp_path, data={"anomaly": "monthly"})
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", **RUN)
    assert call("sample", config)["code"] == 0
    words = one_line(call("export", tmp_path / "run", "--absolute", "--month", "1,7"), 2)
    assert "the model knows the climatology of months 1, 2, 12, not of 7" in words
