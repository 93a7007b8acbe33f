"""Options of commands that compute: values that cannot be end in one line that names the option or its key, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import call, one_line

from piadm_hpc.config.chain import ChainConfig
from piadm_hpc.config.templates import template
from piadm_hpc.models.record import read_card
from piadm_hpc.models.registry import CARD, find_model

COMMANDS = {
    "density": ["--model", "ccsm-temperature", "--data", "none.nc"],
    "weigh": ["none"],
    "tune": ["--model", "ccsm-temperature"],
    "compare": ["target-a:8"],
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


def test_all_mistakes_of_a_comparison_are_told_at_once() -> None:
    done = call("compare", "target-a:8", "--samples", 0, "--tol", -1, "--most-steps", 2)
    assert done["code"] == 2 and all(f"{option}: must be" in done["err"] for option in ("--samples", "--tol", "--most-steps"))


@pytest.mark.parametrize(("kind", "model"), [("climate", "ccsm-temperature"), ("molecules", "alanine-dipeptide")])
def test_templates_name_the_steps_and_the_integrator_that_a_run_takes(kind: str, model: str) -> None:
    text, steps = template(kind), read_card(find_model(model) / CARD).sampling.steps
    assert f'model = "{model}"' in text
    assert f"{steps} here" in text or f"recommends {steps}" in text
    if "for the SDE" in text:
        assert f"{ChainConfig(eta=1.0).method.name} for the SDE, {ChainConfig(eta=0.0).method.name} for the ODE" in text
