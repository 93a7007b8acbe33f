"""Elements and bonds of atoms that a topology file describes in part: from unambiguous names, and from distances.

A name such as CA is carbon in an amino acid, calcium as an ion, and either in an unknown molecule: then it is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from .mistakes import few

log = logging.getLogger(__name__)

HALOGENS = ("CL", "BR")
"""No scheme of naming puts L or R after carbon or boron."""

CHARMM_IONS = {"SOD": "Na", "POT": "K", "CLA": "Cl", "CAL": "Ca", "CES": "Cs", "LIT": "Li", "RUB": "Rb", "CAD": "Cd", "BAR": "Ba"}
WATER = {"HOH", "WAT", "SOL", "H2O", "TIP", "TIP3", "TIP3P", "TIP4", "TIP4P", "TIP5P", "SPC", "SPCE", "OPC", "NH2", "NMA"}
COVALENT = {"H", "D", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"}
"""Elements whose bonds are guessed from distances; what metals coordinate is not bonded to them."""

NEAR = 3.0
"""Angstrom around the selected atoms within which their neighbours are looked for."""


def element_of(name: str, residue: str = "", *, standard: bool = False, alone: bool = False) -> str | None:
    """The only element that the name of an atom allows, or None.

    `standard` says that its residue is an amino acid, a nucleotide or water, `alone` that it is the residue's only atom.
    """
    from MDAnalysis.guesser.tables import SYMB2Z

    letters = _letters(name)
    one, two = letters[:1], letters[:2].capitalize()
    if alone and residue.upper() in CHARMM_IONS:
        return CHARMM_IONS[residue.upper()]
    if alone and len(letters) <= 2 and two in SYMB2Z:
        return two
    if standard:
        return "Se" if residue.upper() == "MSE" and two == "Se" else one if one in COVALENT else None
    if letters[:2] in HALOGENS:
        return two
    # a symbol is followed by digits alone, or it is one letter with a label
    pair = two if len(letters) == 2 and two in SYMB2Z else None
    single = one if one in SYMB2Z else None
    if name[:1].isdigit() and one == "H":
        return "H"
    return pair or single if pair is None or single is None else None


def _letters(name: str) -> str:
    """The letters at the beginning of a name, digits before them left out."""
    text = name.strip().lstrip("0123456789'\"*").upper()
    return text[: next((k for k, character in enumerate(text) if not character.isalpha()), len(text))]


def elements_of(atoms: Any, source: object) -> list[str]:
    """Elements of MDAnalysis' atoms: as the file names them, else from their names and residues.

    Raises ValueError listing the atoms that could be of several elements, or of none.
    """
    found = _elements(atoms)
    unknown = [f"{a.name} in {a.resname} {a.resid}" for a, element in zip(atoms, found, strict=True) if element is None]
    if unknown:
        raise ValueError(
            f"{source}: names no elements, and the names of {len(unknown)} atoms leave several or none: {few(unknown, 6)}; "
            "write the elements into the topology (columns 77-78 of a PDB file), or leave these atoms out with data.selection"
        )
    return [str(element) for element in found]


def _elements(atoms: Any) -> list[str | None]:
    from MDAnalysis.guesser.tables import SYMB2Z

    stored = [str(e).capitalize() for e in atoms.elements] if hasattr(atoms, "elements") else [""] * len(atoms)
    known = set((atoms & atoms.universe.select_atoms("protein or nucleic")).indices.tolist())
    sizes = dict(zip(*np.unique(atoms.universe.atoms.resindices, return_counts=True), strict=True))
    return [
        element
        if element in SYMB2Z
        else element_of(
            atom.name, atom.resname, standard=atom.index in known or atom.resname in WATER, alone=sizes[atom.resindex] == 1
        )
        for atom, element in zip(atoms, stored, strict=True)
    ]


def bonds_of(atoms: Any, source: object) -> set[tuple[int, int]]:
    """Bonds between atoms of a universe as pairs of indices: those of its file, and guessed ones that connect separate pieces.

    A file with a few CONECT records, as for a ligand, has only some of the bonds: separate pieces whose atoms are as near as
    bonded ones are bonded. Guesses are logged. Raises ValueError for atoms of a larger molecule that are left without a bond.
    """
    universe = atoms.universe
    near = universe.select_atoms(f"group chosen or around {NEAR} group chosen", chosen=atoms)
    stored = {_pair(a, b) for a, b in universe.bonds.indices} if hasattr(universe, "bonds") else set()
    piece = _pieces(len(universe.atoms), stored)
    added = {(a, b) for a, b in _near_pairs(near) if piece[a] != piece[b]}
    if added and stored:
        log.warning("%s: %d bonds guessed from distances, beside %d in the file", source, len(added), len(stored))
    bonds = stored | added
    bonded = {atom for pair in bonds for atom in pair}
    loose = [a for a in atoms if a.index not in bonded and len(a.residue.atoms) > 1 and _element(a) in COVALENT]
    if bonds and loose:
        shown = few([f"{a.name} in {a.resname} {a.resid}" for a in loose], 6)
        raise ValueError(
            f"{source}: {len(loose)} atoms have no bond, by the file or by distance: {shown}; write all bonds into the topology "
            "(CONECT records), or leave these atoms out with data.selection"
        )
    return bonds


def _element(atom: Any) -> str:
    return str(atom.type).capitalize()


def _pair(a: int, b: int) -> tuple[int, int]:
    return (int(min(a, b)), int(max(a, b)))


def _near_pairs(atoms: Any) -> set[tuple[int, int]]:
    """Pairs of atoms as near as bonded ones, by VMD's rule on van der Waals radii as MDAnalysis has it."""
    from MDAnalysis.guesser.default_guesser import DefaultGuesser

    atoms.types = [element or "" for element in _elements(atoms)]
    able = atoms[[_element(atom) in COVALENT for atom in atoms]]
    if len(able) < 2:
        return set()
    found = DefaultGuesser(atoms.universe, vdwradii={"D": 1.2}).guess_bonds(able, able.positions)
    return {_pair(a, b) for a, b in found}


def _pieces(count: int, bonds: Sequence[tuple[int, int]] | set[tuple[int, int]]) -> np.ndarray:
    """A number for every atom [count], the same for atoms that bonds connect."""
    piece = np.arange(count)

    def root(k: int) -> int:
        while piece[k] != k:
            piece[k] = piece[piece[k]]
            k = int(piece[k])
        return k

    for a, b in bonds:
        piece[root(b)] = root(a)
    return np.array([root(k) for k in range(count)])
