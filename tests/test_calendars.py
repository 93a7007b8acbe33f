"""Calendars of the data, noleap and 360_day, are kept through training, conditions, forecasts, statistics and exports."""

from __future__ import annotations

from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from helpers import call
from test_conditional_models import LAT, LON, WAVE, make

import piadm_hpc
from piadm_hpc.config.run import RunConfig
from piadm_hpc.data.dates import from_text
from piadm_hpc.models.condition_frame import ConditionFrame
from piadm_hpc.models.record import read_card

COUNT, LEADS = 60, 2
LAST_DAY = {"360_day": 30, "noleap": 28}
INPUTS = {"tas_1": {"kind": "lag"}, "month": {"kind": "month"}}


def months(calendar: str) -> list[cftime.datetime]:
    """Dates of consecutive months, of which every February has a day that other calendars lack or do not end with."""
    day = LAST_DAY[calendar]
    return [cftime.datetime(2001 + k // 12, 1 + k % 12, day, calendar=calendar) for k in range(COUNT)]


@pytest.fixture(scope="module", params=list(LAST_DAY))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Make files in a calendar, and a model of the next month of fields with dates of this calendar."""
    calendar, folder = str(request.param), tmp_path_factory.mktemp(str(request.param))
    generator = np.random.default_rng(2)
    tas = np.zeros((COUNT, len(LAT), len(LON)), dtype=np.float32)
    for t in range(1, COUNT):
        tas[t] = 0.7 * tas[t - 1] + generator.normal() * WAVE + 0.3 * generator.normal(size=tas[t].shape)
    variable = (("time", "lat", "lon"), 280 + tas, {"units": "K"})
    xr.Dataset({"tas": variable}, {"time": months(calendar), "lat": LAT, "lon": LON}).to_netcdf(folder / "fields.nc")
    make(folder, "model", condition={"inputs": INPUTS})
    with xr.open_dataset(folder / "fields.nc") as fields:
        assert fields.time.dt.calendar == calendar
        fields.isel(time=slice(25, 28)).to_netcdf(folder / "starts.nc")
    return calendar, folder


def test_conditions_that_are_dates_keep_their_calendar(world: tuple[str, Path], tmp_path: Path) -> None:
    """The card and the conditions of samples name the calendar; dates that exist in it alone are written unchanged."""
    calendar, folder = world
    assert read_card(folder / "model" / "card.toml").data.calendar == calendar
    run = RunConfig(
        model=str(folder / "model"), samples=2, out=str(tmp_path / "run"), condition={"file": str(folder / "starts.nc")},
        grid={"steps": 6},
    )  # fmt: skip
    with piadm_hpc.sample(run) as found:
        assert found.condition.attrs["calendar"] == calendar
        assert str(found.condition.values[0])[:10] == f"2003-02-{LAST_DAY[calendar]}" and found.sizes["condition"] == 3
        found.to_netcdf(tmp_path / "again.nc")
    with xr.open_dataset(tmp_path / "again.nc") as again:
        assert again.condition.attrs["calendar"] == calendar


def test_forecasts_start_at_dates_of_their_calendar(world: tuple[str, Path], tmp_path: Path) -> None:
    """Starts are opened as dates of the calendar, for members and for statistics, and stay so in files made from them."""
    calendar, folder = world
    report = call(
        "rollout", "--model", folder / "model", "--init", folder / "starts.nc", "--leads", LEADS, "--samples", 2,
        "--out", tmp_path / "run", "--set", "grid.steps=6", "--set", 'statistics.kinds=["mean"]',
    )  # fmt: skip
    assert report["code"] == 0, report
    with piadm_hpc.open(tmp_path / "run") as found:
        assert found.init_time.values.tolist() == months(calendar)[25:28] and found.init_time.dt.calendar == calendar
        found.to_netcdf(tmp_path / "again.nc")
        assert found.tas.sel(init_time="2003-03").sizes["init_time"] == 1
    with xr.open_dataset(tmp_path / "again.nc") as again:
        assert again.init_time.dt.calendar == calendar and again.init_time.values.tolist() == months(calendar)[25:28]
    with piadm_hpc.open(tmp_path / "run", statistics=True) as statistics:
        assert statistics.init_time.attrs["calendar"] == calendar
    assert call("export", tmp_path / "run", "--out", tmp_path / "flat.nc")["code"] == 0
    with xr.open_dataset(tmp_path / "flat.nc") as flat:
        assert flat.init_time.attrs["calendar"] == calendar
    # and forecasts are verified at their own dates
    report = call("verify", tmp_path / "run", "--truth", folder / "fields.nc")
    assert report["code"] == 0 and "forecasts by lead" in report["out"], report


def test_months_may_be_dates_of_any_calendar(world: tuple[str, Path], tmp_path: Path) -> None:
    """An input of the kind month may be dates in a file: its values are the months of these dates."""
    calendar, folder = world
    with xr.open_dataset(folder / "starts.nc") as starts:
        given = starts.rename(tas="tas_1").assign(month=("time", starts.time.values))
        given.to_netcdf(tmp_path / "named.nc")
    frame = ConditionFrame.of(folder / "model")
    assert frame is not None
    found = frame.read(tmp_path / "named.nc")
    assert found.values["month"].tolist() == [2, 3, 4] and found.labels.attrs["calendar"] == calendar


def test_texts_become_dates_of_their_calendar_or_stay() -> None:
    """Texts that are dates of the calendar are read as such; others remain text."""
    day = np.array(["2001-02-30 00:00:00", "2001-03-01 12:00:00"], dtype=object)
    assert from_text(day, "360_day").tolist() == [
        cftime.datetime(2001, 2, 30, calendar="360_day"), cftime.datetime(2001, 3, 1, 12, calendar="360_day"),
    ]  # fmt: skip
    assert from_text(day, "noleap").tolist() == day.tolist() and from_text(day).tolist() == day.tolist()
    assert from_text(np.array([b"2001-02-28"]), "proleptic_gregorian").dtype.kind == "M"
    assert from_text(np.array(["start a"], dtype=object), "noleap").tolist() == ["start a"]
