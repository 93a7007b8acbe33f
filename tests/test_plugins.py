"""A configuration can name callables: a generator of one call, and an operator that predicts the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import add_network, call, make_model, one_line, write_config

import piadm_hpc
from piadm_hpc.config import plugins
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.run.resolve import make_sampler

GENERATOR = "own_sampling:gaussian_generator"
OWN = '''
"""What a user would write."""

def gaussian_generator(model):
    """The Gaussian's own flow in one call: a generator that needs no training."""
    end = model.delta

    def generate(x, t):
        reference = model.reference.to(x.device, x.dtype)
        return reference.flow(model.process, x, t.double(), t.double() * 0 + end)

    return generate


def gaussian_operator(model, chain):
    """Every point of the path by the same flow."""
    import torch

    def predict(states, points):
        x, reference = states[:, 0].reshape(-1, *model.event_shape), model.reference.to(states.device, states.dtype)
        start = chain.t[:1].expand(len(x))
        later = [reference.flow(model.process, x, start, chain.t[j].expand(len(x))).flatten(1)[:, None] for j in points]
        return torch.stack(later) if later else states.new_zeros(0, *states.shape)

    return predict


def wrong_operator(model, chain):
    return lambda states, points: states


def slow_operator(model, chain):
    """Always the first state: a path as bad as none."""
    return lambda states, points: states.expand(len(points), *states.shape)


NUMBER = 3
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    add_network(make_model(folder), folder / "network")
    (folder / "own_sampling.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder / "network")


@pytest.fixture(autouse=True)
def found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("own_sampling", None)


def test_a_generator_makes_a_sample_in_one_call(model: Model) -> None:
    config = RunConfig(model="m", chain={"generator": GENERATOR})
    sampler = make_sampler(config, model)
    solution = sampler.draw([0, 3])
    assert solution.rounds.tolist() == [1, 1] and solution.calls.tolist() == [1, 1] and bool(solution.converged.all())
    start, end = (torch.full((2,), t, dtype=torch.float64) for t in (model.horizon, model.delta))
    reference = model.reference.to("cpu", torch.float32)
    assert torch.allclose(solution.x, reference.flow(model.process, sampler.prior_states([0, 3])[:, 0], start, end), atol=1e-4)


def test_a_generator_has_the_store_the_ids_and_the_plan_of_any_run(folder: Path) -> None:
    path = write_config(
        folder / "run.toml", folder / "network", folder / "run", chain={"generator": "own_sampling:gaussian_generator"}
    )
    assert call("plan", path)["code"] == 0
    report = call("sample", path)
    assert report["code"] == 0, report
    report = call("sample", path, "--only", "4", "--out", folder / "one")
    assert report["code"] == 0, report
    with piadm_hpc.open(folder / "run" / "samples.h5") as all_of_them, piadm_hpc.open(folder / "one" / "samples.h5") as one:
        assert abs(all_of_them["tas"].values[4] - one["tas"].values[0]).max() < 1e-3
        assert int(one["rounds"][0]) == 1


@pytest.mark.parametrize("name", ["gaussian_operator", "slow_operator"])
def test_a_first_path_of_ones_own_changes_the_sweeps_alone(model: Model, name: str) -> None:
    given = {"chain": {"integrator": "ddim"}, "grid": {"steps": 16}, "compute": {"precision": "float64"}}
    usual = make_sampler(RunConfig(model="m", solver={"kind": "sequential"}, **given), model).draw([1, 2])
    solver = {"start": f"own_sampling:{name}", "tol": 1e-9}
    own = make_sampler(RunConfig(model="m", solver=solver, **given), model).draw([1, 2])
    assert torch.allclose(own.x, usual.x, atol=1e-7) and bool(own.converged.all())


def test_a_good_first_path_saves_sweeps(model: Model) -> None:
    given, ids = {"chain": {"integrator": "ddim"}, "grid": {"steps": 16}}, range(8)
    needed = {
        start: int(
            make_sampler(RunConfig(model="m", solver={"start": start, "tol": 1e-3}, **given), model).draw(ids).sweeps.sum()
        )
        for start in ("own_sampling:gaussian_operator", "own_sampling:slow_operator", "reference")
    }
    good, poor, usual = needed.values()
    assert good < poor and abs(good - usual) <= len(ids), needed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_sampling:gaussian_generater", "has no callable gaussian_generater; did you mean gaussian_generator?"),
        ("own_sampling:NUMBER", "has no callable NUMBER"),
        ("no_such_module:make", "no_such_module cannot be imported .* install it, or name its folder in PYTHONPATH"),
    ],
)
def test_names_that_cannot_be_imported_are_said(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plugins.load("chain.generator", name)


def test_settings_that_contradict_are_refused(folder: Path) -> None:
    path = write_config(folder / "run.toml", folder / "network", folder / "other")
    generator = ("--set", f"chain.generator={GENERATOR}")
    message = one_line(call("plan", path, *generator, "--set", "chain.integrator=ddim"), 2)
    assert "generator makes a sample in one call, ddim in many" in message
    message = one_line(call("plan", path, *generator, "--set", "grid.calls=10"), 2)
    assert "a generator makes one call" in message
    message = one_line(call("plan", path, "--set", "solver.start=referense"), 2)
    assert "solver.start: must be 'auto', 'constant' or 'reference'; did you mean 'reference'?" in message
    message = one_line(call("sample", path, "--set", "solver.start=own_sampling:wrong_operator"), 2)
    assert "the operator gave a path of shape" in message
