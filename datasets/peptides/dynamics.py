"""Reference dynamics of ACE-ALA_n-NME: OpenMM, Amber ff14SB with implicit solvent (GBn2), 300 K, from ten typed-in atoms.

    python dynamics.py bias --folder run                  # minutes: a bias over (phi, psi) by well-tempered metadynamics
    python dynamics.py run --folder run --walkers 16 --segments 4 --processes 2    # resumable: makes what is missing
    python dynamics.py join --folder run                 # conformer files run/walker_00.h5 ... with log-weights
    python dynamics.py run --residues 5 --folder penta    # longer chains; without `bias` first, dynamics as they are

The rare basin (phi > 0) is left and entered on a scale of tens of nanoseconds. A fixed bias, kept from the metadynamics and
never changed again, flattens the surface of the two torsions: nearly all of it for every second walker, so that both basins
are entered often, and half of it for the others, so that most frames are of the common ones. `join` gives every frame the
weight with which all of them together follow the unbiased ensemble (Shirts and Chodera 2008, MBAR, eqs. 9 and 11). Bonds to
hydrogen are flexible: their atoms are made heavy (4 u, which changes no equilibrium average of positions), so that 3 fs
resolve them and the density has no delta functions.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import openmm as mm
from openmm import app, unit
from scipy.spatial.transform import Rotation

from piadm_hpc.schema.layout import conformer_layout
from piadm_hpc.schema.topology import Atom, Topology
from piadm_hpc.store.shard import write_samples

TEMPERATURE = 300.0  # K
KT = 8.31446261815324e-3 * TEMPERATURE  # kJ/mol
STEP = 0.003  # ps; the fastest motion, C=O stretching, takes 20 fs
FRICTION = 1.0  # 1/ps
HYDROGEN_MASS = 4.0  # u
GRID = 60  # points of the bias per torsion
FRACTIONS = (0.8, 0.5)  # share of the free energy that the fixed bias removes, for even and odd walkers
CEILING = 60.0  # kJ/mol: free energies above this are not followed
FRAME = 1.0  # ps between frames
SEGMENT = 1000  # frames in a file
SETTLE = 50.0  # ps before the first frame of a walker
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


def system_of(made: Molecule) -> mm.System:
    """The unbiased system: no cutoff, no constraints, heavy hydrogens."""
    return made.force_field.createSystem(
        made.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, hydrogenMass=HYDROGEN_MASS * unit.amu
    )


def simulation_of(made: Molecule, system: mm.System, seed: int) -> app.Simulation:
    """A simulation on one thread, minimised, with velocities at the temperature."""
    integrator = mm.LangevinMiddleIntegrator(TEMPERATURE * unit.kelvin, FRICTION / unit.picosecond, STEP * unit.picoseconds)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(made.topology, system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    simulation.context.setPositions(made.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE * unit.kelvin, seed)
    return simulation


def torsion(positions: np.ndarray, four: tuple[int, ...]) -> np.ndarray:
    """Torsion angles of frames [frame, atom, 3] in radians."""
    a, b, c = (positions[:, four[k + 1]] - positions[:, four[k]] for k in range(3))
    first, second = np.cross(a, b), np.cross(b, c)
    along = np.linalg.norm(b, axis=-1) * (a * second).sum(-1)
    return np.arctan2(along, (first * second).sum(-1))


def find_bias(folder: Path, residues: int, nanoseconds: float) -> None:
    """Well-tempered metadynamics over (phi, psi); keeps the free energy on its grid."""
    made = molecule(residues)
    system = system_of(made)
    variables = []
    for four in made.torsions:
        angle = mm.CustomTorsionForce("theta")
        angle.addTorsion(*four)
        variables.append(app.BiasVariable(angle, -np.pi, np.pi, 0.35, True, GRID + 1))
    meta = app.Metadynamics(system, variables, TEMPERATURE * unit.kelvin, 10.0, 1.0 * unit.kilojoule_per_mole, 250)
    simulation = simulation_of(made, system, 1)
    begun, chunk = time.time(), 50000
    for done in range(0, int(nanoseconds * 1000 / STEP), chunk):
        meta.step(simulation, chunk)
        print(f"bias: {(done + chunk) * STEP / 1000:.2f} of {nanoseconds} ns, {time.time() - begun:.0f} s", flush=True)
    energy = np.asarray(meta.getFreeEnergy().value_in_unit(unit.kilojoule_per_mole))
    keep(folder / "bias.npy", energy - energy.min())  # [psi, phi], from -pi to pi with both ends


def bias_of(folder: Path, fraction: float) -> np.ndarray:
    """The fixed bias in kJ/mol on the grid of a torsion map, [phi, psi], angles from 0; none where none was found."""
    if not (folder / "bias.npy").is_file():
        return np.zeros((GRID, GRID))
    energy = np.load(folder / "bias.npy")[:-1, :-1]  # both ends are the same angle
    return np.roll(-fraction * np.minimum(energy, CEILING), (GRID // 2, GRID // 2), (0, 1)).T


def biased(made: Molecule, bias: np.ndarray) -> tuple[mm.System, int]:
    """The system with the fixed bias as a torsion map in a force group of its own, and that group."""
    system = system_of(made)
    for force in system.getForces():
        force.setForceGroup(0)
    fixed = mm.CMAPTorsionForce()
    fixed.addMap(GRID, bias.T.ravel())  # phi runs fastest
    fixed.addTorsion(0, *made.torsions[0], *made.torsions[1])
    fixed.setForceGroup(1)
    system.addForce(fixed)
    return system, 1


def run_walker(folder: Path, residues: int, walker: int, segments: int, seed: int) -> None:
    """The missing segments of one walker; each begins where the last one ended."""
    made = molecule(residues)
    system, group = biased(made, bias_of(folder, FRACTIONS[walker % len(FRACTIONS)]))
    first = next(k for k in range(segments + 1) if k == segments or not segment(folder, walker, k).exists())
    if first == segments:
        return
    simulation = simulation_of(made, system, seed * 1000003 + walker * 1009 + first)
    context = simulation.context
    if first:
        with np.load(segment(folder, walker, first - 1)) as last:
            context.setPositions(last["end_positions"])
            context.setVelocities(last["end_velocities"])
    else:
        simulation.step(round((1 + walker) * SETTLE / STEP))
    for number in range(first, segments):
        begun = time.time()
        frames, energies, biases = (
            np.empty((SEGMENT, system.getNumParticles(), 3), np.float32),
            np.empty(SEGMENT),
            np.empty(SEGMENT),
        )
        for k in range(SEGMENT):
            simulation.step(round(FRAME / STEP))
            frames[k] = context.getState(getPositions=True).getPositions(asNumpy=True)
            energies[k] = value(context.getState(getEnergy=True, groups={0}))
            biases[k] = value(context.getState(getEnergy=True, groups={group}))
        state = context.getState(getPositions=True, getVelocities=True)
        end = {
            "end_positions": state.getPositions(asNumpy=True)._value,
            "end_velocities": state.getVelocities(asNumpy=True)._value,
        }
        keep(segment(folder, walker, number), coordinates=frames, energy=energies, bias=biases, **end)
        print(f"walker {walker}: segment {number + 1} of {segments}, {time.time() - begun:.0f} s", flush=True)


def value(state: mm.State) -> float:
    """Potential energy in kJ/mol."""
    return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))


def segment(folder: Path, walker: int, number: int) -> Path:
    """The file of one segment of one walker."""
    return folder / f"walker_{walker:02d}_{number:04d}.npz"


def keep(path: Path, array: np.ndarray | None = None, **arrays: np.ndarray) -> None:
    """Write under another name and rename: a file that exists is whole."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array) if array is not None else np.savez(file, **arrays)
    os.replace(partial, path)


def run(folder: Path, residues: int, walkers: list[int], segments: int, seed: int, processes: int) -> None:
    """All walkers, several at a time, segment by segment: whatever is there when it stops is spread over all of them."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for upto in range(1, segments + 1):
            pool.starmap(run_walker, [(folder, residues, walker, upto, seed) for walker in walkers], chunksize=1)


def described(topology: app.Topology) -> Topology:
    """OpenMM's topology in this package's record."""
    atoms = tuple(Atom(a.name, a.element.symbol, a.residue.name, a.residue.index + 1) for a in topology.atoms())
    pairs = [sorted((first.index, second.index)) for first, second in topology.bonds()]
    return Topology(atoms, tuple((low, high) for low, high in sorted(pairs)))


def log_weights(free: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Logarithms of the weights of frames, of mean one, from the free energy [n] in kT that `FRACTIONS` of were taken away.

    `run` [n] is the fraction's number. MBAR's equations for the free energies of the biased ensembles, iterated to 1e-9.
    """
    counts = np.bincount(run, minlength=len(FRACTIONS))
    present = np.flatnonzero(counts)
    pulls = np.array(FRACTIONS)[present, None] * free  # minus the bias in kT, [ensemble, n]
    shifts = np.zeros(len(present))
    while True:
        mixture = np.logaddexp.reduce(np.log(counts[present, None]) + shifts[:, None] + pulls, axis=0)
        found = -np.logaddexp.reduce(pulls - mixture, axis=1)
        found -= found[0]
        if np.abs(found - shifts).max() < 1e-9:
            return -mixture - np.log(np.mean(np.exp(-mixture)))
        shifts = found


def join(folder: Path, residues: int) -> None:
    """One conformer file per walker from its segments, and topology.pdb beside them."""
    made = molecule(residues)
    topology = described(made.topology)
    (folder / "topology.pdb").write_text(topology.to_pdb(made.positions), encoding="utf-8")
    walkers = sorted({path.name[:9] for path in folder.glob("walker_*_*.npz")})
    read = [gather(sorted(folder.glob(f"{walker}_*.npz"))) for walker in walkers]
    run = [np.full(len(arrays["bias"]), int(walker[-2:]) % len(FRACTIONS)) for walker, arrays in zip(walkers, read, strict=True)]
    flat = np.concatenate(run)
    free = -np.concatenate([arrays["bias"] for arrays in read]) / KT / np.array(FRACTIONS)[flat]
    logs = np.split(log_weights(free, flat), np.cumsum([len(part) for part in run])[:-1])
    for walker, arrays, log_weight in zip(walkers, read, logs, strict=True):
        write_samples(
            folder / f"{walker}.h5",
            layout=conformer_layout(topology),
            ids=tuple(range(len(log_weight))),
            fields={"coordinates": arrays["coordinates"] - arrays["coordinates"].mean(1, keepdims=True)},
            per_sample={
                "log_weight": log_weight.astype(np.float32),
                "potential_energy": arrays["energy"].astype(np.float32),
            },
            attributes={
                "title": f"ACE-ALA{residues}-NME, Amber ff14SB with GBn2, 300 K, weighted to remove a fixed bias over (phi, psi)",
                "source": f"OpenMM {mm.version.version}, frames {FRAME:g} ps apart",
            },
            compression="zlib",
        )
        print(f"{walker}.h5: {len(log_weight)} frames", flush=True)


def gather(paths: list[Path]) -> dict[str, np.ndarray]:
    """Positions, energies and biases of all segments, one after another."""
    parts = [np.load(path) for path in paths]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("coordinates", "energy", "bias")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bias", "run", "join"])
    parser.add_argument("--folder", type=Path, default=Path("dynamics"))
    parser.add_argument("--residues", type=int, default=1, help="alanines in the chain")
    parser.add_argument("--nanoseconds", type=float, default=4.0, help="of metadynamics")
    parser.add_argument("--walkers", type=int, default=16)
    parser.add_argument("--segments", type=int, default=4, help="of 1 ns per walker")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.what == "bias":
        find_bias(given.folder, given.residues, given.nanoseconds)
    elif given.what == "join":
        join(given.folder, given.residues)
    else:
        run(given.folder, given.residues, list(range(given.walkers)), given.segments, given.seed, given.processes)
