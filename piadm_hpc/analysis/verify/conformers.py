"""Comparison of sampled conformers with reference dynamics: torsions, slow coordinates, geometry, chirality, duplicates.

Distributions are compared by the Jensen-Shannon divergence of their histograms in bits. The part of it that is due to finite
sampling is measured by the divergence of as many frames from one half of the reference's contiguous blocks from the other half.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from ...data.conformer_files import H5, read_stored
from ...data.superpose import mean_structure, superposed
from ...data.trajectories import signs
from ...schema.topology import Topology
from ..scores import rms
from .divergence import BLOCKS, baseline, divergence, histogram

BINS = 36  # per torsion and per slow coordinate
LAG = 10  # frames, for the slow coordinates
CLASH = 0.6  # of the sum of two van der Waals radii
DUPLICATE = 0.005  # nm, root mean square deviation
COMPONENTS, NEIGHBOURS = 8, 32  # of the search for duplicates
PART_NUMBERS = 2**24  # bytes of the arrays that are computed from a part of the conformers at once
OWN_TOPOLOGY = (".pdb", ".cif", ".gro")
RADII = {"H": 0.12, "C": 0.17, "N": 0.155, "O": 0.152, "S": 0.18, "P": 0.18, "F": 0.147, "Cl": 0.175}  # nm, Bondi 1964


@dataclass(frozen=True)
class Conformers:
    """Positions [n, atoms, 3] in nm with weights [n] that sum to one."""

    label: str
    positions: np.ndarray
    weight: np.ndarray
    topology: Topology

    @property
    def effective(self) -> float:
        """The effective sample size, the equivalent number of equally weighted conformers (Kish 1965)."""
        return float(1 / (self.weight**2).sum())


@dataclass(frozen=True)
class Surface:
    """Joint distributions of two coordinates: probabilities [bins, bins] of samples and reference on `edges`.

    `jsd` is their divergence in bits; `floor` and `floor_error` are mean and standard deviation of the divergence of as many
    frames from one half of the reference's blocks from the other half.
    """

    name: str
    edges: tuple[np.ndarray, np.ndarray]
    samples: np.ndarray
    reference: np.ndarray
    jsd: float
    floor: float
    floor_error: float


def load_conformers(path: Path, label: str, structure: Path | None = None) -> Conformers:
    """Conformers from an HDF5 file of mdtraj or of this package, or from a trajectory that mdtraj reads with a `structure`.

    Raises ValueError for any other file.
    """
    stored = read_stored(path)
    if stored is not None:
        topology, positions, logs = stored.topology, stored.positions, stored.log_weight
    elif path.suffix in H5:
        raise ValueError(f"{path}: has no coordinates with a topology; give a file of conformers")
    else:
        trajectory = _loaded(path, None if path.suffix in OWN_TOPOLOGY else structure)
        topology, positions = topology_of(trajectory.topology), trajectory.xyz.astype(np.float64)
        logs = np.zeros(len(positions))
    weight = np.exp(logs - logs.max())
    return Conformers(label, positions, weight / weight.sum(), topology)


def _loaded(path: Path, structure: Path | None) -> Any:
    md = _mdtraj()
    try:
        return md.load(str(path), **({} if structure is None else {"top": str(structure)}))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        with_what = "" if structure is None else f" with topology {structure}"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: mdtraj cannot read it{with_what}: {reason}") from None


def _mdtraj() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mdtraj
    except ImportError:
        raise ValueError("verifying conformers needs mdtraj: pip install 'piadm_hpc[molecules]'") from None
    return mdtraj


def topology_of(topology: Any) -> Topology:
    """The topology of this package from one of mdtraj."""
    from ...schema.topology import Atom

    atoms = tuple(
        Atom(a.name, a.element.symbol, a.residue.name, int(a.residue.resSeq), int(a.residue.chain.index)) for a in topology.atoms
    )
    return Topology(atoms, tuple(sorted(tuple(sorted((b[0].index, b[1].index))) for b in topology.bonds)))


def trajectory_of(conformers: Conformers) -> Any:
    """The conformers as an mdtraj trajectory."""
    md = _mdtraj()
    topology = md.Topology()
    chains: dict[int, Any] = {}
    residues: dict[tuple[int, int, str], Any] = {}
    atoms = []
    for atom in conformers.topology.atoms:
        chain = chains.setdefault(atom.chain, None) or chains.update({atom.chain: topology.add_chain()}) or chains[atom.chain]
        key = (atom.chain, atom.residue_number, atom.residue)
        if key not in residues:
            residues[key] = topology.add_residue(atom.residue, chain, resSeq=atom.residue_number)
        atoms.append(topology.add_atom(atom.name, md.element.get_by_symbol(atom.element), residues[key]))
    for first, second in conformers.topology.bonds:
        topology.add_bond(atoms[first], atoms[second])
    return md.Trajectory(conformers.positions.astype(np.float32), topology)


def torsions(conformers: Conformers) -> dict[str, np.ndarray]:
    """phi and psi [n, residues] in radians, by name, of the residues that have both."""
    md, trajectory = _mdtraj(), trajectory_of(conformers)
    phi_atoms, phi = md.compute_phi(trajectory)
    psi_atoms, psi = md.compute_psi(trajectory)
    # phi turns about N-CA and psi about CA-C, so a common CA means the same residue
    centre_phi, centre_psi = phi_atoms[:, 2].tolist(), psi_atoms[:, 1].tolist()
    both = [(i, centre_psi.index(c)) for i, c in enumerate(centre_phi) if c in centre_psi]
    return {"phi": phi[:, [i for i, _ in both]], "psi": psi[:, [j for _, j in both]]}


def surface(name: str, ours: np.ndarray, own: Conformers, theirs: np.ndarray, real: Conformers, *, angles: bool) -> Surface:
    """Compare samples and reference in the plane of two coordinates [n, 2]."""
    if angles:
        edges = (np.linspace(-np.pi, np.pi, BINS + 1),) * 2
    else:
        both = np.concatenate([ours, theirs])
        edges = tuple(np.linspace(low, high, BINS + 1) for low, high in zip(both.min(0), both.max(0), strict=True))  # type: ignore[assignment]
    p, q = histogram(ours, own.weight, edges), histogram(theirs, real.weight, edges)
    floor, error = baseline(theirs, real.weight, edges, max(1, round(own.effective)))
    return Surface(name, edges, p, q, divergence(p, q), floor, error)


def slow_coordinates(real: Conformers, features: Callable[[Conformers], np.ndarray]) -> Callable[[Conformers], np.ndarray]:
    """The map of conformers to the two slowest linear combinations [n, 2] of features [n, k], by TICA of the reference.

    Perez-Hernandez et al. 2013.
    """
    series = features(real)
    mean = series.mean(0)
    centred = series - mean
    instant = centred.T @ centred / len(centred)
    lagged = centred[:-LAG].T @ centred[LAG:] / (len(centred) - LAG)
    size, axes = np.linalg.eigh(instant)
    kept = size > 1e-6 * np.max(size)
    whiten = axes[:, kept] / np.sqrt(size[kept])
    slow = np.linalg.eigh(whiten.T @ (lagged + lagged.T) / 2 @ whiten)[1][:, ::-1][:, :2]
    projection = whiten @ slow
    return lambda conformers: (features(conformers) - mean) @ projection


def circular(conformers: Conformers) -> np.ndarray:
    """Sines and cosines of all torsions phi and psi, [n, 4 residues]."""
    angles = np.concatenate(list(torsions(conformers).values()), axis=1)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def populations(conformers: Conformers) -> dict[str, tuple[float, float]]:
    """Share of conformers with phi between 0 and 150 degrees, per residue, and its standard error from blocks."""
    inside = (torsions(conformers)["phi"] > 0) & (torsions(conformers)["phi"] < np.deg2rad(150))
    return {f"residue {k + 1}": mean_and_error(column.astype(float), conformers.weight) for k, column in enumerate(inside.T)}


def mean_and_error(values: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Weighted mean of a series [n], and its standard error from blocks; NaN for a single value."""
    mean, blocks = float((values * weight).sum() / weight.sum()), min(BLOCKS, len(values))
    if blocks < 2:
        return mean, float("nan")
    cuts = np.array_split(np.arange(len(values)), blocks)
    shares = np.array([weight[cut].sum() for cut in cuts])
    sums = np.array([(values[cut] * weight[cut]).sum() for cut in cuts])
    return mean, float(np.sqrt(((sums - shares * mean) ** 2).sum() * blocks / (blocks - 1)) / shares.sum())


def geometry(own: Conformers, real: Conformers) -> dict[str, dict[str, float]]:
    """Root mean square differences of means and spreads, over bonds [nm] and over angles [degrees]."""
    table = {}
    for name, measure in (("bonds", bond_lengths), ("angles", bond_angles)):
        (mean, spread), (real_mean, real_spread) = (_moments(measure(c), c.weight) for c in (own, real))
        table[name] = {
            "rms difference of means": rms(mean - real_mean),
            "rms difference of spreads": rms(spread - real_spread),
            "reference spread": rms(real_spread),
        }
    return table


def bond_lengths(conformers: Conformers) -> np.ndarray:
    """Lengths of all bonds [n, bonds] in nm."""
    first, second = np.array(conformers.topology.bonds).T
    parts = _parts(conformers.positions, 3 * len(first))
    return np.concatenate([np.linalg.norm(part[:, first] - part[:, second], axis=-1) for part in parts])


def bond_angles(conformers: Conformers) -> np.ndarray:
    """Angles [n, angles] in degrees, one for each pair of bonds at an atom."""
    near = conformers.topology.neighbours
    a, b, c = np.array([(i, j, k) for j, bonded in enumerate(near) for i, k in combinations(bonded, 2)]).T
    found = []
    for part in _parts(conformers.positions, 6 * len(a)):
        u, v = part[:, a] - part[:, b], part[:, c] - part[:, b]
        cosine = (u * v).sum(-1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))
        found.append(np.rad2deg(np.arccos(cosine.clip(-1, 1))))
    return np.concatenate(found)


def _moments(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = weight @ values
    return mean, np.sqrt(weight @ (values - mean) ** 2)


def clashing(conformers: Conformers) -> np.ndarray:
    """Whether atoms more than three bonds apart are closer than 0.6 of the sum of their van der Waals radii, [n]."""
    near = conformers.topology.neighbours
    far = _beyond_three_bonds(near)
    if not far:
        return np.zeros(len(conformers.positions), dtype=bool)
    first, second = np.array(far).T
    radii = np.array([RADII.get(atom.element, 0.17) for atom in conformers.topology.atoms])
    reach = CLASH * (radii[first] + radii[second])
    found = [
        (np.linalg.norm(part[:, first] - part[:, second], axis=-1) < reach).any(1)
        for part in _parts(conformers.positions, 3 * len(far))
    ]
    return np.concatenate(found)


def _parts(positions: np.ndarray, numbers: int) -> list[np.ndarray]:
    """Positions in parts of conformers, so small that the numbers computed from one part fit into memory."""
    rows = max(1, PART_NUMBERS // numbers)
    return [positions[start : start + rows] for start in range(0, len(positions), rows)]


def _beyond_three_bonds(near: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    reached = [{i} for i in range(len(near))]
    for _ in range(3):
        reached = [atoms | {k for j in atoms for k in near[j]} for atoms in reached]
    return [(i, j) for i, j in combinations(range(len(near)), 2) if j not in reached[i]]


def wrong_hands(conformers: Conformers, real: Conformers) -> int:
    """Number of conformers with a chiral centre whose handedness differs from most of the reference."""
    majority = np.sign((signs(real.positions, real.topology) * real.weight[:, None]).sum(0))
    return int((signs(conformers.positions, conformers.topology) != majority).any(1).sum())


def duplicates(conformers: Conformers) -> float:
    """Share of conformers within 0.005 nm RMSD of an earlier one, superposed on the mean structure.

    Candidates are neighbours in the leading principal components, where distances are never larger than in full space, so that
    the time grows with the number of conformers and not with its square.
    """
    count, atoms, _ = conformers.positions.shape
    flat = superposed(conformers.positions, mean_structure(conformers.positions)[0]).reshape(count, -1)
    centred = flat - flat.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
    reach = DUPLICATE * np.sqrt(atoms)
    place = centred @ axes
    nearest = min(NEIGHBOURS, count)
    candidates = KDTree(place).query(place, k=[*range(1, nearest + 1)], distance_upper_bound=reach * (1 + 1e-9))[1]
    again = np.zeros(count, dtype=bool)
    own = np.arange(count)
    for other in candidates.T:
        rows = np.flatnonzero((other < own) & ~again)  # places without a further neighbour hold `count`
        again[rows] = np.linalg.norm(flat[rows] - flat[other[rows]], axis=1) < reach
    # if there are more near neighbours than requested, all earlier conformers are compared
    for row in np.flatnonzero(~again & (candidates[:, -1] < count)):
        again[row] = bool((np.linalg.norm(flat[:row] - flat[row], axis=1) < reach).any())
    return float(again.mean())
