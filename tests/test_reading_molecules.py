"""Molecules with incomplete files: unambiguous bonds and elements are inferred, and few samples are compared fairly."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from piadm_hpc.analysis.verify.conformers import baseline, divergence, histogram, load_conformers, trajectory_of
from piadm_hpc.data.elements import element_of
from piadm_hpc.data.trajectories import Frames, TrajectoryConfig, read_frames

REAL = Path(__file__).parent / "data" / "alanine"
ION = "HETATM   23 {name:<4s} {name:>3s} B   9      30.000  30.000  30.000  1.00  0.00          {element:>2s}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in REAL.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def lines_of(folder: Path) -> list[str]:
    return (folder / "topology.pdb").read_text().splitlines()


def frames_of(folder: Path, **options: object) -> Frames:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_frames(TrajectoryConfig(**{"trajectories": ("walker_0.h5",), **options}), folder)


def write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path.name


# --- bonds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 2, 7])
def test_bonds_that_a_file_leaves_out_are_guessed(folder: Path, caplog: pytest.LogCaptureFixture, kept: int) -> None:
    lines = [line for line in lines_of(folder) if line != "END"]
    atoms = [line for line in lines if line.startswith("ATOM")]
    records = [line for line in lines if line.startswith("CONECT")][:kept]
    frames, whole = frames_of(folder, topology=write(folder / "partial.pdb", atoms + records)), frames_of(folder)
    assert frames.topology.bonds == whole.topology.bonds and frames.topology.centres() == whole.topology.centres()
    assert ("bonds guessed from distances, beside" in caplog.text) == (kept > 0)


def test_mirrored_frames_are_found_with_few_bonds_written(folder: Path) -> None:
    lines = [line for line in lines_of(folder) if line != "END"]
    few = [line for line in lines if not line.startswith("CONECT")] + [line for line in lines if line.startswith("CONECT")][:2]
    real = load_conformers(folder / "walker_0.h5", "real")
    mirrored = real.positions.copy()
    mirrored[100:, :, 0] *= -1
    trajectory = trajectory_of(real)
    trajectory.xyz = mirrored.astype(np.float32)
    trajectory.save(str(folder / "mirrored.dcd"))
    frames = frames_of(folder, trajectories=("mirrored.dcd",), topology=write(folder / "few.pdb", few))
    assert frames.excluded == {"not finite": 0, "other hand": 200}


def test_atoms_that_stay_without_a_bond_are_named(folder: Path) -> None:
    lines = lines_of(folder)
    far = [
        line[:30] + "  40.000" + line[38:] if line[12:16].strip() == "HB1" else line for line in lines if line.startswith("ATOM")
    ]
    with pytest.raises(ValueError, match=r"far.pdb: 1 atoms have no bond, by the file or by distance: HB1 in ALA 2"):
        frames_of(folder, topology=write(folder / "far.pdb", far))


@pytest.mark.parametrize(("name", "element"), [("ZN", "ZN"), ("FE", "FE"), ("NA", "NA"), ("CL", "CL"), ("XE", "")])
def test_metals_and_ions_have_no_bonds(folder: Path, name: str, element: str) -> None:
    atoms = [line for line in lines_of(folder) if line.startswith("ATOM")]
    pdb = write(folder / "ion.pdb", [*atoms, ION.format(name=name, element=element)])
    real = load_conformers(folder / "walker_0.h5", "real")
    trajectory = trajectory_of(real)
    ion = mdtraj.Topology()
    ion.add_atom(name, mdtraj.element.get_by_symbol(name.capitalize()), ion.add_residue(name, ion.add_chain()))
    alone = mdtraj.Trajectory(np.full((len(real.positions), 1, 3), 3.0), ion)
    trajectory.stack(alone).save(str(folder / "both.dcd"))
    frames = frames_of(folder, trajectories=("both.dcd",), topology=pdb)
    assert len(frames.topology.bonds) == 21 and frames.topology.atoms[22].element == name.capitalize()


# --- elements --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "residue", "expected"),
    [
        ("CL1", "LIG", "Cl"),
        ("BR2", "LIG", "Br"),
        ("ZN", "LIG", "Zn"),
        ("C12", "LIG", "C"),
        ("CAA", "LIG", "C"),
        ("O1P", "LIG", "O"),
        ("1HB", "LIG", "H"),
        ("OXT", "LIG", "O"),
        ("CA", "LIG", None),
        ("HG11", "LIG", None),
        ("NA", "LIG", None),
        ("FE1", "LIG", None),
        ("MW", "LIG", None),
        ("X", "LIG", None),
    ],
)
def test_names_of_an_unknown_molecule(name: str, residue: str, expected: str | None) -> None:
    assert element_of(name, residue) == expected


@pytest.mark.parametrize(
    ("name", "residue", "expected"), [("CA", "ALA", "C"), ("HG11", "VAL", "H"), ("NE", "ARG", "N"), ("SE", "MSE", "Se")]
)
def test_names_of_amino_acids(name: str, residue: str, expected: str) -> None:
    assert element_of(name, residue, standard=True) == expected


@pytest.mark.parametrize(
    ("name", "residue", "expected"), [("CA", "CA", "Ca"), ("SOD", "SOD", "Na"), ("CLA", "CLA", "Cl"), ("K", "K", "K")]
)
def test_names_of_ions(name: str, residue: str, expected: str) -> None:
    assert element_of(name, residue, alone=True) == expected


def test_topologies_without_elements(folder: Path) -> None:
    atoms = [line[:76] for line in lines_of(folder) if line.startswith("ATOM")]
    frames, whole = frames_of(folder, topology=write(folder / "bare.pdb", atoms)), frames_of(folder)
    assert frames.topology == whole.topology
    unknown = [line[:17] + "LIG" + line[20:] for line in atoms]
    with pytest.raises(ValueError, match=r"the names of 1 atoms leave several or none: CA in LIG 2; write the elements"):
        frames_of(folder, topology=write(folder / "unknown.pdb", unknown))


# --- mdtraj's HDF5 ------------------------------------------------------------------------------------------------------------


def test_files_of_mdtraj_are_read_with_and_without_a_topology(folder: Path) -> None:
    real = load_conformers(folder / "walker_0.h5", "real")
    trajectory_of(real).save_hdf5(str(folder / "mdtraj.h5"))
    expected = frames_of(folder, start=3, stride=7)
    beside = frames_of(folder, trajectories=("mdtraj.h5",), start=3, stride=7)
    np.testing.assert_allclose(beside.positions, expected.positions, atol=1e-6)
    (folder / "topology.pdb").unlink()
    alone = frames_of(folder, trajectories=("mdtraj.h5",), start=3, stride=7)
    np.testing.assert_array_equal(alone.positions, beside.positions)
    assert alone.topology.bonds == expected.topology.bonds
    assert load_conformers(folder / "mdtraj.h5", "mdtraj").positions.shape == real.positions.shape


def test_the_box_of_such_a_file_makes_molecules_whole(folder: Path) -> None:
    trajectory = trajectory_of(load_conformers(folder / "walker_0.h5", "real"))[:20]
    trajectory.unitcell_lengths, trajectory.unitcell_angles = np.full((20, 3), 2.0), np.full((20, 3), 90.0)
    trajectory.xyz = (trajectory.xyz % 2.0).astype(np.float32)
    trajectory.save_hdf5(str(folder / "wrapped.h5"))
    whole = frames_of(folder, trajectories=("wrapped.h5",), unwrap=True)
    first, second = np.array(whole.topology.bonds).T
    assert np.linalg.norm(whole.positions[:, first] - whole.positions[:, second], axis=-1).max() < 0.18


def test_a_file_of_another_molecule_is_refused(folder: Path) -> None:
    real = load_conformers(folder / "walker_0.h5", "real")
    trajectory_of(real).atom_slice(range(21)).save_hdf5(str(folder / "short.h5"))
    with pytest.raises(
        ValueError, match=r"short.h5 has 21 atoms, .*topology.pdb 22; both must have the same atoms in the same order"
    ):
        frames_of(folder, trajectories=("short.h5",))


def test_a_damaged_file_is_refused(folder: Path) -> None:
    content = bytearray((folder / "walker_0.h5").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    (folder / "walker_0.h5").write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"walker_0.h5: is damaged, its values cannot be read .*; copy the file again"):
        frames_of(folder)


@pytest.mark.parametrize(("factor", "length"), [(10.0, "1.1"), (0.1, "0.011")])
def test_positions_in_other_units_are_refused(folder: Path, factor: float, length: str) -> None:
    trajectory = trajectory_of(load_conformers(folder / "walker_0.h5", "real"))
    trajectory.xyz = (factor * trajectory.xyz).astype(np.float32)
    trajectory.save(str(folder / "other.dcd"))
    with pytest.raises(ValueError, match=rf"other\.dcd: half of the bonds are longer than {length}\d* nm, where 0.05 to 0.8"):
        frames_of(folder, trajectories=("other.dcd",))


def test_a_trajectory_is_no_topology(folder: Path) -> None:
    trajectory_of(load_conformers(folder / "walker_0.h5", "real")).save(str(folder / "a.dcd"))
    with pytest.raises(ValueError, match=r"a\.dcd: has no .*resnames.* of its atoms; give a topology, such as a PDB file"):
        frames_of(folder, trajectories=("a.dcd",), topology="a.dcd")


# --- few samples ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [50, 200, 1000, 10**6])
def test_few_samples_are_compared_with_as_few_of_the_reference(count: int) -> None:
    """Independent draws of the reference's own distribution are neither better nor worse than its baseline."""
    generator = np.random.default_rng(0)
    points, edges = generator.normal(size=(8000, 2)), (np.linspace(-4, 4, 37),) * 2
    floor, error = baseline(points, np.ones(8000), edges, count)
    drawn = [generator.normal(size=(min(count, 4000), 2)) for _ in range(20)]
    half = histogram(generator.normal(size=(4000, 2)), np.ones(4000), edges)
    found = [divergence(histogram(one, np.ones(len(one)), edges), half) for one in drawn]
    assert np.mean(found) == pytest.approx(floor, rel=0.1)
    assert 0 < error < 0.1 * floor or count <= 50


def test_the_baseline_draws_by_weight() -> None:
    """Points without weight are not drawn, so that the remaining ones agree with themselves."""
    points = np.repeat([[0.5, 0.5], [1.5, 1.5]], 400, axis=0)[np.random.default_rng(1).permutation(800)]
    weight = (points[:, 0] < 1).astype(float)
    assert baseline(points, weight, (np.arange(3.0),) * 2, 20) == (0.0, 0.0)
