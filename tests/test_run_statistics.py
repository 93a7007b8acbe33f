"""Statistics of configured runs: by condition, by start and lead, absolute, against a truth; and refused settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from gridded import LAT, LON, gaussian_model, temperatures
from helpers import call, one_line
from test_conditional_models import make, write_world

import piadm_hpc
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.store.integrity import check
from piadm_hpc.store.packs import records
from piadm_hpc.store.statistics.tally import Tally

KINDS = ["mean", "std", "extremes", "quantiles", "histogram"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of monthly anomalies given the month before and the month of the year, one without conditions, and starts."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    make(folder, "months", condition={"inputs": {"before": {"kind": "lag"}, "month": {"kind": "month"}}})
    with xr.open_dataset(folder / "fields.nc") as fields:
        fields.isel(time=slice(-3, None)).to_netcdf(folder / "starts.nc")
    temperatures().to_netcdf(folder / "a.nc")
    gaussian_model(folder, name="monthly", data={"anomaly": "monthly"}).rename(folder / "monthly")
    return folder


def config(world: Path, out: Path, **changes: Any) -> piadm_hpc.RunConfig:
    keys: dict[str, Any] = {"model": str(world / "monthly"), "samples": 5, "grid": {"steps": 4}, "out": str(out), "seed": 2}
    keys |= {"solver": {"kind": "sequential"}, "output": {"batch": 2}, "statistics": {"kinds": KINDS}}
    return piadm_hpc.RunConfig(**{**keys, **changes})


def forecasts(world: Path, out: Path, **changes: Any) -> piadm_hpc.RunConfig:
    keys: dict[str, Any] = {"model": str(world / "months"), "condition": {"file": str(world / "starts.nc")}, "samples": 3}
    return config(world, out, **{**keys, "solver": {"tol": 1e-3}, "grid": {"steps": 8}, "rollout": {"leads": 2}, **changes})


def opened(out: Path, **options: Any) -> xr.Dataset:
    with piadm_hpc.open(out, **options) as dataset:
        return dataset.load()


def require_those_of(statistics: xr.Dataset, members: xr.DataArray, name: str = "tas") -> None:
    """Check that moments and extremes are those that xarray computes from the members, to 1e-6 of their spread."""
    wide, spread = members.astype(float), float(members.std())
    for key in ("mean", "std", "min", "max"):
        expected = getattr(wide, key)("realization")
        found = statistics[f"{name}_{key}"].transpose(*expected.dims)
        assert float(abs(found - expected).max()) <= 1e-6 * spread, key
    levels = statistics["quantile"].values
    expected = wide.quantile(levels, "realization")
    assert float(abs(statistics[f"{name}_quantile"].transpose(*expected.dims) - expected).max()) <= 1e-6 * spread


def test_statistics_alone_are_those_beside_the_members(world: Path, tmp_path: Path) -> None:
    """They are drawn by several calls of the command; `check`, `status`, `join` and `plan` support them."""
    with piadm_hpc.sample(config(world, tmp_path / "both")) as members:
        both = opened(tmp_path / "both", statistics=True)
        require_those_of(both, members.tas)
    alone = config(world, tmp_path / "alone", output={"batch": 2, "members": False})
    with piadm_hpc.sample(alone.replace(only=[3])) as first:
        assert first["realization"].values.tolist() == [3]
    made = call("sample", tmp_path / "alone" / "run.toml", "--samples", 5, "--set", "only=[0,1,2,3,4]")
    assert made["code"] == 0 and made["out"].count("open with") == 1 and "statistics=True)" in made["out"], made
    xr.testing.assert_allclose(opened(tmp_path / "alone", statistics=True), both, rtol=1e-6, atol=1e-4)
    assert call("check", "--deep", tmp_path / "alone")["code"] == 0
    assert "5 of 5 samples drawn" in call("status", tmp_path / "alone")["out"]
    (tmp_path / "alone" / "statistics.h5").unlink()
    assert "statistics.h5 is missing" in call("check", tmp_path / "alone")["out"]
    assert call("join", tmp_path / "alone")["code"] == 0 and check(tmp_path / "alone", deep=True).ok
    planned = call("plan", tmp_path / "alone" / "run.toml", "--ranks", 2)["out"]
    assert "mean, std, extremes, quantiles, histogram" in planned and "the samples are not stored" in planned


def test_conditions_and_forecasts_have_statistics_of_their_own(world: Path, tmp_path: Path) -> None:
    with piadm_hpc.sample(forecasts(world, tmp_path / "leads")) as members:
        found = opened(tmp_path / "leads", statistics=True)
        assert found["tas_mean"].dims == ("init_time", "lead_time", "lat", "lon")
        assert found["init_time"].values.tolist() == [str(each)[:19] for each in members["init_time"].values]
        members = members.assign_coords(init_time=found["init_time"])
        require_those_of(found, members.tas)
    with piadm_hpc.sample(forecasts(world, tmp_path / "one", rollout={})) as members:
        found = opened(tmp_path / "one", statistics=True)
        assert found["tas_mean"].dims == ("condition", "lat", "lon") and found["num_members"].values.tolist() == [3, 3, 3]
        require_those_of(found, members.tas)


def test_forecasts_that_are_not_stored_go_on_and_are_counted_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill between the leads of a member these are drawn again, and leads that were counted are not counted twice."""
    run = forecasts(world, tmp_path / "run", output={"batch": 2, "members": False})
    add, calls = Tally.add, 0

    def failing(tally: Tally, ids: Sequence[int], fields: Mapping[str, np.ndarray], per_sample: Mapping[str, np.ndarray]) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise MemoryError("killed")
        add(tally, ids, fields, per_sample)

    with monkeypatch.context() as patched:
        patched.setattr(Tally, "add", failing)
        with pytest.raises(MemoryError):
            piadm_hpc.sample(run)
    found = piadm_hpc.sample(run).load()
    assert (found["num_members"].values == 3).all() and found.sizes["sample"] == 18
    with piadm_hpc.sample(run.replace(out=str(tmp_path / "whole"), output={"members": True})):
        whole = opened(tmp_path / "whole", statistics=True)
    for name in ("tas_mean", "tas_std", "tas_max"):
        assert float(abs(found[name] - whole[name]).max()) < 1e-2


def test_forecasts_in_a_zarr_store_are_those_in_hdf5_and_go_on_from_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lead that is lost is forecast from the one before it, which is read from the Zarr store."""
    monkeypatch.setattr(records, "MOST_ROWS", 6)
    with piadm_hpc.sample(forecasts(world, tmp_path / "hdf5", statistics={})) as dataset:
        expected = dataset.load()
    run = forecasts(world, tmp_path / "zarr", statistics={}, output={"batch": 2, "format": "zarr"})
    with piadm_hpc.sample(run) as found:
        assert found.tas.dims == expected.tas.dims
        assert float(abs(found.tas.values - expected.tas.values).max()) < 1e-2
    (tmp_path / "zarr/samples.zarr/tas/c/1/0/0").unlink()
    with piadm_hpc.sample(run.replace(samples=4)) as more:
        assert more.sizes["realization"] == 4
        assert float(abs(more.tas.values[:, :3] - expected.tas.values).max()) < 1e-2
    made = call("sample", tmp_path / "zarr" / "run.toml", "--only", 2)
    assert "row r of the store is sample r" in one_line(made, 2)


def test_absolute_statistics_have_the_climatology_of_the_month(world: Path, tmp_path: Path) -> None:
    asked = {"kinds": KINDS, "absolute": True, "month": 7}
    with piadm_hpc.sample(config(world, tmp_path / "run", statistics=asked)):
        members = opened(tmp_path / "run", absolute=True, month=7)
        found = opened(tmp_path / "run", statistics=True)
        require_those_of(found, members.tas)
        assert 250 < float(found["tas_mean"].mean()) < 300 and found["tas_mean"].attrs["units"] == "K"
        assert "anomaly" not in found["tas_mean"].attrs["long_name"]


def truth_of(members: xr.Dataset, path: Path, **units: str) -> Path:
    """Take one member as the truth."""
    field = members.tas.isel(realization=0, drop=True)
    attrs = {"units": units.get("units", "K")}
    xr.Dataset({"tas": field.drop_attrs().assign_attrs(attrs)}).drop_encoding().to_netcdf(path)
    return path


def test_scores_against_a_truth_of_every_start_and_lead(world: Path, tmp_path: Path) -> None:
    with piadm_hpc.sample(forecasts(world, tmp_path / "members", statistics={})) as stored:
        members = stored.load()
    truth = truth_of(members, tmp_path / "truth.nc")
    asked = {"kinds": ["crps", "rank_histogram", "exceedance"], "truth": str(truth), "thresholds": {"tas": [280, 281]}}
    run = forecasts(world, tmp_path / "scores", statistics=asked, output={"batch": 2, "members": False})
    found = piadm_hpc.sample(run).load()
    wide, happened = members.tas.astype(float), members.tas.isel(realization=0).astype(float)
    pairs = abs(wide - wide.rename(realization="other")).mean(("realization", "other")) * 3 / 2
    expected = abs(wide - happened).mean("realization") - pairs / 2
    assert float(abs(found["tas_crps"].values - expected.values).max()) < 1e-3
    assert found["tas_rank_histogram"].dims == ("init_time", "lead_time", "rank")
    assert (found["tas_rank_histogram"].sum("rank") == 128).all()
    above = (members.tas > 281).mean("realization")
    assert float(abs(found["tas_exceedance"].isel(tas_threshold=1).values - above.values).mean()) < 0.02


def without_longitude(found: xr.Dataset) -> xr.Dataset:
    return found.isel(lon=0, drop=True)


TRUTHS = {
    "lacks lon": without_longitude,
    "there is no tas; the file has t2m": lambda found: found.rename(tas="t2m"),
    "differs from the grid's": lambda found: found.isel(lon=slice(0, 5)),
    "in other units, or absolute where the model draws anomalies": lambda found: found + 280,
    "has the further dimensions time (2); the run has none": lambda found: xr.concat([found, found], "time"),
    "missing at 1 places": lambda found: found.where((found.lat != found.lat[0]) | (found.lon != found.lon[0])),
    "cannot be converted to 'K'": lambda found: found.tas.assign_attrs(units="kg").to_dataset(),
}


@pytest.mark.parametrize("words", TRUTHS)
def test_truths_that_do_not_fit_are_refused_before_any_work(world: Path, tmp_path: Path, words: str) -> None:
    field = xr.DataArray(np.zeros((len(LAT), len(LON))), {"lat": LAT, "lon": LON}, ("lat", "lon"), name="tas")
    TRUTHS[words](field.assign_attrs(units="K").to_dataset()).to_netcdf(tmp_path / "truth.nc")
    run = config(world, tmp_path / "run", statistics={"kinds": ["crps"], "truth": str(tmp_path / "truth.nc")})
    with pytest.raises(ConfigError) as caught:
        piadm_hpc.sample(run)
    assert words in str(caught.value) and str(caught.value).startswith("statistics.truth: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["output.members=false"], "output.members = false: nothing would be stored; name statistics.kinds"),
        (["statistics.kinds=['exceedance']"], "statistics.thresholds: exceedance needs levels"),
        (["statistics.kinds=['mean']", "statistics.thresholds={tas=[280]}"], "add it, or leave thresholds out"),
        (["statistics.kinds=['crps']"], "statistics.truth: give the file of the observed truth, for crps"),
        (["statistics.kinds=['mean']", "statistics.truth=x.nc"], "statistics.truth: only for crps and rank_histogram"),
        (["statistics.kinds=['mean', 'mean']"], "lists something twice"),
        (["statistics.kinds=['median']"], "did you mean"),
        (["statistics.kinds=['mean']", "statistics.month=7"], "statistics.month: only for statistics.absolute"),
        (["statistics.kinds=['mean']", "statistics.absolute=true"], "statistics.month: give the month"),
        (["statistics.kinds=['exceedance']", "statistics.thresholds={pr=[1]}"], "makes tas, not pr"),
        (["statistics.kinds=['crps']", "statistics.truth=nowhere.nc"], "nowhere.nc: no such file"),
        (["statistics.kinds=['quantiles']", "statistics.quantiles=[]"], "statistics.quantiles: the list is empty"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(world: Path, tmp_path: Path, settings: list[str], words: str) -> None:
    options = [word for setting in settings for word in ("--set", setting)]
    made = call("sample", "--model", world / "monthly", "--out", tmp_path / "run", "--samples", 2, *options)
    assert words in one_line(made, 2)


def test_conformers_have_no_statistics(tmp_path: Path) -> None:
    made = call("plan", "--model", "alanine-dipeptide", "--out", tmp_path, "--set", "statistics.kinds=['mean']")
    assert "makes conformers; statistics are of fields" in one_line(made, 2)
