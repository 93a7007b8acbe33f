"""Conformers from training to report: models of alanine dipeptide, their runs, and their files in every reader."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, one_line, write_config

from piadm_hpc.analysis.verify.conformers import (
    Conformers,
    divergence,
    duplicates,
    geometry,
    load_conformers,
    topology_of,
    trajectory_of,
    wrong_hands,
)
from piadm_hpc.config.run import RunConfig
from piadm_hpc.data.superpose import mean_structure, rigid_motions
from piadm_hpc.data.superpose import superposed as superposed_on
from piadm_hpc.data.trajectories import signs
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import ConformerNetworkConfig, ConformerTrainConfig, load_config
from piadm_hpc.models.networks.messages import MessageNetwork
from piadm_hpc.models.networks.pairs import ConformerNetwork
from piadm_hpc.models.registry import find_model
from piadm_hpc.models.training.molecules import train_conformers
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.schema.topology import Atom, Topology
from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.reading import open_run
from piadm_hpc.theory.bases import EOF

REAL = Path(__file__).parent / "data" / "alanine"
SAMPLES = 36

# MDAnalysis imports modules that are deprecated, and mdtraj parses PDB files with deprecated regular expressions
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def settings(output: Path, **changes: Any) -> ConformerTrainConfig:
    record: dict[str, Any] = {
        "name": output.name,
        "output": str(output),
        "data": {"trajectories": ["walker_?.h5"], "test_files": ["walker_1.h5"], "relabel": 2},
        "network": {"width": 32, "depth": 1, "embedding": 16},
        "optimiser": {"steps": 60, "batch": 128, "rate": 3e-3, "warm_up": 5, "validate_every": 30, "ema": 0.9},
    }
    for key, value in changes.items():
        record[key] = {**record.get(key, {}), **value} if isinstance(value, dict) else value
    return ConformerTrainConfig.model_validate(record)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train models for a second each: `small`, superposed; `shifted`, centred only; and `spoken`, a network of messages."""
    folder = tmp_path_factory.mktemp("conformers")
    train_conformers(settings(folder / "small"), root=REAL, report=lambda line: None)
    train_conformers(settings(folder / "shifted", data={"alignment": "centred"}), root=REAL, report=lambda line: None)
    changes: dict[str, Any] = {
        "data": {"alignment": "centred"},
        "network": {"kind": "messages", "width": 16, "depth": 2},
        "sampling": {"eta": 0.5, "steps": 24},
        "optimiser": {"steps": 4, "batch": 32, "validate_every": 4},
    }
    train_conformers(settings(folder / "spoken", **changes), root=REAL, report=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def run(models: Path) -> Path:
    """Draw a run of the model in three shards, with its index."""
    config = write_config(models / "run.toml", models / "small", models / "run", samples=SAMPLES, output={"batch": 12})
    report = call("sample", config)
    assert report["code"] in (0, 3), report
    return models / "run"


def test_the_folder_says_what_the_model_is(models: Path) -> None:
    model = load_model(models / "small")
    assert model.event_shape == (22, 3) and model.card["molecule"] == {"alignment": "superposed", "atoms": 22}
    assert model.constraint is not None and model.constraint.shape == (66, 6)
    assert isinstance(model.reference.basis, EOF) and model.reference.basis.modes.shape == (66, 60)
    assert model.card["data"]["train"] == 600 and model.card["data"]["test"] == 300
    ratios = dict(zip(model.card["scores"]["test"]["log_snr"], model.card["scores"]["test"]["ratio"], strict=True))
    assert ratios[2] < 0.95  # better than the Gaussian at noise levels at which torsions are decided
    assert {path.name for path in (models / "small").iterdir()} >= {"topology.json", "topology.pdb", "held_out.h5", "card.toml"}
    spoken = load_model(models / "spoken")
    assert spoken.card["network"]["kind"] == "messages" and spoken.card["sampling"] == {"eta": 0.5, "flow": None, "steps": 24}
    shifted = load_model(models / "shifted")
    assert shifted.constraint is not None and shifted.constraint.shape == (66, 3)


def test_a_damaged_topology_is_told(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "small", tmp_path / "model")
    (tmp_path / "model" / "topology.json").write_text("{}")
    with pytest.raises(ValueError, match=r"topology\.json: its sha256 is not the one"):
        load_model(tmp_path / "model")


def test_states_stay_in_their_subspace_and_decode_to_centred_conformers(models: Path) -> None:
    for name in ("small", "shifted", "spoken"):
        model = load_model(models / name)
        assert model.constraint is not None
        config = RunConfig.model_validate({"model": str(models / name), "grid": {"steps": 16}, "solver": {"tol": 1e-3}})
        samples = make_sampler(config, model).draw(range(4)).x
        assert np.abs(samples.flatten(1).double() @ model.constraint).max() < 1e-5
        assert np.abs(model.decode(samples)["coordinates"].mean(1)).max() < 1e-6


def test_sweeps_give_what_steps_give(models: Path) -> None:
    """Sweeps agree with the sequential chain within the tolerance, in few rounds."""
    model = load_model(models / "small")
    values = {"model": str(models / "small"), "grid": {"steps": 32}, "chain": {"integrator": "gaussian"}}
    one, other = (
        make_sampler(RunConfig.model_validate({**values, "solver": solver}), model).draw(range(8))
        for solver in ({"kind": "sequential"}, {"kind": "picard", "tol": 1e-4})
    )
    assert (one.x - other.x).abs().max() < 5e-3 and bool(other.converged.all())


@pytest.mark.parametrize("superposed", [False, True])
def test_a_network_without_a_frame_turns_with_its_input_and_sees_hands(superposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    quadruples = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    network = ConformerNetwork(torch.zeros(5, 3), quadruples, superposed, ConformerNetworkConfig(width=16, depth=1, embedding=8))
    for weights in network.parameters():
        if weights.requires_grad:
            torch.nn.init.normal_(weights, std=0.3, generator=generator)
    states, level = torch.randn(6, 2, 5, 3, generator=generator), torch.linspace(-3, 3, 6)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    before, after = network(states, level), network(states @ turn, level)
    mirrored = network(states * torch.tensor([-1.0, 1, 1]), level) * torch.tensor([-1.0, 1, 1])
    assert (before - after @ turn.T).abs().max() < 1e-4 or superposed
    assert (before - mirrored).abs().max() > 1e-2  # mirror images have different scores
    if not superposed:  # forces along pairs of atoms do not move the centre of mass
        assert before.sum(2).abs().max() < 1e-4


def bonded(elements: str, *bonds: tuple[int, int]) -> Topology:
    return Topology(tuple(Atom(name, name, "MOL", 1) for name in elements), tuple(bonds))


def talkative(topology: Topology, generator: torch.Generator) -> MessageNetwork:
    """Return a network of messages with weights that are not zero."""
    network = MessageNetwork(torch.zeros(len(topology), 3), topology, ConformerNetworkConfig(kind="messages", width=16, depth=2))
    assert network(torch.randn(2, 2, len(topology), 3, generator=generator), torch.zeros(2)).abs().max() == 0
    for weights in network.parameters():
        if weights.requires_grad:
            torch.nn.init.normal_(weights, std=0.2, generator=generator)
    return network


def turned(generator: torch.Generator) -> torch.Tensor:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    return turn * torch.sign(torch.linalg.det(turn))


def test_messages_turn_shift_and_exchange_with_like_atoms() -> None:
    generator = torch.Generator().manual_seed(0)
    cluster, pair = bonded("AAAAA"), bonded("AAABB")
    states, level = torch.randn(6, 2, 5, 3, generator=generator), torch.linspace(-3, 3, 6)
    order, turn = torch.randperm(5, generator=generator), turned(generator)
    network = talkative(cluster, generator)
    before = network(states, level)
    assert (network(states @ turn + 0.7, level) - before @ turn).abs().max() < 1e-5
    assert (network(states[:, :, order], level) - before[:, :, order]).abs().max() < 1e-5
    unlike = talkative(pair, generator)
    swapped = torch.tensor([4, 1, 2, 3, 0])
    assert (unlike(states[:, :, swapped], level) - unlike(states, level)[:, :, swapped]).abs().max() > 1e-3


def test_messages_see_hands_and_bonds() -> None:
    generator = torch.Generator().manual_seed(1)
    star = bonded("CHNOS", (0, 1), (0, 2), (0, 3), (0, 4))
    states, level = torch.randn(6, 2, 5, 3, generator=generator), torch.zeros(6)
    mirror = torch.tensor([-1.0, 1, 1])
    network = talkative(star, generator)
    network.calibrate(states[:, 0])
    assert float(network.typical) > 0.5 and float(network.spread[1]) > 0.5
    before, turn = network(states, level), turned(generator)
    assert (network(states @ turn, level) - before @ turn).abs().max() < 1e-5
    assert (network(states * mirror, level) * mirror - before).abs().max() > 1e-3
    without = MessageNetwork(torch.zeros(5, 3), bonded("CHNOS"), ConformerNetworkConfig(kind="messages", width=16, depth=2))
    without.load_state_dict(network.state_dict(), strict=False)
    assert (without(states, level) - before).abs().max() > 1e-3


def readers(file: Path) -> dict[str, np.ndarray]:
    """Return positions in nm of a file, from every library that reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import MDAnalysis
        import mdtraj

        universe = MDAnalysis.Universe(str(file.with_name("topology.pdb")), str(file), format="H5MD")
        found = {"MDAnalysis": np.array([universe.atoms.positions.copy() for _ in universe.trajectory]) / 10}
        universe.trajectory.close()
        trajectory = mdtraj.load(str(file))
        assert trajectory.topology.n_residues == 3 and trajectory.topology.n_bonds == 21
        found["mdtraj"] = trajectory.xyz
    for engine in (None, "h5netcdf", "netcdf4"):
        with xr.open_dataset(file, engine=engine) as dataset:
            assert dataset["coordinates"].dims == ("sample", "atom", "spatial")
            assert dataset["coordinates"].attrs["units"] == "nanometers"
            found[f"xarray {engine}"] = dataset["coordinates"].values
    with h5py.File(file, "r") as plain:
        found["h5py"] = plain["coordinates"][:]
        found["H5MD"] = plain["particles/conformers/position/value"][:]
    return found


def test_every_reader_finds_the_same_conformers(run: Path, tmp_path: Path) -> None:
    """All readers agree on an index over shards and on one plain file."""
    assert len(list((run / "shards").glob("*.h5"))) == 3
    (tmp_path / "plain").mkdir()
    assert call("join", run, "--copy", "--to", tmp_path / "plain" / "samples.h5")["code"] == 0
    with open_run(run) as dataset:
        expected = dataset["coordinates"].values
    assert expected.shape == (SAMPLES, 22, 3) and np.isfinite(expected).all()
    for file in (run / "samples.h5", tmp_path / "plain" / "samples.h5"):
        for name, found in readers(file).items():
            np.testing.assert_allclose(found, expected, atol=2e-7, err_msg=f"{file} {name}")
    bond = np.linalg.norm(expected[:, 6] - expected[:, 8], axis=-1)
    assert 0.1 < np.median(bond) < 0.2  # N-CA in nanometres


def test_an_index_without_its_shards_is_an_error(run: Path, tmp_path: Path) -> None:
    for name in ("samples.h5", "topology.pdb"):
        shutil.copy(run / name, tmp_path / name)
    with pytest.raises(StoreError, match="shard"), open_run(tmp_path / "samples.h5"):
        pass
    report = call("verify", tmp_path / "samples.h5")
    assert report["code"] == 1 and "none of its 3 shards" in report["err"]


@pytest.mark.parametrize("form", ["xtc", "dcd", "pdb"])
def test_export(run: Path, tmp_path: Path, form: str) -> None:
    import mdtraj

    target = tmp_path / f"samples.{form}"
    assert call("export", run, "--to", form, "--out", target)["code"] == 0
    found = mdtraj.load(str(target), top=str(run / "topology.pdb"))
    with open_run(run) as dataset:
        np.testing.assert_allclose(found.xyz, dataset["coordinates"].values, atol=6e-4)
    assert "there already" in one_line(call("export", run, "--to", form, "--out", target), 2)
    assert "holds conformers" in one_line(call("export", run, "--to", "zarr"), 2)
    assert "conformers, which have no climatology" in one_line(call("export", run, "--to", form, "--absolute"), 2)


def test_verification_against_what_travels_with_the_model(run: Path) -> None:
    report = call("verify", run)
    assert report["code"] == 0, report
    record = json.loads((run / "report" / "verify.json").read_text())
    surface = record["surfaces"]["Ramachandran, residue 1"]
    assert 0 < surface["floor"] < 1 and 0 < surface["jsd"] <= 1  # the model was trained for a second only
    assert record["validity"]["reference"]["clashes"] == 0 and record["validity"]["reference"]["wrong hand"] == 0
    assert record["validity"]["samples"]["duplicates"] == 0
    page = (run / "report" / "verify.html").read_text()
    assert page.count("<img") >= 2 and "http://" not in page and "https://" not in page.replace("https://www.w3.org", "")
    for words in ("Ramachandran", "slow coordinates", "The rare basin", "Bonds and angles", "Validity"):
        assert words in report["out"], words


def test_dynamics_agree_with_themselves(run: Path, tmp_path: Path) -> None:
    """Other dynamics in place of samples: a divergence as small as that of halves, nothing wrong with hands or bonds."""
    shutil.copytree(run, tmp_path / "run")
    with h5py.File(REAL / "walker_0.h5") as real:
        positions, weights = real["coordinates"][:], np.exp(real["log_weight"][:].astype(float))
    chosen = np.random.default_rng(0).choice(len(positions), SAMPLES, p=weights / weights.sum())
    for number, shard in enumerate(sorted((tmp_path / "run" / "shards").glob("*.h5"))):
        with h5py.File(shard, "r+") as file:
            file["coordinates"][:] = positions[chosen[12 * number : 12 * (number + 1)]]
    report = call("verify", tmp_path / "run", "--against", REAL / "walker_1.h5")
    assert report["code"] == 0, report
    record = json.loads((tmp_path / "run" / "report" / "verify.json").read_text())
    assert record["validity"]["samples"]["wrong hand"] == 0 and record["validity"]["samples"]["clashes"] == 0
    bonds = record["geometry"]["bonds"]
    assert bonds["rms difference of means"] < 2e-3 and bonds["rms difference of spreads"] < bonds["reference spread"]


def test_verification_says_what_does_not_fit(run: Path, tmp_path: Path) -> None:
    assert "no such file" in one_line(call("verify", run, "--against", tmp_path / "absent.h5"), 2)
    assert "only for fields" in one_line(call("verify", run, "--truth", "x.nc"), 2)
    assert "nothing cannot be imported" in one_line(call("verify", run, "--energy", "nothing"), 2)
    real = load_conformers(REAL / "walker_1.h5", "real")
    trajectory_of(real).atom_slice(range(21)).save(str(tmp_path / "short.pdb"))
    assert "the samples have 22 atoms, short.pdb 21" in one_line(call("verify", run, "--against", tmp_path / "short.pdb"), 2)


def test_distances_of_distributions() -> None:
    p = np.array([1.0, 1, 0, 0])
    assert divergence(p, p) == 0 and divergence(p, p[::-1]) == 1
    assert divergence(p, np.ones(4)) == pytest.approx(0.5 * np.log2(4 / 3) + 0.25 * (np.log2(2 / 3) + np.log2(2)))


def test_topologies_go_round() -> None:
    real = load_conformers(REAL / "walker_0.h5", "real")
    assert Topology.from_json(real.topology.to_json()) == real.topology
    assert topology_of(trajectory_of(real).topology) == real.topology
    assert signs(real.positions, real.topology).min() == 1  # L-alanine
    with pytest.raises(ValueError, match="not pairs of different atoms"):
        Topology((Atom("A", "C", "X", 1),), ((0, 1),))
    with pytest.raises(ValueError, match="mdtraj's JSON"):
        Topology.from_json("[]")


def test_rigid_motions_are_what_they_say() -> None:
    centre = np.random.default_rng(0).normal(size=(4, 3))
    shifts, all_motions = rigid_motions(centre, turns=False), rigid_motions(centre, turns=True)
    assert shifts.shape == (12, 3) and all_motions.shape == (12, 6)
    moved = np.tile([1.0, 2, 3], (4, 1)).ravel()
    assert np.abs(moved - shifts @ (shifts.T @ moved)).max() < 1e-12


def test_configurations_of_conformers_list_their_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(
        'name = "x"\noutput = "y"\n[data]\ntrajectories = ["a.h5"]\nalignment = "turned"\n[noise]\nprocess = "psld"\n'
    )
    with pytest.raises(ValueError, match=r"(?s)data\.alignment.*noise.*positions alone"):
        load_config(path)


def test_the_shipped_model_makes_alanine_dipeptide() -> None:
    """Found by its name, it draws conformers with natural chirality, with the bonds of the dynamics, in at most eight rounds."""
    model = load_model("alanine-dipeptide")
    real = load_conformers(find_model("alanine-dipeptide") / "held_out.h5", "held out")
    grid = {"kind": "karras", "steps": 24}
    config = RunConfig.model_validate({"model": "alanine-dipeptide", "grid": grid, "chain": {"integrator": "dpmpp-2m"}})
    drawn = make_sampler(config, model).draw(range(40))
    assert float(drawn.rounds.median()) <= 8 and bool(drawn.converged.all())
    own = Conformers("own", model.decode(drawn.x)["coordinates"], np.full(40, 1 / 40), real.topology)
    assert wrong_hands(own, real) == 0 and duplicates(own) == 0
    bonds = geometry(own, real)["bonds"]
    assert bonds["rms difference of means"] < 1.5e-3 and bonds["rms difference of spreads"] < 1e-3


@pytest.mark.parametrize("neighbours", [2, 32])
def test_duplicates_are_those_found_among_all_pairs(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies, near copies and many of one conformer are counted, also where there are more neighbours than a search returns."""
    monkeypatch.setattr("piadm_hpc.analysis.verify.conformers.NEIGHBOURS", neighbours)
    real = load_conformers(find_model("alanine-dipeptide") / "held_out.h5", "held out")
    generator = np.random.default_rng(0)
    base = real.positions[:150].astype(np.float64)
    near = base[generator.integers(0, 150, 60)] + 0.003 * generator.normal(size=(60, 22, 3))
    positions = generator.permutation(np.concatenate([base, near, np.repeat(base[:1], 20, axis=0)]))
    flat = superposed_on(positions, mean_structure(positions)[0]).reshape(len(positions), -1)
    apart = np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(-1) / 22)
    expected = np.tril(apart < 0.005, k=-1).any(1).mean()
    own = Conformers("own", positions, np.full(len(positions), 1 / len(positions)), real.topology)
    assert 0.1 < expected < 0.9 and duplicates(own) == pytest.approx(expected)


def test_energies_are_compared(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "springs.py").write_text("def energy(x):\n    return 100 * ((x - x.mean(1, keepdims=True)) ** 2).sum((1, 2))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = call("verify", run, "--energy", "springs:energy")
    assert report["code"] == 0 and "Kolmogorov-Smirnov" in report["out"]
    record = json.loads((run / "report" / "verify.json").read_text())["energy"]
    assert 0 < record["kolmogorov_smirnov"] < 1 and record["quantiles"]["0.05"] < record["quantiles"]["0.95"]


def test_nothing_is_special_to_twenty_two_atoms(tmp_path: Path) -> None:
    """A chain of five alanines with 62 atoms goes from frames to a report."""
    data = {"trajectories": ["walker_00.h5"], "test_files": [], "test_fraction": 0.5}
    train_conformers(settings(tmp_path / "penta", data=data), root=REAL.parent / "penta", report=lambda line: None)
    model = load_model(tmp_path / "penta")
    assert model.event_shape == (62, 3) and len(model.layout.topology.centres()) == 5
    config = write_config(tmp_path / "run.toml", tmp_path / "penta", tmp_path / "run", samples=4)
    assert call("sample", config)["code"] in (0, 3)
    report = call("verify", tmp_path / "run")
    assert report["code"] == 0 and "Ramachandran, residue 5" in report["out"], report
