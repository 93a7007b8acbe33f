"""Walkers on a surface that a fixed bias flattens: the bias by well-tempered metadynamics, and the runs, segment by segment."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import openmm as mm
from openmm import app, unit
from peptide import STEP, TEMPERATURE, Molecule, molecule, simulation_of, system_of

GRID = 60  # points of the bias per torsion
FRACTIONS = (0.8, 0.5)  # share of the free energy that the fixed bias removes, for even and odd walkers
CEILING = 60.0  # kJ/mol: free energies above this are not followed
FRAME = 1.0  # ps between frames
SEGMENT = 1000  # frames in a file
SETTLE = 50.0  # ps before the first frame of a walker


def find_bias(folder: Path, residues: int, nanoseconds: float) -> None:
    """Run well-tempered metadynamics over (phi, psi) and write the free energy on its grid to bias.npy."""
    peptide = molecule(residues)
    system = system_of(peptide)
    variables = []
    for four in peptide.torsions:
        angle = mm.CustomTorsionForce("theta")
        angle.addTorsion(*four)
        variables.append(app.BiasVariable(angle, -np.pi, np.pi, 0.35, True, GRID + 1))
    meta = app.Metadynamics(system, variables, TEMPERATURE * unit.kelvin, 10.0, 1.0 * unit.kilojoule_per_mole, 250)
    simulation = simulation_of(peptide, system, 1)
    start, chunk = time.time(), 50000
    for done in range(0, int(nanoseconds * 1000 / STEP), chunk):
        meta.step(simulation, chunk)
        print(f"bias: {(done + chunk) * STEP / 1000:.2f} of {nanoseconds} ns, {time.time() - start:.0f} s", flush=True)
    energy = np.asarray(meta.getFreeEnergy().value_in_unit(unit.kilojoule_per_mole))
    keep(folder / "bias.npy", energy - energy.min())  # [psi, phi], from -pi to pi with both ends


def bias_of(folder: Path, fraction: float) -> np.ndarray:
    """The fixed bias in kJ/mol on the grid of a torsion map, [phi, psi], angles from 0; zero without a bias.npy."""
    if not (folder / "bias.npy").is_file():
        return np.zeros((GRID, GRID))
    energy = np.load(folder / "bias.npy")[:-1, :-1]  # both ends are the same angle
    return np.roll(-fraction * np.minimum(energy, CEILING), (GRID // 2, GRID // 2), (0, 1)).T


def biased(peptide: Molecule, bias: np.ndarray) -> tuple[mm.System, int]:
    """The system with the fixed bias as a torsion map in a force group of its own, and that group."""
    system = system_of(peptide)
    for force in system.getForces():
        force.setForceGroup(0)
    fixed = mm.CMAPTorsionForce()
    fixed.addMap(GRID, bias.T.ravel())  # phi runs fastest
    fixed.addTorsion(0, *peptide.torsions[0], *peptide.torsions[1])
    fixed.setForceGroup(1)
    system.addForce(fixed)
    return system, 1


def run_walker(folder: Path, residues: int, walker: int, segments: int, seed: int) -> None:
    """Run the missing segments of one walker; each begins where the last one ended."""
    peptide = molecule(residues)
    system, group = biased(peptide, bias_of(folder, FRACTIONS[walker % len(FRACTIONS)]))
    first = next(k for k in range(segments + 1) if k == segments or not segment(folder, walker, k).exists())
    if first == segments:
        return
    simulation = simulation_of(peptide, system, seed * 1000003 + walker * 1009 + first)
    context = simulation.context
    if first:
        with np.load(segment(folder, walker, first - 1)) as last:
            context.setPositions(last["end_positions"])
            context.setVelocities(last["end_velocities"])
    else:
        simulation.step(round((1 + walker) * SETTLE / STEP))
    for number in range(first, segments):
        start = time.time()
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
        print(f"walker {walker}: segment {number + 1} of {segments}, {time.time() - start:.0f} s", flush=True)


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
    """Run all walkers, several at a time, segment by segment, so that a run cut short has about as many frames of each."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for upto in range(1, segments + 1):
            pool.starmap(run_walker, [(folder, residues, walker, upto, seed) for walker in walkers], chunksize=1)
