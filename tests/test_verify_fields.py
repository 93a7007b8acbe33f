"""`piadm verify` and `piadm export` on fields: samples of a Gaussian model, its training data and a truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers import call, make_model, one_line, write_config

from piadm_hpc.store.reading import open_run

SAMPLES = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder with fields.nc, on which the model was trained, and truth.nc, which holds another field."""
    folder = tmp_path_factory.mktemp("fields")
    model = make_model(folder)
    config = write_config(folder / "run.toml", model, folder / "run", samples=SAMPLES, output={"batch": 20}, grid={"steps": 40})
    assert call("sample", config)["code"] == 0
    with xr.open_dataset(folder / "fields.nc") as fields:
        fields.isel(time=[7]).to_netcdf(folder / "truth.nc")
    return folder / "run"


def test_every_comparison_of_fields(run: Path) -> None:
    beside = run.parent
    report = call("verify", run, *(f"--{name}={beside / file}" for name, file in FILES.items()))
    assert report["code"] == 0, report
    record = record_of(run)["tas"]
    low, high = record["quantiles"]["0.01"]
    assert abs(low - high) < 3  # in K, for fields with a spread of 4
    assert 0.5 < record["pattern_variance_ratio"][0] < 2
    assert len(record["rank_histogram"]) == SAMPLES + 1 and sum(record["rank_histogram"]) == pytest.approx(1)
    assert 0 < record["fair_crps"] < 4
    # the nearest field of a training field is itself; samples are as far away as independent fields
    assert record["nearest_training"]["reference"] == 0 < 0.05 < record["nearest_training"]["samples"]
    page = (run / "report" / "verify.html").read_text()
    assert "extremes" in page and "<script" not in page
    assert page.count("data:image/png;base64,") == 2  # maps and spectra, also compared with the truth
    origin = record_of(run)["origin"]
    assert (
        origin["model"] == "gaussian" and origin["seed"] == "0" and set(origin) > {"weights", "drawn", "piadm_hpc", "looked at"}
    )
    assert all(f"{name} {value}" in page for name, value in origin.items())
    for words in ("extremes", "leading patterns", "against the truth", "nearest training field", "Cost"):
        assert words in report["out"], words


def record_of(run: Path) -> dict[str, Any]:
    """The numbers of the last verification."""
    return json.loads((run / "report" / "verify.json").read_text())  # type: ignore[no-any-return]


FILES = {"against": "fields.nc", "truth": "truth.nc", "training": "fields.nc"}


def test_what_is_left_out_is_reported(run: Path) -> None:
    report = call("verify", run)
    assert report["code"] == 0 and "For more, give files of fields: --against, --truth, --training" in report["out"]
    assert "only for conformers" in one_line(call("verify", run, "--energy", "a:b"), 2)
    assert "xarray cannot open it" in one_line(call("verify", run, "--truth", run / "run.toml"), 2)
    two = run.parent / "two.nc"
    with xr.open_dataset(run.parent / "fields.nc") as fields:
        fields.isel(time=[0, 1]).to_netcdf(two)
    assert "give one field on the samples' grid" in one_line(call("verify", run, "--truth", two), 2)


@pytest.mark.filterwarnings("ignore::UserWarning")  # a warning of zarr about a format that is not final
@pytest.mark.parametrize(("form", "name"), [("netcdf", "out.nc"), ("zarr", "out.zarr")])
def test_fields_are_exported_whole(run: Path, tmp_path: Path, form: str, name: str) -> None:
    assert call("export", run, "--to", form, "--out", tmp_path / name)["code"] == 0
    opened = xr.open_zarr(tmp_path / name) if form == "zarr" else xr.open_dataset(tmp_path / name)
    with opened as found, open_run(run) as expected:
        np.testing.assert_array_equal(found["tas"].values, expected["tas"].values)
        np.testing.assert_array_equal(found["realization"].values, expected["realization"].values)
        assert found["tas"].attrs["units"] == "K" and found.attrs["seed"] == expected.attrs["seed"]
    assert "holds fields" in one_line(call("export", run, "--to", "xtc"), 2)
