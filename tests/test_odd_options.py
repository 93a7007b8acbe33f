"""Impossible values of options end a command, before any work, in one line that names the option or its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import call, one_line, write_config, write_fields

from piadm_hpc.config.chain import ChainConfig
from piadm_hpc.config.templates import template
from piadm_hpc.models.record import read_card
from piadm_hpc.models.registry import CARD, find_model
from piadm_hpc.models.training.command import train

COMMANDS = {
    "density": ["--model", "ccsm-temperature", "--data", "none.nc"],
    "weigh": ["none"],
    "tune": ["--model", "ccsm-temperature"],
    "compare": ["target-a:8"],
    "plan": ["--model", "ccsm-temperature"],
    "reference": ["ccsm-temperature"],
    "report": ["none"],
    "rollout": ["--model", "ersst-forecast", "--init", "none.nc", "--leads", "2"],
}

ODD = [
    ("density", "--batch", "0", "--batch 0: give a number of fields from 1"),
    ("density", "--batch", "-1", "--batch -1: give a number of fields from 1"),
    ("density", "--batch", "1000000000000", "--batch 1000000000000: give a number of fields from 1 to"),
    ("density", "--traces", "few", "density.traces: must be a whole number or 'auto' or 'exact' (given \"few\")"),
    ("density", "--traces", "0", "density.traces: give 'auto', 'exact', or a number of probes from 2"),
    ("density", "--traces", "²", "density.traces: must be a whole number"),
    ("density", "--tol", "0", "solver.tol: must be more than 0"),
    ("density", "--tol", "nan", "solver.tol: must be a finite number"),
    ("density", "--device", "gpu", "compute.device: no 'gpu' on this host"),
    ("density", "--model-batch", "0", "compute.model_batch: must be at least 1"),
    ("density", "--time-ranks", "-1", "compute.time_ranks: must be at least 1 or 'auto' (given -1)"),
    ("density", "--time-ranks", "1.5", "compute.time_ranks: must be a whole number or 'auto'"),
    ("density", "--out", "", "--out '': give the name of a file to write, in a folder that exists"),
    ("density", "--out", "absent/density.h5", "--out 'absent/density.h5': give the name of a file"),
    ("weigh", "--resample", "0", "--resample 0: give a number of samples"),
    ("weigh", "--resample", "1000000000000", "--resample 1000000000000: give a number of samples"),
    ("weigh", "--temperature", "inf", "--temperature inf: give a temperature above zero"),
    ("tune", "--batch", "0", "--batch 0: give a number of samples"),
    ("tune", "--device", "gpu", "compute.device: no 'gpu' on this host"),
    ("tune", "--tol", "inf", "solver.tol: must be a finite number"),
    ("compare", "--samples", "0", "--samples: must be at least 1 (given 0)"),
    ("compare", "--samples", "1000000000000", "--samples: must be at most"),
    ("compare", "--tol", "nan", "--tol: must be a finite number"),
    ("compare", "--tol", "inf", "--tol: must be a finite number"),
    ("compare", "--steps", "-3", "--steps: must be at least 1"),
    ("compare", "--most-steps", "3", "--most-steps: must be at least 4"),
    ("compare", "--latency", "0", "--latency: must be more than 0"),
    ("compare", "--bandwidth", "inf", "--bandwidth: must be a finite number"),
    ("compare", "--model-batch", "0", "--model-batch: must be at least 1"),
    ("compare", "--accelerators", "²", "--accelerators '²': give numbers from 1"),
    ("compare", "--device", "gpu", "--device: no 'gpu' on this host"),
    ("plan", "--latency", "nan", "--latency nan: must be a finite number"),
    ("plan", "--bandwidth", "inf", "--bandwidth inf: must be a finite number"),
    ("plan", "--memory", "inf", "--memory inf: give the GB that a rank has, a finite number"),
    ("plan", "--ranks", "1000000000", "--ranks 1000000000: must be at most 1000000"),
    ("plan", "--nodes", "1000000000", "--nodes 1000000000 --ranks-per-node 1: are 1000000000 ranks; give at most 1000000"),
    ("reference", "--samples", "1000000000000", "--samples must be at most"),
    ("reference", "--probes", "1000000000000", "--probes must be at most"),
    ("reference", "--levels", "2", "--levels must be at least 3"),
    ("reference", "--seed", "-1", "--seed must be from 0"),
    ("report", "--baselines", "-3", "--baselines -3: give a number of samples from 1"),
    ("rollout", "--leads", "0", "rollout.leads: must be at least 1"),
    ("rollout", "--time-ranks", "²", "compute.time_ranks: must be a whole number or 'auto'"),
    ("rollout", "--guidance", "nan", "condition.guidance: must be a finite number"),
]


@pytest.mark.parametrize(("command", "option", "value", "words"), ODD, ids=lambda text: str(text)[:24])
def test_odd_values_end_in_one_line_that_names_them(
    command: str, option: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = one_line(call(command, *COMMANDS[command], f"{option}={value}"), 2)
    assert words in line and "validation error" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["target-a:²", "target-a:0", "target-a:99999999999"])
def test_exact_scores_have_a_sensible_number_of_modes(name: str) -> None:
    assert "give the number of modes after the colon, from 2 to" in one_line(call("compare", name), 2)


def test_nothing_is_replaced_that_is_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command replaces only files of the kind that it writes, never data, models, runs or configurations of others."""
    monkeypatch.chdir(tmp_path)
    write_fields(tmp_path / "a.nc", 20)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.nc").write_bytes((tmp_path / "a.nc").read_bytes())
    recipe = {"name": "m", "output": "m", "network": "none", "data": {"files": ["a.nc"], "variables": ["tas"]}}
    train(recipe, report=lambda line: None)
    config = write_config(tmp_path / "run.toml", Path("m"), "run", samples=2, solver={"tol": 1e-2})
    assert call("sample", config)["code"] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "run"}
    for output, words in (
        ("data", "data is there already and is no"),
        ("run", "run is there"),
        ("a.nc", "a.nc is"),
        (".", "no name"),
    ):
        with pytest.raises(ValueError, match=f"output: .*{words}"):
            train(recipe | {"output": output}, report=lambda line: None)
    for name in ("a.nc", "run/samples.h5", "m/card.toml", "m/reference.h5", "run.toml"):
        for command in (("reference", "m", "--data", "a.nc"), ("density", "--model", "m", "--data", "a.nc")):
            assert "something else is there already" in one_line(call(*command, "--out", name), 2)
        if name != "run/samples.h5":
            assert "holds no samples; remove it" in one_line(call("join", "run", "--copy", "--to", name), 1)
    for again in (
        ("sample", config, "--out", "m"),
        ("sample", config, "--out", "m", "--overwrite"),
        ("plan", config, "--out", "m"),
    ):
        assert "out: m is the folder of a model" in one_line(call(*again), 2)
    assert all(path.read_bytes() == content for path, content in before.items())
    for _ in range(2):  # files of a command's own kind are replaced
        assert call("join", "run", "--copy", "--to", "copy.h5")["code"] == 0
        assert call("reference", "m", "--data", "a.nc", "--out", "reference.h5")["code"] == 0
        train(recipe, report=lambda line: None)


def test_all_mistakes_of_a_comparison_are_reported_at_once() -> None:
    done = call("compare", "target-a:8", "--samples", 0, "--tol", -1, "--most-steps", 2)
    assert done["code"] == 2 and all(f"{option}: must be" in done["err"] for option in ("--samples", "--tol", "--most-steps"))


@pytest.mark.parametrize(("kind", "model"), [("climate", "ccsm-temperature"), ("molecules", "alanine-dipeptide")])
def test_templates_name_the_steps_and_the_integrator_that_a_run_takes(kind: str, model: str) -> None:
    text, steps = template(kind), read_card(find_model(model) / CARD).sampling.steps
    assert f'model = "{model}"' in text
    assert f"{steps} here" in text or f"recommends {steps}" in text
    if "for the SDE" in text:
        assert f"{ChainConfig(eta=1.0).method.name} for the SDE, {ChainConfig(eta=0.0).method.name} for the ODE" in text
