"""Atoms and bonds of a molecule: conversion to mdtraj's JSON and to PDB text, chiral centres, rotors, bonded quadruples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

MAX_PDB_SERIAL = 99_999


@dataclass(frozen=True)
class Atom:
    """An atom: its name, its element symbol, and the residue and the chain to which it belongs."""

    name: str
    element: str
    residue: str
    residue_number: int
    chain: int = 0


@dataclass(frozen=True)
class Topology:
    """Atoms in the order of their coordinates, and bonds as pairs of indices.

    Raises ValueError without atoms, and for bonds that are not pairs of different atoms.
    """

    atoms: tuple[Atom, ...]
    bonds: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        wrong = [pair for pair in self.bonds if not 0 <= min(pair) < max(pair) < len(self.atoms)]
        if not self.atoms or wrong:
            raise ValueError(f"topology of {len(self.atoms)} atoms: bonds {wrong[:3]} are not pairs of different atoms of it")

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def neighbours(self) -> list[list[int]]:
        """For each atom the indices of the atoms bonded to it, ascending."""
        found: list[set[int]] = [set() for _ in self.atoms]
        for a, b in self.bonds:
            found[a].add(b)
            found[b].add(a)
        return [sorted(bonded) for bonded in found]

    def quadruples(self) -> list[tuple[int, int, int, int]]:
        """Quadruples of atoms whose signed volume distinguishes mirror images: an atom with three neighbours, or four in a chain.

        The volume of (i, j, k, l) is (x_j - x_i) . ((x_k - x_i) x (x_l - x_i)).
        """
        near = self.neighbours
        found = [(centre, *three) for centre, bonded in enumerate(near) for three in combinations(bonded, 3)]
        chains = ((b, a, c, d) for b, c in self.bonds for a in near[b] for d in near[c] if a != c and d not in (a, b))
        return found + list(chains)

    def rotors(self) -> list[tuple[int, int, int]]:
        """Triples of equivalent atoms at the end of a bond, such as the hydrogens of a methyl group.

        A cyclic permutation of their names is a symmetry of every force field; exchanging two of them is a reflection.
        """
        near = self.neighbours
        ends = [[j for j in bonded if len(near[j]) == 1] for bonded in near]
        alike = [three for three in ends if len(three) == 3 and len({self.atoms[j].element for j in three}) == 1]
        return [(three[0], three[1], three[2]) for three in alike]

    def atom_classes(self) -> list[int]:
        """A class per atom, equal for atoms with the same element, the same elements of neighbours, and so on to ten bonds."""
        near = self.neighbours
        classes: list[Any] = [atom.element for atom in self.atoms]
        for _ in range(10):
            named = [(classes[i], tuple(sorted(map(str, (classes[j] for j in near[i]))))) for i in range(len(self.atoms))]
            numbers = {name: k for k, name in enumerate(sorted(set(named), key=str))}
            classes = [numbers[name] for name in named]
        return classes

    def centres(self) -> list[tuple[int, int, int, int]]:
        """Chiral carbons, with four different neighbours: (centre, three of them), whose signed volume is the handedness."""
        near, classes = self.neighbours, self.atom_classes()
        four = [(i, bonded) for i, bonded in enumerate(near) if self.atoms[i].element == "C" and len(bonded) == 4]
        chosen = [(i, bonded) for i, bonded in four if len({classes[j] for j in bonded}) == 4]
        return [(i, *self._heavy_first(bonded)) for i, bonded in chosen]

    def _heavy_first(self, bonded: list[int]) -> tuple[int, int, int]:
        first, second, third, *_ = sorted(bonded, key=lambda j: (self.atoms[j].element == "H", j))
        return first, second, third

    def to_json(self) -> str:
        """The topology as JSON in mdtraj's form, as in its HDF5 files."""
        chains: list[dict[str, Any]] = []
        place: tuple[int, int, str] | None = None
        for index, atom in enumerate(self.atoms):
            if place is None or atom.chain != place[0]:
                chains.append({"index": len(chains), "residues": []})
            residues = chains[-1]["residues"]
            if place != (atom.chain, atom.residue_number, atom.residue):
                number = sum(len(chain["residues"]) for chain in chains)
                residues.append(
                    {"index": number, "name": atom.residue, "resSeq": atom.residue_number, "segmentID": "", "atoms": []}
                )
            residues[-1]["atoms"].append({"index": index, "name": atom.name, "element": atom.element})
            place = (atom.chain, atom.residue_number, atom.residue)
        return json.dumps({"chains": chains, "bonds": [list(bond) for bond in self.bonds]})

    @classmethod
    def from_json(cls, text: str) -> Topology:
        """Parse a topology from mdtraj's JSON; ValueError for other text."""
        try:
            content = json.loads(text)
            atoms = {}
            for number, chain in enumerate(content["chains"]):
                for residue in chain["residues"]:
                    for atom in residue["atoms"]:
                        atoms[int(atom["index"])] = Atom(
                            atom["name"], atom["element"], residue["name"], int(residue["resSeq"]), number
                        )
            bonds = tuple((min(map(int, pair[:2])), max(map(int, pair[:2]))) for pair in content["bonds"])
            return cls(tuple(atoms[k] for k in range(len(atoms))), bonds)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a topology in mdtraj's JSON: {error}") from None

    def to_pdb(self, positions: np.ndarray) -> str:
        """One conformer as PDB text with CONECT records; positions [atoms, 3] in nanometres."""
        return "".join(f"{line}\n" for line in self._pdb_lines(np.asarray(positions) * 10))

    def _pdb_lines(self, angstrom: np.ndarray) -> Iterator[str]:
        for index, (atom, (x, y, z)) in enumerate(zip(self.atoms, angstrom, strict=True)):
            # two-letter elements begin one column further left
            name = atom.name if len(atom.name) > 3 or len(atom.element) == 2 else f" {atom.name}"
            chain = chr(ord("A") + atom.chain % 26)
            yield (
                f"ATOM  {(index + 1) % (MAX_PDB_SERIAL + 1):5d} {name:<4.4s} {atom.residue:>3.3s} {chain}"
                f"{atom.residue_number % 10_000:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {atom.element.upper():>2s}"
            )
        for index, bonded in enumerate(self.neighbours):
            if bonded and len(self.atoms) <= MAX_PDB_SERIAL:
                for start in range(0, len(bonded), 4):
                    yield f"CONECT{index + 1:5d}" + "".join(f"{other + 1:5d}" for other in bonded[start : start + 4])
        yield "END"
