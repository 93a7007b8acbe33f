"""Observed positions of atoms, such as the alpha carbons of a structure, wherever it lies and however it is turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.superpose import rotations

FEWEST = 3  # atoms that fix how a molecule is turned
STRAIGHT = 1e-3  # second singular value over the first, below which atoms lie on a line
RIDGE = 1e-9  # of the curvature of the superposition, relative to its trace


@dataclass(frozen=True)
class Placement:
    """Superposes conformers on observed positions in least squares, atoms weighed by one over the variance of their errors.

    Attributes:
        atoms: indices of the p observed atoms.
        target: their observed positions [p, 3] in nm.
        weight: weights [p] that sum to one.
    """

    atoms: tuple[int, ...]
    target: Tensor
    weight: Tensor

    @classmethod
    def of(cls, atoms: Sequence[int], axis: Sequence[int], values: np.ndarray, std: np.ndarray) -> Placement:
        """Return the placement of rows that hold a coordinate along an `axis` each; ValueError unless they fix all motions."""
        places = list(zip(atoms, axis, strict=True))
        known = tuple(dict.fromkeys(atoms))
        wrong = [str(atom) for atom in known if sorted(k for a, k in places if a == atom) != [0, 1, 2]]
        if wrong:
            raise ValueError(f"positions need x, y and z of each atom, once: atoms {', '.join(wrong)} have others")
        row = {place: k for k, place in enumerate(places)}
        order = np.array([[row[atom, k] for k in range(3)] for atom in known])
        target, precision = values[order], 1 / (std[order] ** 2).mean(1)
        size = np.linalg.svd(target - target.mean(0), compute_uv=False)
        if len(known) < FEWEST or size[1] < STRAIGHT * size[0]:
            raise ValueError(
                f"positions of {len(known)} atoms leave the molecule free to turn; give three or more that are on no line, or "
                "distances"
            )
        return cls(known, torch.from_numpy(target), torch.from_numpy(precision / precision.sum()))

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the observed atoms [n, p, 3] of positions [n, atoms, 3], superposed, with the derivative of the superposition.

        The rotation is found without derivatives. Its first change omega, which turns a small torque t, solves
        (tr(S) I - S) omega = t with S = sum_i w_i x_i c_i^T; the torque of superposed atoms is zero, its derivative is not.
        """
        weight, target = self.weight.to(positions)[:, None], self.target.to(positions)
        middle = (weight * target).sum(0)
        aim = target - middle
        here = positions[:, list(self.atoms)]
        moved = here - (weight * here).sum(1, keepdim=True)
        turned = moved @ rotations(moved.detach(), weight * aim)
        fixed = turned.detach()
        product = fixed.mT @ (weight * aim)
        product = (product + product.mT) / 2
        trace = product.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        curvature = (1 + RIDGE) * trace * torch.eye(3).to(positions) - product
        torque = torch.linalg.cross(turned, aim.expand_as(turned), dim=2) * weight
        turn = torch.linalg.solve(curvature, torque.sum(1))
        placed: Tensor = turned + torch.linalg.cross(turn[:, None].expand_as(fixed), fixed, dim=2) + middle
        return placed
