"""Observations of a molecule: distances between two atoms, angles between three, and positions of atoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.observations import AXES, ObservationTable
from ...data.units import converted
from .placement import Placement

UNITS = {1: "nm", 2: "nm", 3: "degree"}
"""Units of what is observed, by the number of atoms."""


Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Geometry:
    """Distances and positions in nm, and angles at the middle one of three atoms in degrees, of positions [n, atoms, 3] in nm.

    `atoms` holds one, two or three groups of indices for every value. The distance of two groups of several atoms is that of a
    nuclear Overhauser effect between them, (mean of r^-6 over all pairs)^(-1/6); groups of positions and angles have one atom
    each. Positions are those of the conformer superposed on the observed ones, `placement`, and `axis` says which coordinate
    of its atom a value is, -1 for the others.
    """

    atoms: tuple[Groups, ...]
    axis: tuple[int, ...] = ()
    placement: Placement | None = None

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the values [n, m]; differentiable where no two of the atoms coincide."""
        placed = None if self.placement is None else self.placement(positions)
        found = []
        for row, groups in enumerate(self.atoms):
            if len(groups) == 1 and placed is not None and self.placement is not None:
                found.append(placed[:, self.placement.atoms.index(groups[0][0]), self.axis[row]])
            else:
                found.append(self._value(positions, groups))
        return torch.stack(found, dim=1)

    def _value(self, positions: Tensor, groups: Groups) -> Tensor:
        if len(groups) == 2:
            one, other = (positions[:, list(group)] for group in groups)
            distance = torch.linalg.vector_norm(one[:, :, None] - other[:, None], dim=-1).flatten(1)
            effective: Tensor = distance[:, 0] if distance.shape[1] == 1 else (distance**-6).mean(1) ** (-1 / 6)
            return effective
        first, middle, last = (positions[:, group[0]] for group in groups)
        one, other = first - middle, last - middle
        # by the arc tangent, whose derivative is finite for stretched angles too
        across = torch.linalg.vector_norm(torch.linalg.cross(one, other), dim=-1)
        angle: Tensor = torch.rad2deg(torch.atan2(across, (one * other).sum(-1)))
        return angle


def geometry_of(table: ObservationTable, atoms: int) -> tuple[Geometry, np.ndarray, np.ndarray]:
    """Return the geometry that the column `atoms` of a table observes in a molecule, and values and errors in its units.

    Raises ValueError with all mistakes: rows that do not name one, two or three different atoms, or two groups of them, units
    that do not convert, and positions that leave the molecule free to turn.
    """
    found = [_groups(text) for text in table["atoms"]]
    axis = [AXES.index(name) if name in AXES else -1 for name in table.columns.get("axis", [""] * len(table))]
    wrong = np.array([not _sound(groups, atoms) for groups in found])
    mistakes = []
    if wrong.any():
        mistakes.append(
            f"atoms must be two groups such as 1/2/3 18, or one to three different indices from 0 to {atoms - 1}: "
            f"{table.of_mistake(wrong)}"
        )
    single = np.array([len(groups) == 1 for groups in found])
    astray = ~wrong & (single != (np.array(axis) >= 0))
    if astray.any():
        mistakes.append(f"one atom has a position, x, y and z, and two or three have one value: {table.of_mistake(astray)}")
    values, std = table["value"].copy(), table["std"].copy()
    for count, units in dict.fromkeys(zip(map(len, found), table["units"], strict=True)):
        if units == "" or count not in UNITS:
            continue
        which = np.array([len(one) == count for one in found]) & (table["units"] == units)
        try:
            values[which], std[which] = (converted(part[which], units, UNITS[count]) for part in (values, std))
        except ValueError as error:
            mistakes.append(f"value {error} ({table.of_mistake(which)})")
    placement = None
    if not mistakes and single.any():
        try:
            rows = np.flatnonzero(single)
            placement = Placement.of([found[row][0][0] for row in rows], [axis[row] for row in rows], values[rows], std[rows])
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return Geometry(tuple(found), tuple(axis), placement), values, std


def _groups(text: str) -> Groups:
    """The groups of indices in a text such as "1 18", "1-5-7" or "1/2/3 18"; empty where it is something else."""
    parts = [group.split("/") for group in text.replace("-", " ").replace(";", " ").split()]
    sound = parts and all(index.isdecimal() for group in parts for index in group)
    return tuple(tuple(int(index) for index in group) for group in parts) if sound else ()


def _sound(groups: Groups, atoms: int) -> bool:
    indices = [index for group in groups for index in group]
    single = len(groups) == 2 or all(len(group) == 1 for group in groups)
    return len(groups) in UNITS and single and len(set(indices)) == len(indices) and max(indices) < atoms


def of_positions(
    geometry: Geometry, decode: Callable[[Tensor], dict[str, Tensor]], shape: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """Return the values [n, m] as a function of flat states [n, d], given the decoding of states of a `shape`."""

    def function(flat: Tensor) -> Tensor:
        positions = next(iter(decode(flat.reshape(-1, *shape)).values()))
        return geometry(positions.reshape(len(positions), -1, 3))

    return function
