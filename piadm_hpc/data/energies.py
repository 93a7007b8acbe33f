"""Reduced energies U / kT of samples and their gradients: by OpenMM, by any function, or in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ..config import plugins
from ..schema.topology import Topology

BOLTZMANN = 8.31446261815324e-3  # kJ/mol/K
FORCE_FIELD = ("amber14-all.xml", "implicit/gbn2.xml")
TEMPERATURE = 300.0
CLOSED = ("lennard-jones",)

Energy = Callable[[Any], np.ndarray]


class EnergyConfig(BaseModel):
    """The energy U/kT of a molecule: "openmm", "lennard-jones", or a function "module:callable" of positions in nm.

    `temperature` in K and the files `force_field` are for OpenMM.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    temperature: float = Field(default=TEMPERATURE, gt=0)
    force_field: tuple[str, ...] = FORCE_FIELD


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
        raise ValueError(f"--energy {name}: the samples are not conformers; give module:callable, a function that returns U/kT")
    return lennard_jones if name == "lennard-jones" else openmm_energy(topology, temperature, force_field)


def gradient_of(config: EnergyConfig, topology: Topology) -> Energy:
    """Return the gradient [n, atoms, 3] of the energy in kT at positions [n, atoms, 3] in nm, per nm.

    A function "module:callable" is differentiated by torch: it takes a tensor and returns one. Raises ValueError for an
    unknown name.
    """
    if config.name == "openmm":
        # many frames at single precision, which is ten times as fast
        return _openmm(topology, config.temperature, config.force_field, "CPU")[1]
    function = _lennard_jones if config.name in CLOSED else energy_of(config.name, topology)
    return lambda positions: _differentiated(config.name, function, positions)


def lennard_jones(positions: np.ndarray) -> np.ndarray:
    """Energies [n] in kT of a Lennard-Jones cluster at positions [n, atoms, 3], in units of the pair potential's minimum.

    2 sum over pairs (r^-12 - 2 r^-6) + sum over atoms |x_i - mean|^2 / 2, the benchmark of Koehler et al. 2020.
    """
    return np.asarray(_lennard_jones(torch.from_numpy(np.asarray(positions, dtype=np.float64))))


def _lennard_jones(positions: Tensor) -> Tensor:
    first, second = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
    square = ((positions[:, first] - positions[:, second]) ** 2).sum(-1)
    away = positions - positions.mean(1, keepdim=True)
    return 2 * (square**-6 - 2 * square**-3).sum(1) + (away**2).sum((1, 2)) / 2


def _differentiated(name: str, function: Callable[[Any], Any], positions: np.ndarray) -> np.ndarray:
    with torch.enable_grad():
        leaf = torch.from_numpy(np.asarray(positions, dtype=np.float64)).requires_grad_()
        values = function(leaf)
        if not isinstance(values, Tensor) or not values.requires_grad or values.shape != (len(positions),):
            raise ValueError(
                f"energy.name = {name!r}: training needs its gradient; take a tensor of positions [n, atoms, 3] and return "
                "one U/kT for each, computed by torch"
            )
        (slope,) = torch.autograd.grad(values.sum(), leaf)
    return slope.numpy()


def openmm_energy(topology: Topology, temperature: float, force_field: Sequence[str]) -> Energy:
    """Return the potential energy in kT by OpenMM, without cutoff and constraints, in double precision.

    Raises ValueError when OpenMM is not installed, and when the force field does not know the molecule.
    """
    return _openmm(topology, temperature, force_field, "Reference")[0]


def _openmm(topology: Topology, temperature: float, force_field: Sequence[str], where: str) -> tuple[Energy, Energy]:
    """Return the potential energy in kT [n] and its gradient [n, atoms, 3] per nm."""
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
    platform, options = openmm.Platform.getPlatformByName(where), {"Threads": "1"} if where == "CPU" else {}
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, options)
    thermal, force = BOLTZMANN * temperature, unit.kilojoule_per_mole / unit.nanometer

    def states(positions: np.ndarray, **wanted: bool) -> Iterator[Any]:
        for frame in np.asarray(positions, dtype=np.float64):
            context.setPositions(frame)
            yield context.getState(**wanted)

    def energy(positions: np.ndarray) -> np.ndarray:
        found = states(positions, getEnergy=True)
        return np.array([state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) for state in found]) / thermal

    def gradient(positions: np.ndarray) -> np.ndarray:
        found = states(positions, getForces=True)
        return -np.array([state.getForces(asNumpy=True).value_in_unit(force) for state in found]) / thermal

    return energy, gradient


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
