"""Odd paths with brackets, spaces, percent signs, ~ or $VARIABLES are taken literally if a file has exactly that name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import call, make_model, write_config, write_fields
from hypothesis import given, settings
from hypothesis import strategies as st

import piadm_hpc
from piadm_hpc.config.paths import expanded, matching
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError, build
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.training.fields import train

ODD = [
    "run [1]",
    "größe 50%",
    "a,b=c;d",
    "with 'quote' and \"double\"",
    "dollar$HOME",
    "new\nline",
    "-dash",
    "trailing ",
    "[!a]*?",
]


@pytest.mark.parametrize("name", ODD)
def test_data_model_and_run_below_an_odd_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_fields(folder / "f.nc", 20)
    write_fields(folder / "f[2].nc", 20)
    for number, files in enumerate(([str(folder / "f.nc")], [str(folder / "f*.nc")], ["f[2].nc"])):
        record = {"name": "m", "output": str(folder / f"m{number}"), "network": "none"}
        record["data"] = {"files": files, "variables": ["tas"]}
        made = train(TrainConfig.model_validate(record), root=folder, report=lambda line: None)
        assert made == folder / f"m{number}"
    monkeypatch.chdir(folder)
    config = write_config(folder / "run.toml", Path("m0"), name, samples=4, solver={"tol": 1e-2})
    out = folder / name
    out.mkdir()
    assert call("sample", config)["code"] == 0 and call("check", out, "--deep")["code"] == 0
    with piadm_hpc.open(out) as ours, xr.open_dataset(out / "samples.h5", engine="netcdf4") as plain:
        assert np.isfinite(ours["tas"].values).all() and np.array_equal(ours["tas"], plain["tas"])


def test_home_and_variables_are_expanded_unless_a_file_has_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch [1]"))
    monkeypatch.chdir(tmp_path)
    assert expanded("~/x") == f"{tmp_path}/home/x" and expanded("$SCRATCH/x") == expanded("${SCRATCH}/x")
    assert RunConfig(model="~/m", out="$SCRATCH/r").out == f"{tmp_path}/scratch [1]/r"
    (tmp_path / "$SCRATCH").mkdir()
    assert RunConfig(model="m", out="$SCRATCH").out == "$SCRATCH"
    (tmp_path / "scratch [1]").mkdir()
    for name in ("a.nc", "b[3].nc"):
        (tmp_path / "scratch [1]" / name).touch()
    (tmp_path / "$SCRATCH").rmdir()
    assert [path.name for path in matching("$SCRATCH/*.nc", tmp_path)] == ["a.nc", "b[3].nc"]
    assert [path.name for path in matching("b[3].nc", tmp_path / "scratch [1]")] == ["b[3].nc"]
    assert [path.name for path in matching("scratch [[]1]/[ab]*.nc", tmp_path)] == ["a.nc", "b[3].nc"]
    assert matching("$SCRATCH/none*.nc", tmp_path) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("$NOT_SET/x", "$NOT_SET in '$NOT_SET/x' is not set in the environment"),
        ("${NOT SET}/x", "is not set in the environment"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name in '~nobody-of-this-name/x' is no user's folder"),
        ("a\0b", "a path cannot hold the character NUL"),
    ],
)
def test_a_path_that_means_nothing_is_refused(name: str, words: str) -> None:
    for key in ("model", "out"):
        with pytest.raises(ConfigError) as caught:
            build(RunConfig, {"model": "m", key: name})
        assert words in str(caught.value) and str(caught.value).startswith(f"configuration: {key}: ")


@settings(max_examples=60)
@given(st.text(alphabet="ab[]*?!~$ %{}-", min_size=1, max_size=8))
def test_any_file_that_is_there_is_found_by_its_own_name(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("any") / name
    folder.mkdir()
    (folder / name).touch()
    assert matching(name, folder) == [folder / name] and matching(str(folder / name), Path("/")) == [folder / name]
    assert expanded(name, folder) == name


def test_data_files_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", str(tmp_path))
    make_model(tmp_path)
    data = {"files": ["$DATA/fields.nc"], "variables": ["tas"], "validation_files": []}
    record = {"name": "m", "output": "$DATA/m", "network": "none", "data": data}
    assert train(TrainConfig.model_validate(record), root=tmp_path / "none", report=lambda line: None) == tmp_path / "m"
