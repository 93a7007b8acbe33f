"""Observations of a molecule: distances between two atoms, and angles between three."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.observations import ObservationTable
from ...data.units import converted

UNITS = {2: "nm", 3: "degree"}
"""Units of what is observed, by the number of atoms."""


Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Geometry:
    """Distances in nm, and angles at the middle one of three atoms in degrees, of positions [n, atoms, 3] in nm.

    `atoms` holds two or three groups of indices for every value. The distance of two groups of several atoms is that of a nuclear
    Overhauser effect between them, (mean of r^-6 over all pairs)^(-1/6); groups of angles have one atom each.
    """

    atoms: tuple[Groups, ...]

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the values [n, m]; differentiable where no two of the atoms coincide."""
        return torch.stack([self._value(positions, groups) for groups in self.atoms], dim=1)

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

    Raises ValueError with all mistakes: rows that do not name two or three different atoms, or two groups of them, and units
    that do not convert.
    """
    found = [_groups(text) for text in table["atoms"]]
    wrong = np.array([not _sound(groups, atoms) for groups in found])
    mistakes = []
    if wrong.any():
        mistakes.append(
            f"atoms must be two groups such as 1/2/3 18, or two or three different indices from 0 to {atoms - 1}: "
            f"{table.of_mistake(wrong)}"
        )
    values, std = table["value"].copy(), table["std"].copy()
    for count, units in dict.fromkeys(zip(map(len, found), table["units"], strict=True)):
        if units == "" or count not in UNITS:
            continue
        which = np.array([len(one) == count for one in found]) & (table["units"] == units)
        try:
            values[which], std[which] = (converted(part[which], units, UNITS[count]) for part in (values, std))
        except ValueError as error:
            mistakes.append(f"value {error} ({table.of_mistake(which)})")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return Geometry(tuple(found)), values, std


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
