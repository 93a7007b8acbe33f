"""The wheel has the right contents and works where this working copy cannot be imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

from piadm_hpc.host.launcher import local_environment

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODELS = ["alanine-dipeptide", "ccsm-forced", "ccsm-temperature", "ersst-forecast"]
LISTING = """
import piadm_hpc
from piadm_hpc.models.registry import shipped_models
print(piadm_hpc.__file__, piadm_hpc.__version__, *shipped_models())
"""


def run(command: Sequence[object], *, cwd: Path, path: Path | None = None) -> str:
    """Run a command, which looks for packages in `path` before this environment; returns its output."""
    environment = {key: value for key, value in local_environment(1).items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as any installer builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run([*pip, ROOT], cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_the_package_and_the_shipped_models(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "piadm_hpc").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules, "scripts of datasets are no modules"
    models = {str(path.relative_to(ROOT)) for name in MODELS for path in (ROOT / "datasets" / name).iterdir()}
    assert {f"piadm_hpc/{name}" for name in models} <= names
    # `piadm verify` compares with the frames that were held out, and the card has their digest
    assert {"piadm_hpc/py.typed", "piadm_hpc/datasets/alanine-dipeptide/held_out.h5"} <= names
    assert all(name.startswith(("piadm_hpc/", f"piadm_hpc-{PROJECT['version']}.dist-info/")) for name in names)


def test_its_metadata_say_whose_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"piadm_hpc-{PROJECT['version']}.dist-info/METADATA").decode()
    metadata = Parser().parsestr(text)
    assert (metadata["Name"], metadata["Version"]) == ("piadm_hpc", PROJECT["version"])
    assert metadata["Author"] == "piadm_hpc developers" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Keywords"] and "Typing :: Typed" in metadata.get_all("Classifier", [])
    for file in ("CITATION.cff", "CHANGELOG.md"):
        assert PROJECT["version"] in (ROOT / file).read_text(encoding="utf-8"), file


def test_it_works_alone(wheel: Path, tmp_path: Path) -> None:
    """The wheel is installed into a separate folder; commands and shipped models work, and one of them is sampled."""
    place, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel], cwd=work)
    piadm = [sys.executable, place / "bin" / "piadm"]
    assert run([*piadm, "--help"], cwd=work, path=place).startswith("usage: piadm")
    said = run([sys.executable, "-c", LISTING], cwd=work, path=place).split()
    assert Path(said[0]).is_relative_to(place) and said[1] == PROJECT["version"] and said[2:] == MODELS
    settings = ["--samples", "1", "--set", "grid.steps=6", "--out", "run"]
    run([*piadm, "sample", "--model", "ccsm-temperature", *settings], cwd=work, path=place)
    assert "1 samples in 1 shards" in run([*piadm, "check", "run"], cwd=work, path=place)
