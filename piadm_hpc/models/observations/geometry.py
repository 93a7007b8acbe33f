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


@dataclass(frozen=True)
class Geometry:
    """Distances in nm, and angles at the middle one of three atoms in degrees, of positions [n, atoms, 3] in nm.

    `atoms` holds two or three indices for every value.
    """

    atoms: tuple[tuple[int, ...], ...]

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the values [n, m]; differentiable where no two of the atoms coincide."""
        return torch.stack([self._value(positions, indices) for indices in self.atoms], dim=1)

    def _value(self, positions: Tensor, indices: tuple[int, ...]) -> Tensor:
        first, middle = positions[:, indices[0]], positions[:, indices[1]]
        if len(indices) == 2:
            distance: Tensor = torch.linalg.vector_norm(first - middle, dim=-1)
            return distance
        one, other = first - middle, positions[:, indices[2]] - middle
        # by the arc tangent, whose derivative is finite for stretched angles too
        across = torch.linalg.vector_norm(torch.linalg.cross(one, other), dim=-1)
        angle: Tensor = torch.rad2deg(torch.atan2(across, (one * other).sum(-1)))
        return angle


def geometry_of(table: ObservationTable, atoms: int) -> tuple[Geometry, np.ndarray, np.ndarray]:
    """Return what the column `atoms` of a table observes of a molecule of so many atoms, and values and errors in its units.

    Raises ValueError with all mistakes: rows that do not name two or three different atoms, and units that do not convert.
    """
    found = [_indices(text) for text in table["atoms"]]
    wrong = np.array([len(one) not in UNITS or len(set(one)) < len(one) or max(one) >= atoms for one in found])
    mistakes = []
    if wrong.any():
        mistakes.append(f"atoms must be two or three different indices from 0 to {atoms - 1}: {table.of_mistake(wrong)}")
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


def _indices(text: str) -> tuple[int, ...]:
    """The indices in a text such as "1 18" or "1-5-7"; empty where it is something else."""
    parts = text.replace("-", " ").replace(";", " ").split()
    return tuple(int(part) for part in parts) if parts and all(part.isdecimal() for part in parts) else ()


def of_positions(
    geometry: Geometry, decode: Callable[[Tensor], dict[str, Tensor]], shape: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """Return the values [n, m] as a function of flat states [n, d], given the decoding of states of a `shape`."""

    def function(flat: Tensor) -> Tensor:
        positions = next(iter(decode(flat.reshape(-1, *shape)).values()))
        return geometry(positions.reshape(len(positions), -1, 3))

    return function
