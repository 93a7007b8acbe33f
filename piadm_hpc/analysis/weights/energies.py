"""Reduced energies U / kT of samples: by OpenMM, by any function, or in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...config import plugins
from ...data.superpose import centred
from ...schema.topology import Topology

BOLTZMANN = 8.31446261815324e-3  # kJ/mol/K
FORCE_FIELD = ("amber14-all.xml", "implicit/gbn2.xml")
TEMPERATURE = 300.0
CLOSED = ("lennard-jones",)

Energy = Callable[[Any], np.ndarray]


def energy_of(
    name: str, topology: Topology | None, *, temperature: float = TEMPERATURE, force_field: Sequence[str] = FORCE_FIELD
) -> Energy:
    """Return the energy in kT of samples: "openmm", "lennard-jones", or a function "module:callable" of the user.

    Energies take positions [n, atoms, 3] in nm; a function for other samples takes the array of the only variable, or a
    dictionary of arrays by variable. Raises ValueError for an unknown name and for energies of molecules where there is none.
    """
    if ":" in name:
        return plugins.load("--energy", name)
    if name not in ("openmm", *CLOSED):
        raise ValueError(f"--energy {name!r}: use openmm, {', '.join(CLOSED)}, or module:callable, a function that returns U/kT")
    if topology is None:
        raise ValueError(f"--energy {name}: the samples are no conformers; give module:callable, a function that returns U/kT")
    return lennard_jones if name == "lennard-jones" else openmm_energy(topology, temperature, force_field)


def lennard_jones(positions: np.ndarray) -> np.ndarray:
    """Energies [n] in kT of a Lennard-Jones cluster at positions [n, atoms, 3], in units of the pair potential's minimum.

    2 sum over pairs (r^-12 - 2 r^-6) + sum over atoms |x_i - mean|^2 / 2, the benchmark of Koehler et al. 2020.
    """
    first, second = np.triu_indices(positions.shape[1], 1)
    square = ((positions[:, first] - positions[:, second]) ** 2).sum(-1)
    return np.asarray(2 * (square**-6 - 2 * square**-3).sum(1) + (centred(positions) ** 2).sum((1, 2)) / 2)


def openmm_energy(topology: Topology, temperature: float, force_field: Sequence[str]) -> Energy:
    """Return the potential energy in kT by OpenMM, without cutoff and constraints, in double precision.

    Raises ValueError when OpenMM is not installed, and when the force field does not know the molecule.
    """
    try:
        import openmm
        from openmm import app, unit
    except ImportError:
        raise ValueError("energies by OpenMM need it: pip install 'piadm_hpc[dynamics]'") from None
    try:
        known = app.ForceField(*force_field)
        system = known.createSystem(_openmm_topology(topology, app), nonbondedMethod=app.NoCutoff, constraints=None)
    except Exception as error:  # OpenMM raises ValueError, OSError or its own exceptions
        raise ValueError(f"--force-field {' '.join(force_field)}: {error}") from None
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)

    def energy(positions: np.ndarray) -> np.ndarray:
        found = []
        for frame in np.asarray(positions, dtype=np.float64):
            context.setPositions(frame)
            value = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            found.append(value / (BOLTZMANN * temperature))
        return np.array(found)

    return energy


def _openmm_topology(topology: Topology, app: Any) -> Any:
    """Return the molecule as a topology of OpenMM."""
    made, chains, residues, atoms = app.Topology(), {}, {}, []
    for atom in topology.atoms:
        if atom.chain not in chains:
            chains[atom.chain] = made.addChain()
        key = (atom.chain, atom.residue_number, atom.residue)
        if key not in residues:
            residues[key] = made.addResidue(atom.residue, chains[atom.chain], str(atom.residue_number))
        atoms.append(made.addAtom(atom.name, app.Element.getBySymbol(atom.element), residues[key]))
    for first, second in topology.bonds:
        made.addBond(atoms[first], atoms[second])
    return made
