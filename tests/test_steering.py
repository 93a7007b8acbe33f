"""Samples that are steered by potentials: the tilted Gaussian, resampling, groups on any ranks, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import call, on_ranks, one_line, write_config, write_fields
from posteriors import dense
from torch import Tensor

import piadm_hpc
from piadm_hpc.models.card import load_model
from piadm_hpc.models.model import Model
from piadm_hpc.run.steering import effective, systematic

F64 = torch.float64
GROUP = 32


def warm(model: Model) -> Any:
    """A log-potential that is linear in the fields, with 0.6 per kelvin at one place."""
    return lambda fields: 0.6 * (fields["tas"][:, 2, 4] - 280.0)


def wrong(model: Model) -> Any:
    return lambda fields: fields["tas"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gaussian model of temperatures."""
    folder = tmp_path_factory.mktemp("steered")
    write_fields(folder / "fields.nc")
    data = {"files": ["fields.nc"], "variables": ["tas"]}
    record = {"name": "m", "output": str(folder / "m"), "network": "none", "data": data, "reference": {"basis": "eof", "rank": 3}}
    return Path(piadm_hpc.train(record, root=folder, report=lambda line: None))


def steered(model: Path, out: Path, **changes: Any) -> piadm_hpc.RunConfig:
    keys: dict[str, Any] = {"model": str(model), "samples": 4 * GROUP, "out": str(out), "compute": {"precision": "float64"}}
    keys |= {"steering": {"potential": "test_steering:warm", "group": GROUP}, "grid": {"steps": 12}, "solver": {"tol": 1e-4}}
    return piadm_hpc.RunConfig(**{**keys, **changes})


def tilted(model: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance at the place, and the mean after tilting, which moves a Gaussian by covariance times gradient."""
    loaded = load_model(model)
    place = 2 * 16 + 4
    scale = float(np.asarray(loaded.normalisation.scale).reshape(-1)[place])
    centre = loaded.decode(loaded.reference.mean.reshape(1, 8, 16).float())["tas"][0, 2, 4]
    variance = dense(loaded.reference)[place, place] * scale**2
    return torch.tensor(float(centre)), variance, float(centre) + 0.6 * variance


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_weighted_samples_are_of_the_tilted_density(model: Path, tmp_path: Path, threshold: float) -> None:
    """They agree within four standard errors, with resampling after every block and without."""
    spec = {"potential": "test_steering:warm", "group": GROUP, "threshold": threshold}
    with piadm_hpc.sample(steered(model, tmp_path / "run", steering=spec)) as samples:
        values, logs = samples.tas.values[:, 2, 4].astype(np.float64), samples.log_weight.values.astype(np.float64)
        ancestors, calls = samples.ancestor.values, samples.model_calls.values
    weights = np.exp(logs - logs.max())
    centre, variance, wanted = tilted(model)
    mean = (weights @ values) / weights.sum()
    share = effective(logs) / len(logs)
    error = float(variance.sqrt()) / np.sqrt(effective(logs) if threshold == 0 else len(set(ancestors.tolist())))
    assert abs(mean - float(wanted)) < 4 * error and float(wanted - centre) > 4 * error
    if threshold == 0:
        assert ancestors.tolist() == list(range(4 * GROUP)) and share < 0.6
    else:
        assert share > 0.6 and len(set(ancestors.tolist())) < 4 * GROUP
        assert bool((ancestors // GROUP == np.arange(4 * GROUP) // GROUP).all())
    assert int(calls.min()) >= 12 + 3
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("effective sample size") == 4 * 4 and "samples 32 to 63, block 4" in log


def test_a_group_is_the_same_alone_on_any_ranks_and_after_a_restart(model: Path, tmp_path: Path) -> None:
    whole = write_config(
        tmp_path / "run.toml", model, tmp_path / "whole", samples=16, steering={"potential": "test_steering:warm", "group": 8},
        compute={"precision": "float64", "model_batch": 16}, output={"batch": "auto"}, grid={"steps": 8},
    )  # fmt: skip
    assert call("sample", whole)["code"] == 0
    with piadm_hpc.open(tmp_path / "whole") as one:
        fields, logs, ancestors = one.tas.load().values, one.log_weight.values, one.ancestor.values
    done, reports = on_ranks(
        2, tmp_path / "ranks", [{"args": ["sample", whole, "--set", f"out={tmp_path / 'two'}", "--time-ranks", 2]}]
    )  # fmt: skip
    assert done.returncode == 0 and all(report["code"] == 0 for rank in reports for report in rank), (done, reports)
    second = call("sample", whole, "--set", f"out={tmp_path / 'some'}", "--only", ",".join(map(str, range(8, 16))))
    assert second["code"] == 0, second
    sorted((tmp_path / "whole" / "shards").glob("*.h5"))[1].unlink()
    (tmp_path / "whole" / "samples.h5").unlink()
    assert call("sample", whole)["code"] == 0
    for folder, kept in (("two", slice(0, 16)), ("some", slice(8, 16)), ("whole", slice(0, 16))):
        with piadm_hpc.open(tmp_path / folder) as other:
            np.testing.assert_allclose(other.tas.values, fields[kept], rtol=0, atol=2e-3)
            np.testing.assert_allclose(other.log_weight.values, logs[kept], atol=1e-3)
            assert other.ancestor.values.tolist() == ancestors[kept].tolist()


def test_systematic_resampling_keeps_expected_numbers() -> None:
    logs = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
    counts = np.mean([np.bincount(systematic(logs, (seed, 0)), minlength=4) for seed in range(2000)], axis=0)
    assert np.allclose(counts, [0.4, 0.8, 1.2, 1.6], atol=0.06)
    assert all(abs(np.bincount(systematic(logs, (seed,)), minlength=4) - counts).max() < 1.1 for seed in range(20))
    assert effective(np.zeros(7)) == pytest.approx(7) and effective(np.array([0.0, -800.0])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 33}, "draw whole groups"),
        ({"grid": {"blocks": 1}}, "resampled at the ends of blocks"),
        ({"chain": {"eta": 0.0}}, "copies of a sample part by noise"),
        ({"output": {"batch": 5}}, "leave batch out"),
        ({"density": {"enabled": True}}, "leave rollout, observations, density"),
    ],
)
def test_settings_that_steering_cannot_have_are_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:  # fmt: skip
    with pytest.raises(ValueError) as caught:
        steered(model, tmp_path, **changes)
    assert words in str(caught.value)


def test_callables_that_are_no_potentials_are_refused(model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.toml", model, tmp_path / "run", samples=8, output={"batch": "auto"})
    given = ("--set", "steering.group=8", "--set")
    lacking = one_line(call("sample", config, *given, "steering.potential=test_steering:cold"), 2)
    assert "test_steering has no callable cold" in lacking and not (tmp_path / "run").exists()
    shape = one_line(call("sample", config, *given, "steering.potential=test_steering:wrong"), 1)
    assert "steering.potential returned [8, 8, 16] for 8 fields" in shape
