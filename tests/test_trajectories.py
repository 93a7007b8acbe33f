"""Every trajectory format gives the same training frames; those that cannot be used are refused or counted."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from piadm_hpc.analysis.verify.conformers import load_conformers, trajectory_of
from piadm_hpc.data.superpose import centred, mean_structure, rigid_motions, superposed
from piadm_hpc.data.trajectories import Frames, TrajectoryConfig, read_frames, relabelled, signs, split, unweighted
from piadm_hpc.schema.layout import conformer_layout
from piadm_hpc.store.shard import write_samples

REAL = Path(__file__).parent / "data" / "alanine"
COUNT = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in REAL.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def frames_of(folder: Path, *trajectories: str, **more: Any) -> Frames:
    return read_frames(TrajectoryConfig(trajectories=trajectories or ("walker_?.h5",), **more), folder)


def edit(path: Path, change: Any) -> None:
    """Apply `change` to the positions in a file of conformers."""
    with h5py.File(path, "r+") as file:
        positions = file["coordinates"][:]
        file["coordinates"][:] = change(positions)


def nan_in_three(positions: np.ndarray) -> np.ndarray:
    positions[5:8, 2, 1] = np.nan
    return positions


def mirrored(count: int) -> Any:
    def change(positions: np.ndarray) -> np.ndarray:
        positions[:count, :, 0] *= -1
        return positions

    return change


def test_what_is_read(folder: Path) -> None:
    frames = frames_of(folder)
    assert frames.positions.shape == (2 * COUNT, 22, 3) and frames.names == ("walker_0.h5", "walker_1.h5")
    assert frames.excluded == {"not finite": 0, "other hand": 0} and len(frames.topology.bonds) == 21
    assert frames.topology.centres() == [(8, 6, 10, 12)] and len(frames.topology.rotors()) == 3
    bond = np.linalg.norm(frames.positions[:, 6] - frames.positions[:, 8], axis=-1)
    assert 0.13 < bond.min() and bond.max() < 0.17  # N-CA in nm


@pytest.mark.parametrize("form", ["xtc", "dcd", "pdb"])
def test_other_formats_give_the_same_frames(folder: Path, form: str) -> None:
    trajectory_of(load_conformers(folder / "walker_0.h5", "real")).save(str(folder / f"walker.{form}"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = frames_of(folder, f"walker.{form}", stride=3, start=6, topology="topology.pdb")
    expected = frames_of(folder, "walker_0.h5", stride=3, start=6)
    np.testing.assert_allclose(found.positions, expected.positions, atol={"xtc": 6e-4, "dcd": 1e-6, "pdb": 1e-4}[form])
    assert found.topology.bonds == expected.topology.bonds and (found.weight == 1).all()


def test_a_selection_keeps_its_bonds(folder: Path) -> None:
    heavy = frames_of(folder, selection="not element H")
    assert heavy.positions.shape[1] == 10 and len(heavy.topology.bonds) == 9
    assert [atom.element for atom in heavy.topology.atoms].count("C") == 6
    np.testing.assert_array_equal(heavy.positions[:, 0], frames_of(folder).positions[:, 0])


def test_weights_pick_frames(folder: Path) -> None:
    frames = frames_of(folder)
    drawn = unweighted(frames, seed=1).positions
    assert drawn.shape == frames.positions.shape
    truth = (frames.weight[:, None, None] * frames.positions).sum(0) / frames.weight.sum()
    np.testing.assert_allclose(drawn.mean(0), truth, atol=0.01)
    same = Frames(frames.positions, np.ones(len(frames.weight)), frames.file, (), frames.topology, {})
    even = unweighted(same, seed=1).positions
    np.testing.assert_array_equal(np.sort(even.ravel()), np.sort(frames.positions.ravel()))


def test_names_of_like_atoms_go_round_and_hands_stay(folder: Path) -> None:
    frames = frames_of(folder)
    again = relabelled(frames.positions, frames.topology, 4, seed=0)
    assert again.shape == (8 * COUNT, 22, 3)
    np.testing.assert_array_equal(np.sort(again, 1), np.sort(np.tile(frames.positions, (4, 1, 1)), 1))
    assert 0.5 < np.mean((again != np.tile(frames.positions, (4, 1, 1))).any((1, 2))) < 1.0
    assert (signs(again, frames.topology) == signs(frames.positions[:1], frames.topology)).all()


def test_splits(folder: Path) -> None:
    config = TrajectoryConfig(trajectories=("walker_?.h5",), validation_fraction=0.25, test_fraction=0.25)
    parts = split(config, frames_of(folder))
    assert [len(parts[name].file) for name in ("train", "validation", "test")] == [COUNT, COUNT // 2, COUNT // 2]
    by_file = split(TrajectoryConfig(trajectories=("walker_?.h5",), test_files=("*_1.h5",)), frames_of(folder))
    assert set(by_file["test"].file) == {1} and set(by_file["train"].file) == {0}
    with pytest.raises(ValueError, match="either by files or by fractions"):
        TrajectoryConfig(trajectories=("a",), test_files=("b",), test_fraction=0.1)
    with pytest.raises(ValueError, match="match none of the files"):
        split(TrajectoryConfig(trajectories=("walker_?.h5",), test_files=("c*",)), frames_of(folder))


def test_superposed_states_lie_where_they_should(folder: Path) -> None:
    positions = frames_of(folder).positions
    centre, turned = mean_structure(positions)
    motions = rigid_motions(centre, turns=True)
    assert np.abs((turned - centre).reshape(len(turned), -1) @ motions).max() < 1e-9
    np.testing.assert_allclose(motions.T @ motions, np.eye(6), atol=1e-12)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    np.testing.assert_allclose(superposed(positions @ rotation + 3.0, centre), turned, atol=1e-9)
    distances = [np.linalg.norm(x[:, 1] - x[:, 20], axis=-1) for x in (positions, turned)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert np.abs(centred(positions).mean(1)).max() < 1e-12


def test_conformers_are_superposed_as_scipy_does_it(folder: Path) -> None:
    """Each conformer is superposed alone, also mirror images, for which the best rotation must not be a reflection."""
    frames = frames_of(folder).positions[:8]
    positions, centre = np.concatenate([frames, -frames]), mean_structure(frames)[0]
    expected = [Rotation.align_vectors(centre, frame)[0].apply(frame) for frame in centred(positions)]
    np.testing.assert_allclose(superposed(positions, centre), expected, atol=1e-9)


def test_frames_that_cannot_be_used_are_counted(folder: Path) -> None:
    edit(folder / "walker_0.h5", nan_in_three)
    edit(folder / "walker_1.h5", mirrored(4))
    frames = frames_of(folder)
    assert frames.excluded == {"not finite": 3, "other hand": 4} and len(frames.file) == 2 * COUNT - 7
    edit(folder / "walker_1.h5", mirrored(COUNT))
    with pytest.raises(ValueError, match=r"of 300 frames can be used \(0 not finite, 29\d other hand\)"):
        edit(folder / "walker_1.h5", lambda x: np.where(np.arange(COUNT)[:, None, None] > 2, x, x * [-1, 1, 1]))
        frames_of(folder, "walker_1.h5")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # MDAnalysis' reader opened no file
def test_truncated_files(folder: Path) -> None:
    whole = (folder / "walker_0.h5").read_bytes()
    (folder / "walker_0.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"walker_0\.h5 with topology .*cannot read it"):
        frames_of(folder)


@pytest.mark.parametrize("form", ["xtc", "dcd"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_truncated_trajectories_of_other_programs(folder: Path, form: str) -> None:
    """The file may end anywhere except after a whole frame, also within the header of the next one."""
    path = folder / f"walker.{form}"
    trajectory_of(load_conformers(folder / "walker_1.h5", "real")).save(str(path))
    whole, frame = path.read_bytes(), path.stat().st_size // COUNT
    assert len(frames_of(folder, path.name).file) == COUNT
    for end in (len(whole) // 2 + 100, *(len(whole) - frame + k for k in range(-60, 60, 12))):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=rf"walker\.{form} is truncated"):
            frames_of(folder, path.name)


def test_topologies_that_do_not_fit(folder: Path) -> None:
    text = (folder / "topology.pdb").read_text()
    lines = [line for line in text.splitlines() if line.startswith("ATOM")]
    (folder / "short.pdb").write_text("\n".join([*lines[:-1], "END"]) + "\n")
    with pytest.raises(ValueError, match=r"(?s)walker_0\.h5.*same atoms in the same order"):
        frames_of(folder, topology="short.pdb")
    swapped = [lines[1], lines[0], *lines[2:]]
    (folder / "swapped.pdb").write_text("\n".join([*swapped, "END"]) + "\n")
    with pytest.raises(ValueError, match=r"atom 0 is CH3, and H\w* in .*swapped\.pdb; order atoms alike"):
        frames_of(folder, topology="swapped.pdb")
    with pytest.raises(ValueError, match="no such topology"):
        frames_of(folder, topology="absent.pdb")
    (folder / "other").mkdir()
    with pytest.raises(ValueError, match="no file matches walker_9"):
        frames_of(folder, "walker_9*.h5")


def test_what_a_configuration_asks_for_in_vain(folder: Path) -> None:
    with pytest.raises(ValueError, match="needs a periodic box, and this trajectory has none"):
        frames_of(folder, unwrap=True)
    with pytest.raises(ValueError, match="selects 1 atoms"):
        frames_of(folder, selection="name CB")
    with pytest.raises(ValueError, match="see MDAnalysis' selection language"):
        frames_of(folder, selection="heavy things")
    with pytest.raises(ValueError, match="can be used"):
        frames_of(folder, "walker_0.h5", start=COUNT - 1)


def test_unwrapping_makes_molecules_whole(folder: Path) -> None:
    """Frames wrapped into a box come back with their bonds."""
    trajectory = trajectory_of(load_conformers(folder / "walker_0.h5", "real"))[:20]
    trajectory.unitcell_lengths, trajectory.unitcell_angles = np.full((20, 3), 2.0), np.full((20, 3), 90.0)
    trajectory.xyz = (trajectory.xyz % 2.0).astype(np.float32)
    trajectory.save(str(folder / "wrapped.xtc"))
    broken, whole = (frames_of(folder, "wrapped.xtc", unwrap=unwrap, stride=1) if unwrap else None for unwrap in (False, True))
    assert broken is None and whole is not None
    first, second = np.array(whole.topology.bonds).T
    assert np.linalg.norm(whole.positions[:, first] - whole.positions[:, second], axis=-1).max() < 0.18


def test_weights_of_minus_infinity_leave_frames_out(folder: Path) -> None:
    real = load_conformers(folder / "walker_0.h5", "real")
    weights = np.zeros(COUNT, np.float32)
    weights[:10] = -np.inf
    write_samples(
        folder / "weighted.h5",
        layout=conformer_layout(real.topology),
        ids=tuple(range(COUNT)),
        fields={"coordinates": real.positions.astype(np.float32)},
        per_sample={"log_weight": weights},
        attributes={"title": "weighted"},
        compression="none",
    )
    frames = frames_of(folder, "weighted.h5")
    assert (frames.weight[:10] == 0).all() and (frames.weight[10:] == 1).all()
    drawn, left_out = unweighted(frames, seed=0).positions, frames.positions[:10]
    assert np.abs(drawn[:, None] - left_out[None]).max((2, 3)).min() > 1e-3


def test_hydrogens_that_were_named_the_other_way_round(folder: Path) -> None:
    """The same molecule set up with two hydrogens of a methyl group exchanged gives the same frames."""

    def exchanged(positions: np.ndarray) -> np.ndarray:
        positions[:, [14, 15]] = positions[:, [15, 14]]
        return positions

    before = frames_of(folder, "walker_0.h5").positions
    edit(folder / "walker_0.h5", exchanged)
    np.testing.assert_array_equal(frames_of(folder, "walker_0.h5").positions, before)
