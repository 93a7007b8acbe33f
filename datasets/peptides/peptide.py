"""ACE-ALA_n-NME: atoms, bonds, force field and the two torsions of its middle residue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import openmm as mm
from openmm import app, unit
from scipy.spatial.transform import Rotation

from piadm_hpc.schema.topology import Atom, Topology

TEMPERATURE = 300.0  # K
STEP = 0.003  # ps; the fastest motion, C=O stretching, takes 20 fs
FRICTION = 1.0  # 1/ps
HYDROGEN_MASS = 4.0  # u
START = np.deg2rad(-80.0)  # phi of every residue at the start

# heavy atoms in angstrom, of the L form: (N - CA) . ((C - CA) x (CB - CA)) is positive
ATOMS = (
    ("ACE", (("CH3", "C", (2.000, 2.090, 0.000)), ("C", "C", (3.427, 2.641, 0.000)), ("O", "O", (4.391, 1.877, 0.000)))),
    (
        "ALA",
        (
            ("N", "N", (3.555, 3.970, 0.000)),
            ("CA", "C", (4.853, 4.614, 0.000)),
            ("C", "C", (5.661, 4.221, -1.232)),
            ("O", "O", (5.123, 3.521, -2.096)),
            ("CB", "C", (5.661, 4.221, 1.232)),
        ),
    ),
    ("NME", (("N", "N", (6.913, 4.656, -1.302)), ("C", "C", (7.760, 4.318, -2.430)))),
)
PHI, PSI = (("C", 0), ("N", 1), ("CA", 1), ("C", 1)), (("N", 1), ("CA", 1), ("C", 1), ("N", 2))


@dataclass(frozen=True)
class Molecule:
    """Topology and start of the simulation, with the four atoms of each of the two torsions."""

    topology: app.Topology
    positions: np.ndarray  # nm
    force_field: app.ForceField
    torsions: tuple[tuple[int, ...], tuple[int, ...]]


def chain_of(residues: int) -> list[tuple[str, tuple[tuple[str, str, np.ndarray], ...]]]:
    """Heavy atoms of ACE-ALA_n-NME in angstrom: the typed ones, each further residue in the frame of the last peptide bond."""
    (ace, cap), (ala, middle), (nme, end) = ((name, [(a, e, np.array(x)) for a, e, x in members]) for name, members in ATOMS)
    plane = np.array([x for *_, x in cap])  # CH3, C, O: like CA, C, O of a residue
    typed = {a: x for a, _, x in middle}
    built, edge = [(ace, tuple(cap))], plane
    for _ in range(residues):
        turn = _aligned(plane, edge)
        at = {a: turn.apply(x - plane[1]) + edge[1] for a, _, x in middle}
        axis = (at["CA"] - at["N"]) / np.linalg.norm(at["CA"] - at["N"])
        now = torsion(np.array([[edge[1], at["N"], at["CA"], at["C"]]]), (0, 1, 2, 3))[0]
        bend = Rotation.from_rotvec((START - now) * axis)
        at |= {a: bend.apply(at[a] - at["CA"]) + at["CA"] for a in ("C", "O", "CB")}
        built.append((ala, tuple((a, e, at[a]) for a, e, _ in middle)))
        edge = np.array([at["CA"], at["C"], at["O"]])
    turn = _aligned(np.array([typed["CA"], typed["C"], typed["O"]]), edge)
    return [*built, (nme, tuple((a, e, turn.apply(x - typed["C"]) + edge[1]) for a, e, x in end))]


def _aligned(plane: np.ndarray, edge: np.ndarray) -> Rotation:
    """The rotation about its second atom that brings one plane of three atoms [3, 3] onto another."""
    return Rotation.align_vectors(edge[[0, 2]] - edge[1], plane[[0, 2]] - plane[1])[0]


def bonds_of(members: list[list[app.topology.Atom]]) -> Iterator[tuple[app.topology.Atom, app.topology.Atom]]:
    """Bonds within and between the residues of a chain."""
    named = [{atom.name: atom for atom in residue} for residue in members]
    for first, second in pairwise(named):
        yield first["C"], second["N"]
    inside = (("CH3", "C"), ("C", "O"), ("N", "CA"), ("CA", "C"), ("CA", "CB"))
    for residue in named:
        yield from ((residue[a], residue[b]) for a, b in inside if a in residue and b in residue)
    yield named[-1]["N"], named[-1]["C"]


def molecule(residues: int = 1) -> Molecule:
    """ACE-ALA_n-NME, 12 + 10 n atoms: hydrogens are added to the heavy atoms."""
    topology = app.Topology()
    chain = topology.addChain()
    atoms = []
    heavy = chain_of(residues)
    for number, (name, members) in enumerate(heavy):
        residue = topology.addResidue(name, chain, str(number + 1))
        atoms.append([topology.addAtom(atom, app.Element.getBySymbol(element), residue) for atom, element, _ in members])
    for first, second in bonds_of(atoms):
        topology.addBond(first, second)
    places = np.array([position for _, members in heavy for *_, position in members])
    force_field = app.ForceField("amber14-all.xml", "implicit/gbn2.xml")
    modeller = app.Modeller(topology, places * unit.angstrom)
    modeller.addHydrogens(force_field)
    index = {(atom.name, atom.residue.index): atom.index for atom in modeller.topology.atoms()}
    middle = (residues - 1) // 2
    torsions = tuple(tuple(index[name, number + middle] for name, number in four) for four in (PHI, PSI))
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return Molecule(modeller.topology, positions, force_field, torsions)


def torsion(positions: np.ndarray, four: tuple[int, ...]) -> np.ndarray:
    """Torsion angles of frames [frame, atom, 3] in radians."""
    a, b, c = (positions[:, four[k + 1]] - positions[:, four[k]] for k in range(3))
    first, second = np.cross(a, b), np.cross(b, c)
    along = np.linalg.norm(b, axis=-1) * (a * second).sum(-1)
    return np.arctan2(along, (first * second).sum(-1))


def system_of(peptide: Molecule) -> mm.System:
    """The unbiased system: no cutoff, no constraints, heavy hydrogens."""
    return peptide.force_field.createSystem(
        peptide.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, hydrogenMass=HYDROGEN_MASS * unit.amu
    )


def simulation_of(peptide: Molecule, system: mm.System, seed: int) -> app.Simulation:
    """A simulation on one thread, minimised, with velocities at the temperature."""
    integrator = mm.LangevinMiddleIntegrator(TEMPERATURE * unit.kelvin, FRICTION / unit.picosecond, STEP * unit.picoseconds)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(peptide.topology, system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    simulation.context.setPositions(peptide.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE * unit.kelvin, seed)
    return simulation


def described(topology: app.Topology) -> Topology:
    """OpenMM's topology in this package's record."""
    atoms = tuple(Atom(a.name, a.element.symbol, a.residue.name, a.residue.index + 1) for a in topology.atoms())
    pairs = [sorted((first.index, second.index)) for first, second in topology.bonds()]
    return Topology(atoms, tuple((low, high) for low, high in sorted(pairs)))
