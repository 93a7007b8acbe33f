"""Files of version 0.1.0 still open and its runs go on: samples, run folders, model cards.

Version 0.1.0 wrote `data/version-0.1.0/samples.npz`, for both shipped models, with
`piadm sample --samples 2 --seed 7 --model MODEL` and the settings of `RUNS` below; `flow-tight` has a tolerance of 1e-4. Its
samples were within the tolerance of the chain step by step; today's are compared with that chain too.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PIADM
from launching import launch

import piadm_hpc as piadm
from piadm_hpc.models.card import load_model

OLD = Path(__file__).parent / "data" / "version-0.1.0"
MODELS = {"ccsm": "ccsm-temperature", "alanine": "alanine-dipeptide"}
TOL = 1e-2  # the default tolerance
FIELDS = {"ccsm": "TREFHT", "alanine": "coordinates"}
CHAINS = {  # the defaults of version 0.1.0
    "ccsm": {"chain.integrator": "gaussian", "grid.steps": 48},
    "alanine": {"chain.integrator": "gaussian", "grid.steps": 24},
}
FLOWS: dict[str, dict[str, Any]] = {"ccsm": {}, "alanine": {"chain.integrator": "gaussian-ab2", "grid.steps": 24}}
RUNS: dict[str, dict[str, Any]] = {
    "sde": {"solver.kind": '"picard"'},
    "flow": {"chain.eta": 0.0},
    "window": {"solver.window": 12},
    "steps": {"solver.kind": '"sequential"'},
}


@cache
def stored() -> dict[str, np.ndarray]:
    with np.load(OLD / "samples.npz") as arrays:
        return dict(arrays)


def drawn(model: str, run: str, folder: Path, ranks: int | None = None) -> np.ndarray:
    """Draw the two samples with the present code."""
    chosen = RUNS[run] | (FLOWS[model] if run == "flow" else CHAINS[model])
    settings = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    command = [PIADM, "sample", "--model", MODELS[model], "--samples", "2", "--seed", "7", "--out", "run", *settings]
    done = launch(command + (["--time-ranks", str(ranks)] if ranks else []), ranks=ranks, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stderr
    with piadm.open(folder / "run") as dataset:
        return np.asarray(dataset[FIELDS[model]].values)


def away(model: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest root mean square difference of a sample, in standard deviations of the model's data."""
    encode = load_model(MODELS[model]).encode
    states = [encode({FIELDS[model]: values}).flatten(1) for values in (found, expected)]
    return float((states[0] - states[1]).square().mean(1).sqrt().max())


@pytest.mark.parametrize("model", MODELS)
def test_the_chain_step_by_step_is_that_of_0_1_0(model: str, tmp_path: Path) -> None:
    expected = stored()[f"{model}-steps"]
    np.testing.assert_allclose(drawn(model, "steps", tmp_path), expected, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("run", "truth"), [("sde", "steps"), ("window", "steps"), ("flow", "flow-tight")])
def test_sweeps_find_the_samples_of_0_1_0(model: str, run: str, truth: str, tmp_path: Path) -> None:
    assert away(model, drawn(model, run, tmp_path), stored()[f"{model}-{truth}"]) < TOL


def test_two_ranks_draw_the_samples_of_0_1_0(tmp_path: Path) -> None:
    assert away("ccsm", drawn("ccsm", "sde", tmp_path, ranks=2), stored()["ccsm-steps"]) < TOL


def test_a_run_of_0_1_0_opens(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD / "finished", tmp_path / "finished"))
    with piadm.open(run) as dataset:
        assert dict(dataset.sizes) == {"realization": 3, "block": 1, "lat": 8, "lon": 16}
        assert bool(dataset.converged.all()) and float(dataset.tas.mean()) == pytest.approx(280, abs=5)
    assert piadm.check(run).ok


def test_a_run_of_0_1_0_goes_on(tmp_path: Path) -> None:
    """Members that 0.1.0 drew stay, and the missing one equals that of the finished run."""
    for name in ("begun", "gaussian"):
        shutil.copytree(OLD / name, tmp_path / name)
    done = launch([PIADM, "sample", "begun/run.toml", "--samples", "3"], ranks=None, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 samples to make" in done.stdout
    with piadm.open(tmp_path / "begun") as dataset, piadm.open(OLD / "finished") as finished:
        np.testing.assert_allclose(dataset.tas.values, finished.tas.values, rtol=1e-6)
