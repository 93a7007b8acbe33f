"""Conditions of a model of anomalies: absolute fields lose the climatology of their months, or are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers import call, one_line
from test_conditional_models import LAT, LON, WAVE, make

from piadm_hpc.data.anomalies import nearer_zero
from piadm_hpc.data.condition_files import Known, read_conditions
from piadm_hpc.models.climatology import climatology_of
from piadm_hpc.models.condition_frame import ConditionFrame
from piadm_hpc.models.record import InputCard
from piadm_hpc.schema.layout import Coordinate
from piadm_hpc.store.arrays import read_arrays, write_arrays

COUNT = 72
LAGS = {"tas_1": {"kind": "lag"}, "tas_2": {"kind": "lag", "lag": 2}, "month": {"kind": "month"}}


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train models of months given the two before them, on fields around 14 degC with an annual cycle and persistence."""
    folder = tmp_path_factory.mktemp("season")
    generator = np.random.default_rng(1)
    x = np.zeros((COUNT, len(LAT), len(LON)))
    for t in range(1, COUNT):
        x[t] = 0.7 * x[t - 1] + generator.normal() * WAVE + 0.3 * generator.normal(size=x[t].shape)
    cycle = 14 + 4 * np.cos(2 * np.pi * np.arange(COUNT) / 12)[:, None, None] + 10 * np.cos(np.deg2rad(LAT))[:, None]
    times = np.arange(np.datetime64("2000-01"), np.datetime64("2000-01") + COUNT).astype("datetime64[ns]")
    tas = (("time", "lat", "lon"), (cycle + x).astype(np.float32), {"units": "degC", "long_name": "temperature"})
    xr.Dataset({"tas": tas}, {"time": times, "lat": LAT, "lon": LON}).to_netcdf(folder / "fields.nc")
    data = {"files": ["fields.nc"], "variables": ["tas"], "scale": "global", "validation_fraction": 0.1, "test_fraction": 0.1}
    for anomaly in ("monthly", "mean"):
        make(folder, anomaly, condition={"inputs": LAGS}, data={**data, "anomaly": anomaly})
    return folder


def starts(folder: Path, month: int = 5) -> xr.Dataset:
    """Return absolute fields of four months from `month` on, in the third year."""
    with xr.open_dataset(folder / "fields.nc") as fields:
        return fields.isel(time=slice(23 + month, 27 + month)).load()


def anomalies(folder: Path, fields: xr.Dataset, model: str = "monthly") -> xr.Dataset:
    """Return the same fields less the model's climatology."""
    removed = climatology_of(folder / model)
    assert removed is not None
    months = fields.time.dt.month.values - 1 if removed.monthly else 0
    return fields.assign(tas=(fields.tas - removed.fields["tas"][months]).assign_attrs(units="degC"))


def read(folder: Path, file: Path, model: str = "monthly") -> dict[str, np.ndarray]:
    frame = ConditionFrame.of(folder / model)
    assert frame is not None
    return frame.read(file).values


def _named(fields: xr.Dataset) -> xr.Dataset:
    """Return the inputs of one start by their names."""
    now, before = (fields.tas.isel(time=k, drop=True) for k in (-1, -2))
    return xr.Dataset({"tas_1": now, "tas_2": before, "month": int(fields.time.dt.month[-1]) % 12 + 1})


def _kelvin(fields: xr.Dataset, offset: float) -> xr.Dataset:
    return fields.assign(tas=(fields.tas + offset).assign_attrs(units="K", long_name="temperature"))


def _ends(fields: xr.Dataset) -> xr.Dataset:
    """Return the fields with months stamped by the instant at which they end, and with bounds."""
    first = fields.time.values.astype("datetime64[M]")
    bounds = np.stack([first, first + 1], 1).astype("datetime64[ns]")
    found = fields.assign_coords(time=bounds[:, 1]).assign(time_bnds=(("time", "two"), bounds))
    found.time.attrs["bounds"], found.time.encoding["units"] = "time_bnds", "days since 2000-01-01"
    return found


@pytest.mark.parametrize("model", ["monthly", "mean"])
@pytest.mark.parametrize("form", ["absolute", "kelvin", "anomalies in kelvin", "called anomalies", "ends of months", "backwards"])
def test_every_form_of_the_same_starts_is_the_same_anomalies(season: Path, tmp_path: Path, model: str, form: str) -> None:
    absolute = starts(season)
    apart = anomalies(season, absolute, model)
    given: xr.Dataset = {
        "absolute": lambda: absolute,
        "kelvin": lambda: _kelvin(absolute, 273.15),
        "anomalies in kelvin": lambda: _kelvin(apart, 0),
        "called anomalies": lambda: apart.assign(tas=apart.tas.assign_attrs(long_name="temperature anomaly")),
        "ends of months": lambda: _ends(absolute),
        "backwards": lambda: absolute.isel(time=slice(None, None, -1)),
    }[form]()  # fmt: skip
    given.to_netcdf(tmp_path / "given.nc")
    found = read(season, tmp_path / "given.nc", model)
    assert np.abs(found["tas_1"] - apart.tas.values[1:]).max() < 1e-3
    assert np.abs(found["tas_2"] - apart.tas.values[:-1]).max() < 1e-3
    assert found["month"].tolist() == [7, 8, 9]


def test_starts_around_the_new_year_lose_the_climatology_of_their_own_months(season: Path, tmp_path: Path) -> None:
    absolute = starts(season, 11)
    absolute.to_netcdf(tmp_path / "given.nc")
    found = read(season, tmp_path / "given.nc")
    assert np.abs(found["tas_2"] - anomalies(season, absolute).tas.values[:-1]).max() < 1e-3
    assert found["month"].tolist() == [1, 2, 3]


def test_absolute_fields_of_unknown_months_are_refused_and_anomalies_are_not(season: Path, tmp_path: Path) -> None:
    """Absolute inputs by name, and fields without dates, are refused; a mean over all times needs no months."""
    absolute, out = starts(season), tmp_path / "run"
    apart = anomalies(season, absolute)
    for name, fields in (("absolute", absolute), ("apart", apart)):
        _named(fields).to_netcdf(tmp_path / f"{name}.nc")
        numbered = fields.assign(month=("time", np.arange(1, 5))).assign_coords(time=np.arange(4))
        numbered.to_netcdf(tmp_path / f"{name}-numbered.nc")
    words = "holds absolute values, the model anomalies from monthly means, and the file no months"
    line = one_line(call("sample", "--model", season / "monthly", "--condition", tmp_path / "absolute.nc", "--out", out), 2)
    assert f"tas_1 {words} (tas_1 is given by its own name; give tas with dates)" in line and f"tas_2 {words}" in line
    assert not out.exists()
    with pytest.raises(ValueError, match=rf"tas_1 {words} \(time has no units\)"):
        read(season, tmp_path / "absolute-numbered.nc")
    expected = anomalies(season, absolute, "mean").tas.values[-1]
    assert np.abs(read(season, tmp_path / "absolute.nc", "mean")["tas_1"] - expected).max() < 1e-3
    assert np.abs(read(season, tmp_path / "apart.nc")["tas_1"][0] - apart.tas.values[-1]).max() < 1e-6
    found = read(season, tmp_path / "apart-numbered.nc")
    assert np.abs(found["tas_1"] - apart.tas.values[1:]).max() < 1e-6 and found["month"].tolist() == [2, 3, 4]


def test_absolute_fields_of_months_without_a_climatology_are_refused(season: Path, tmp_path: Path) -> None:
    starts(season).to_netcdf(tmp_path / "given.nc")
    frame = ConditionFrame.of(season / "monthly")
    assert frame is not None and frame.levels["tas"].removed is not None
    removed = frame.levels["tas"].removed.copy()
    removed[5] = np.nan
    summerless = replace(frame, levels={"tas": replace(frame.levels["tas"], removed=removed)})
    with pytest.raises(ValueError, match="tas_1 holds absolute values of months for which the model keeps no climatology"):
        summerless.read(tmp_path / "given.nc")


def test_other_inputs_stand_beside_dated_fields(season: Path, tmp_path: Path) -> None:
    """A number for every date applies to the last known field, and a single number to all conditions."""
    given = starts(season).assign(forcing=("time", [0.1, 0.2, 0.3, 0.4]), level=0.5)
    given.isel(time=[2, 0, 3, 1]).to_netcdf(tmp_path / "given.nc")
    frame = ConditionFrame.of(season / "monthly")
    assert frame is not None
    numbers = [InputCard(name=name, kind="scalar", variable=name) for name in ("forcing", "level")]
    found = replace(frame, inputs=[*frame.inputs, *numbers]).read(tmp_path / "given.nc")
    assert found.values["forcing"].tolist() == [0.2, 0.3, 0.4] and found.values["level"].tolist() == [0.5] * 3
    assert found.values["month"].tolist() == [7, 8, 9]
    assert [str(label)[:7] for label in found.labels.values] == ["2002-06", "2002-07", "2002-08"]


def test_forecasts_from_absolute_starts_are_anomalies(
    season: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Any:  # fmt: skip
    """On the command line, absolute starts give the same members as anomalies, and one line says what was subtracted."""
    absolute = starts(season)
    absolute.to_netcdf(tmp_path / "absolute.nc")
    anomalies(season, absolute).to_netcdf(tmp_path / "apart.nc")
    ends = []
    for name in ("absolute", "apart"):
        out = tmp_path / name
        done = call("rollout", "--model", season / "monthly", "--init", tmp_path / f"{name}.nc", "--leads", 2, "--samples", 1,
                    "--out", out, "--set", "grid.steps=6")  # fmt: skip
        assert done["code"] == 0, done
        line = f"{name}.nc: tas_1 holds absolute values; the model's climatology is subtracted"
        assert caplog.text.count(line) == (name == "absolute")
        with xr.open_dataset(out / "samples.h5", engine="h5netcdf") as found:
            ends.append(found.tas.values)
    assert np.abs(ends[0] - ends[1]).max() < 1e-2 and np.abs(ends[0]).max() < 10


def test_without_a_climatology_absolute_fields_are_refused_by_their_size(season: Path, tmp_path: Path) -> None:
    """This covers a model without a stored climatology, and a domain larger than the model's, whose climatology nobody has."""
    shutil.copytree(season / "monthly", tmp_path / "old")
    arrays, attrs = read_arrays(tmp_path / "old" / "reference.h5")
    write_arrays(tmp_path / "old" / "reference.h5", {name: a for name, a in arrays.items() if name != "climatology"}, attrs)
    absolute = starts(season)
    absolute.to_netcdf(tmp_path / "absolute.nc")
    anomalies(season, absolute).to_netcdf(tmp_path / "apart.nc")
    with pytest.raises(ValueError, match="tas_1 holds absolute values, and the model anomalies; subtract the mean first"):
        read(tmp_path, tmp_path / "absolute.nc", "old")
    assert len(read(tmp_path, tmp_path / "apart.nc", "old")["tas_1"]) == 3
    frame = ConditionFrame.of(season / "monthly")
    assert frame is not None and frame.levels["tas"].removed is not None
    wide = replace(frame, grid={**frame.grid}).over((8, 32))
    assert wide.levels["tas"].removed is None and wide.levels["tas"].anomaly


def test_land_and_whatever_a_file_has_there_warn_of_nothing(season: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Values at points without data do not count, whatever they are, and cause no warning."""
    absolute, removed = starts(season).tas.values.astype(np.float64), climatology_of(season / "mean")
    assert removed is not None
    climatology = removed.fields["tas"].copy()
    apart = absolute - climatology
    climatology[:, :2] = np.nan
    for land in (np.nan, 1e20):
        absolute[:, :2], apart[:, :2] = land, land
        assert nearer_zero(absolute, absolute, climatology) is False
        assert nearer_zero(apart, apart, climatology) is True
    assert nearer_zero(absolute, np.full_like(absolute, np.nan), climatology) is None
    assert not [warning for warning in recwarn if "empty slice" in str(warning.message)]


@pytest.mark.parametrize(
    ("values", "attrs", "expected"),
    [
        ([0.5, 1.5], {"units": "K"}, [0.5, 1.5]),
        ([0.5, 1.5], {"units": "degC"}, [0.5, 1.5]),
        ([0.5, 1.5], {}, [0.5, 1.5]),
        ([0.5, 1.5], {"units": "degC", "long_name": "temperature anomaly"}, [0.5, 1.5]),
        ([14.6, 15.2], {"units": "degC"}, None),
        ([287.6, 288.2], {"units": "K"}, None),
        ([287.6, 288.2], {}, None),
    ],
)
def test_area_means_are_those_of_anomalies(tmp_path: Path, values: list, attrs: dict, expected: list | None) -> None:
    """Deviations are so large here, 20 K, that size alone does not tell an absolute mean; the climatology does."""
    grid = {"lat": Coordinate(("lat",), LAT, {"units": "degrees_north"}), "lon": Coordinate(("lon",), LON, {})}
    climatology = np.broadcast_to(287.0 + np.arange(12)[:, None, None] / 12, (12, len(LAT), len(LON)))
    given = InputCard(name="warming", kind="ensemble_mean", variable="tas", units="K", mean=0.0, scale=20.0)
    levels = {"tas": Known(0.0, 20.0, anomaly=True, removed=climatology)}
    xr.Dataset({"warming": ("year", values, attrs)}).to_netcdf(tmp_path / "c.nc")
    mask = np.ones((len(LAT), len(LON)), dtype=bool)
    if expected is None:
        with pytest.raises(ValueError, match=r"warming holds absolute values .*its climatology \(287.5 over the year\)"):
            read_conditions(tmp_path / "c.nc", [given], grid, mask, levels)
    else:
        found = read_conditions(tmp_path / "c.nc", [given], grid, mask, levels).values["warming"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
