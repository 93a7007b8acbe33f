"""Conformers given a number and a class: training, closed forms, runs of several conditions, and recipes that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, one_line

import piadm_hpc
from piadm_hpc.data.superpose import rigid_motions
from piadm_hpc.data.trajectories import TrajectoryConfig, read_frames
from piadm_hpc.host.stop import StopReason, StopRequested
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import ConformerTrainConfig
from piadm_hpc.models.training.conformer_data import condition_conformers, read_conformers
from piadm_hpc.models.training.molecules import train_conformers
from piadm_hpc.schema.layout import conformer_layout
from piadm_hpc.schema.topology import Atom, Topology
from piadm_hpc.store.shard import write_samples

SHAPE = np.array([[0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.35, 0.15, 0.05], [0.4, 0.28, 0.1], [0.3, 0.3, 0.25]])
TOPOLOGY = Topology(tuple(Atom(f"C{k}", "C", "MOL", 1) for k in range(6)), tuple((k, k + 1) for k in range(5)))
TEMPERATURES, FRAMES, NOISE = (300.0, 330.0, 360.0, 390.0), 400, 0.002
STRETCH = 0.0006 * (SHAPE - SHAPE.mean(0))  # nm per K
SHIFT = 0.01 * np.cos(np.arange(18)).reshape(6, 3)  # nm, for the second class


def write_frames(path: Path, positions: np.ndarray, **more: np.ndarray) -> None:
    """Write a file of conformers, with a number for every frame under each further name."""
    write_samples(
        path, layout=conformer_layout(TOPOLOGY), ids=tuple(range(len(positions))),
        fields={"coordinates": positions.astype(np.float32)}, per_sample={}, attributes={"title": "frames"}, compression="none",
    )  # fmt: skip
    with h5py.File(path, "r+") as file:
        for name, values in more.items():
            file[name] = values
            file[name].attrs["units"] = "kelvin" if name == "temperature" else "1"
            file[name].dims[0].attach_scale(file["sample"])


def world(temperature: np.ndarray, state: np.ndarray, seed: int) -> np.ndarray:
    """Return frames [n, 6, 3] that stretch with their temperature, are shifted by their class, and fluctuate."""
    noise = NOISE * np.random.default_rng(seed).normal(size=(len(temperature), 6, 3))
    return SHAPE + (temperature - 345)[:, None, None] * STRETCH + state[:, None, None] * SHIFT + noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make four trajectories, one per temperature and each with both classes, and two models of them."""
    made = tmp_path_factory.mktemp("hot")
    for k, kelvin in enumerate(TEMPERATURES):
        state = np.random.default_rng(k).integers(0, 2, FRAMES)
        temperature = np.full(FRAMES, kelvin)
        write_frames(made / f"run_{k}.h5", world(temperature, state, 10 + k), temperature=temperature, state=state)
    (made / "topology.pdb").write_text(TOPOLOGY.to_pdb(SHAPE), encoding="utf-8")
    train_conformers(settings(made / "gaussian", network="none"), root=made, report=lambda line: None)
    train_conformers(settings(made / "network"), root=made, report=lambda line: None)
    return made


INPUTS: dict[str, Any] = {
    "temperature": {"kind": "scalar", "by_file": {f"run_{k}.h5": kelvin for k, kelvin in enumerate(TEMPERATURES)}, "units": "K"},
    "state": {"kind": "class", "classes": 2},
}


def settings(output: Path, **changes: Any) -> ConformerTrainConfig:
    record: dict[str, Any] = {
        "name": output.name,
        "output": str(output),
        "data": {"trajectories": ["run_?.h5"], "test_files": ["run_3.h5"]},
        "condition": {"inputs": INPUTS, "dropout": 0.2},
        "network": {"width": 16, "depth": 1, "embedding": 16},
        "optimiser": {"steps": 6, "batch": 32, "warm_up": 0, "validate_every": 3},
        **changes,
    }
    return ConformerTrainConfig.model_validate(record)


def given(path: Path, temperature: Any, state: Any, units: str = "K") -> Path:
    """Write a file of conditions."""
    xr.Dataset({"temperature": ("number", temperature, {"units": units}), "state": ("number", state)}).to_netcdf(path)
    return path


def test_the_mean_follows_the_temperature_and_the_class(folder: Path) -> None:
    """Stretch per kelvin and shift of the class, but for rigid motions; what is left trembles as much as the world does."""
    model = load_model(folder / "gaussian")
    assert model.conditioning is not None and model.constraint is not None
    assert [(one.name, one.kind, one.units) for one in model.conditioning.inputs] == [
        ("temperature", "scalar", "K"), ("state", "class", "1"),
    ]  # fmt: skip
    assert model.card["condition"]["explained"] > 0.8
    c = model.conditioning.encode({"temperature": np.array([300.0, 301.0, 300.0]), "state": np.array([0, 0, 1])})
    means = model.decode(torch.zeros(3, 6, 3), c)["coordinates"].astype(np.float64)
    assert float((model.conditioning.mean(c).flatten(1).double() @ model.constraint).abs().max()) < 1e-5
    lengths = np.linalg.norm(np.diff(means, axis=1), axis=-1)
    expected = np.linalg.norm(np.diff(SHAPE + np.array([-45, -44])[:, None, None] * STRETCH, axis=1), axis=-1)
    assert np.abs((lengths[1] - lengths[0]) / (expected[1] - expected[0]) - 1).max() < 0.1
    motions = rigid_motions(means[0], turns=True)
    turned = np.linalg.svd(means[0].T @ (SHAPE - SHAPE.mean(0)))  # from the axes of the data to those of the model
    shift = (SHIFT - SHIFT.mean(0)) @ (turned[0] @ turned[2]).T
    inside = shift.ravel() - motions @ (motions.T @ shift.ravel())
    found = (means[2] - means[0]).ravel()
    assert np.linalg.norm(found - inside) < 0.1 * np.linalg.norm(inside)
    spread = float(model.reference.basis.expand(model.reference.spectrum)[:12].mean().sqrt()) * model.normalisation.scale.mean()
    assert abs(spread / NOISE - 1) < 0.05


def test_samples_have_the_moments_of_the_conditional_gaussian(folder: Path, tmp_path: Path) -> None:
    """Members of two conditions have means within their standard errors, and a total variance within 4 %."""
    count, path = 600, given(tmp_path / "two.nc", [26.85, 100.0], [0, 1], units="degC")
    run = piadm_hpc.RunConfig(
        model=str(folder / "gaussian"), out=str(tmp_path / "run"), samples=count, condition={"file": str(path)},
        output={"batch": 600}, compute={"model_batch": 10_000}, grid={"steps": 24}, chain={"eta": 0.0, "integrator": "gaussian"},
    )  # fmt: skip
    model = load_model(folder / "gaussian")
    assert model.conditioning is not None and model.constraint is not None
    c = model.conditioning.encode({"temperature": np.array([300.0, 373.15]), "state": np.array([0, 1])})
    with piadm_hpc.sample(run) as dataset:
        assert dict(dataset.coordinates.sizes) == {"realization": count, "condition": 2, "atom": 6, "spatial": 3}
        found = dataset.coordinates.values.astype(np.float64)
    mean = model.decode(model.reference.mean.reshape(1, 6, 3).expand(2, 6, 3), c)["coordinates"]
    apart = torch.from_numpy((found - mean) / model.normalisation.scale.mean())
    exact = model.reference.basis.expand(model.reference.spectrum)[:12]
    for k in range(2):
        modes = model.reference.basis.analyse(apart[:, k].flatten(1))[:, :12]
        assert float((modes.mean(0) / exact.sqrt()).abs().max()) < 4.5 / count**0.5
        assert abs(float((modes.square().mean(0) / exact).mean()) - 1) < 0.04
    assert np.linalg.norm(np.diff(found.mean(0), axis=0)) > 0.02  # the conditions differ by much more than the noise of a mean
    (tmp_path / "noe.csv").write_text("atoms,value,std\n0 3,0.4,0.1\n")
    refused = call("weigh", tmp_path / "run", "--averages", tmp_path / "noe.csv")
    assert "are given 2 conditions; weigh runs of one condition each" in one_line(refused, 2)


def test_one_condition_of_many_is_the_same_made_alone(folder: Path, tmp_path: Path) -> None:
    """With guidance, a member is the same under one condition alone, among others, and with `only`; a run resumes unchanged."""
    path = given(tmp_path / "two.nc", [310.0, 350.0], [0, 1])
    run = piadm_hpc.RunConfig(
        model=str(folder / "network"), out=str(tmp_path / "many"), samples=3, condition={"file": str(path), "guidance": 1.5},
        grid={"steps": 8}, solver={"kind": "picard", "tol": 1e-5}, output={"batch": 2},
    )  # fmt: skip
    with piadm_hpc.sample(run.replace(samples=2)) as some:
        first = some.coordinates.values
    with piadm_hpc.sample(run) as many:
        whole = many.coordinates.values
    assert np.array_equal(whole[:2], first) and np.abs(whole[:, 0] - whole[:, 1]).max() > 1e-3
    second = given(tmp_path / "second.nc", [350.0], [1])
    alone = run.replace(out=str(tmp_path / "alone"), only=[2], condition={"file": str(second)})
    with piadm_hpc.sample(alone) as single:
        assert np.abs(single.coordinates.values[0] - whole[2, 1]).max() < 1e-5


def test_the_network_knows_the_condition_and_needs_it(folder: Path) -> None:
    """A condition changes the network's score and is required, and a stopped training resumes to the same weights."""
    model = load_model(folder / "network")
    assert model.conditioning is not None and model.card["network"]["kind"] == "pairs"
    x, t = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.5)
    c = model.conditioning.encode({"temperature": np.array([300.0, 390.0]), "state": np.array([0, 1])})
    one, other = (model.score(x[:1].expand(2, 6, 3), t, c) for x in (x, x))
    assert torch.equal(one, other) and float((one[0] - one[1]).abs().max()) > 1e-6
    with pytest.raises(ValueError, match="trained with conditions; give one"):
        model.score(x, t)
    stops = iter([StopReason.NONE, StopReason.NONE, StopReason.LIMIT])
    config = settings(folder / "stopped")
    with pytest.raises(StopRequested, match="continues from there"):
        train_conformers(config, root=folder, report=lambda line: None, stop=lambda: next(stops))
    train_conformers(config, root=folder, report=lambda line: None)
    again = load_model(folder / "stopped")
    assert torch.equal(model.score(x, t, c), again.score(x, t, c))


def test_centred_conformers_turn_with_their_condition(folder: Path) -> None:
    """Without superposition the mean is zero under every condition, and a network of messages turns with its input."""
    data = {"trajectories": ["run_?.h5"], "alignment": "centred"}
    network = {"kind": "messages", "width": 8, "depth": 1, "embedding": 8}
    train_conformers(settings(folder / "turning", data=data, network=network), root=folder, report=lambda line: None)
    model = load_model(folder / "turning")
    assert model.conditioning is not None and model.card["condition"]["explained"] == 0.0
    c = model.conditioning.encode({"temperature": np.array([300.0, 390.0]), "state": np.array([0, 1])})
    assert torch.count_nonzero(model.conditioning.mean(c)) == 0
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    x, t = torch.randn(1, 6, 3, dtype=torch.float64).expand(2, 6, 3), torch.full((2,), 0.5, dtype=torch.float64)
    score = model.score(x, t, c)
    assert float((model.score(x @ turn, t, c) - score @ turn).abs().max()) < 1e-4
    assert float((score[0] - score[1]).abs().max()) > 1e-7


def test_numbers_of_frames_stay_with_their_frames(folder: Path) -> None:
    """Through stride, split, weights and copies, every state keeps the temperature and the class of its frame."""
    config = settings(folder / "none", data={"trajectories": ["run_?.h5"], "stride": 3, "start": 1, "validation_fraction": 0.2})
    assert config.condition is not None
    data = read_conformers(config.data.model_copy(update={"relabel": 2}), folder, seed=0, condition=config.condition)
    assert set(data.inputs["state"].parts["train"]) == {0.0, 1.0} and data.inputs["temperature"].units == "K"
    made = condition_conformers(data, 0.0, "superposed")
    train = 4 * 133 - round(0.2 * 4 * 133)
    assert len(made.states.train) == len(data.inputs["state"].parts["train"]) == 2 * train
    assert made.card.explained > 0.8  # one wrong permutation of the numbers would explain nothing
    own = {"temperature": {"kind": "scalar"}, "state": {"kind": "class", "classes": 2}}
    again = settings(folder / "none", data={"trajectories": ["run_?.h5"]}, condition={"inputs": own}).condition
    frames = read_frames(TrajectoryConfig(trajectories=("run_?.h5",)), folder, again)
    assert np.array_equal(np.unique(frames.inputs["temperature"].values), TEMPERATURES)
    assert frames.inputs["temperature"].units == "kelvin"


def test_frames_without_a_number_are_left_out(folder: Path, tmp_path: Path) -> None:
    """Numbers come from files beside the trajectories, three of them missing."""
    for k in range(4):
        values = np.linspace(0, 1, FRAMES) + k
        values[:3] = np.nan if k == 2 else values[:3]
        xr.Dataset({"pressure": ("frame", values, {"units": "Pa"})}).to_netcdf(tmp_path / f"more_{k}.nc")
    inputs = {"pressure": {"kind": "scalar", "files": [f"{tmp_path}/more_?.nc"], "units": "hPa"}}
    condition = settings(folder / "none", condition={"inputs": inputs}).condition
    frames = read_frames(TrajectoryConfig(trajectories=("run_?.h5",)), folder, condition)
    assert frames.excluded["without a condition"] == 3 and len(frames.inputs["pressure"].values) == 4 * FRAMES - 3
    np.testing.assert_allclose(frames.inputs["pressure"].values[0], 0.0, atol=1e-9)
    np.testing.assert_allclose(frames.inputs["pressure"].values[-1], 0.04, rtol=1e-6)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"x": {"kind": "lag"}}, "Input should be 'scalar' or 'class'"),
    "both": ({"x": {"kind": "scalar", "files": ["a.nc"], "by_file": {"run_0.h5": 1}}}, "leave one out"),
    "classes": ({"x": {"kind": "class"}}, "`classes`, how many there are"),
    "name": ({"a/b": {"kind": "scalar"}}, "String should match pattern"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_recipes_that_cannot_be_meant_are_refused(folder: Path, mistake: str) -> None:
    inputs, words = REFUSED[mistake]
    with pytest.raises(ValueError, match=words):
        settings(folder / "none", condition={"inputs": inputs})


def test_sections_that_exclude_each_other_are_refused(folder: Path) -> None:
    for more, words in (({"energy": {"name": "openmm"}}, "energy and condition"), ({"initial": "a"}, "condition and initial")):
        changes = more | ({} if "energy" in more else {"network": {}})
        with pytest.raises(ValueError, match=f"leave one of {words} out|leave the section out"):
            settings(folder / "none", **changes)
    one = settings(folder / "on", condition=None).model_dump(exclude={"network", "condition"}) | {
        "initial": str(folder / "network")
    }
    with pytest.raises(ValueError, match="only models without a condition"):
        train_conformers(ConformerTrainConfig.model_validate(one), root=folder, report=lambda line: None)


def test_all_mistakes_of_inputs_are_told_at_once(folder: Path, tmp_path: Path) -> None:
    xr.Dataset({"short": ("frame", np.zeros(7))}).to_netcdf(tmp_path / "short.nc")
    inputs = {
        "absent": {"kind": "scalar", "by_file": {"other_*.h5": 1}},
        "partly": {"kind": "scalar", "by_file": {"run_0.h5": 1}},
        "twice": {"kind": "scalar", "by_file": {"run_?.h5": 1, "run_3.h5": 2}},
        "nowhere": {"kind": "scalar"},
        "few": {"kind": "scalar", "files": [str(tmp_path / "short.nc")]},
        "short": {"kind": "scalar", "files": [str(tmp_path / "short.nc")]},
        "state": {"kind": "class", "classes": 2, "by_file": {"run_?.h5": 2}},
    }
    condition = settings(folder / "none", condition={"inputs": inputs}).condition
    with pytest.raises(ValueError, match=r"condition\.inputs\.absent") as raised:
        read_frames(TrajectoryConfig(trajectories=("run_?.h5",)), folder, condition)
    for words in (
        "no file matches other_*.h5",
        "run_1.h5 has no numbers",
        "run_3.h5 has 2 numbers",
        "there is no nowhere; the file has",
        "1 files for 4 trajectories",
        "condition.inputs.state: holds 2; accepted are whole numbers from 0 to 1",
    ):
        assert words in str(raised.value), words
    condition = settings(folder / "none", condition={"inputs": {"short": inputs["short"]}}).condition
    with pytest.raises(ValueError, match=r"short has 7 values, of which 7 are used, and 400 frames of .*run_0\.h5 are"):
        read_frames(TrajectoryConfig(trajectories=("run_0.h5",)), folder, condition)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs_are_verified_by_frames_of_their_own_condition(folder: Path, tmp_path: Path) -> None:
    """The held-out file has the inputs of its frames; a run at another temperature needs frames of its own."""
    with xr.open_dataset(folder / "network" / "held_out.h5") as frames:
        assert (frames.condition_temperature == 390).all() and set(frames.condition_state.values) == {0.0, 1.0}
    arguments = ["sample", "--model", folder / "gaussian", "--samples", 40, "--set", "grid.steps=8"]
    there = given(tmp_path / "there.nc", [390.0], [1])
    assert call(*arguments, "--condition", there, "--out", tmp_path / "there")["code"] == 0
    report = call("verify", tmp_path / "there")
    assert report["code"] == 0 and "frames of the same conditions" in report["out"]
    assert call(*arguments, "--condition", given(tmp_path / "far.nc", [300.0], [1]), "--out", tmp_path / "far")["code"] == 0
    assert "has no frame at temperature = 300, state = 1; give frames" in one_line(call("verify", tmp_path / "far"), 2)


def test_conditions_that_do_not_fit_are_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    arguments = ["sample", "--model", folder / "gaussian", "--samples", 1, "--out", tmp_path / "run"]
    assert "is conditional on temperature, state: give condition.file" in one_line(call(*arguments), 2)
    wrong = call(*arguments, "--condition", given(tmp_path / "bad.nc", [5000.0], [2]))
    assert wrong["code"] == 2 and "it may be in other units" in wrong["err"] and "whole numbers from 0 to 1" in wrong["err"]
    xr.Dataset({"temperature": 300.0}).to_netcdf(tmp_path / "half.nc")
    lacking = call(*arguments, "--condition", tmp_path / "half.nc")
    assert lacking["code"] == 2 and "the model takes temperature (scalar, K), state (class, 1)" in lacking["err"]
    assert not (tmp_path / "run").exists()
