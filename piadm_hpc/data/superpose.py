"""Centring and superposition of conformers, and the linear subspace in which superposed conformers lie.

Superposed on a centre c (Kabsch 1976, equal weights), a conformer x satisfies sum_i c_i x x_i = 0: three linear conditions beside
the three of the centre of mass. A projection enforces all six exactly, in noise, chain and prior alike.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def centred(positions: np.ndarray) -> np.ndarray:
    """Shift positions [..., atoms, 3] so that their mean is zero."""
    moved: np.ndarray = positions - positions.mean(-2, keepdims=True)
    return moved


def superposed(positions: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Centre positions [n, atoms, 3] and rotate each conformer, without reflection, onto `centre` [atoms, 3] in least squares."""
    moved = centred(positions.astype(np.float64))
    return np.asarray(moved @ rotations(torch.from_numpy(moved), torch.from_numpy(centred(centre.astype(np.float64)))).numpy())


def rotations(positions: Tensor, aim: Tensor) -> Tensor:
    """Rotations [n, 3, 3] of centred positions [n, atoms, 3] onto `aim` [atoms, 3], times weights of the atoms if these differ.

    Tensors, because observed positions are superposed between derivatives of torch, and on the device of the network.
    """
    u, _, vt = torch.linalg.svd(positions.mT @ aim)
    sign = torch.sign(torch.linalg.det(u @ vt))
    u = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], dim=-1)
    rotation: Tensor = u @ vt
    return rotation


def mean_structure(positions: np.ndarray, *, most: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """The mean structure [atoms, 3] in its principal axes, and all conformers [n, atoms, 3] superposed on it.

    The structure is the mean of the conformers superposed on it: a fixed point, iterated from the first conformer until it
    moves by less than 1e-9 of its size.
    """
    centre = centred(positions[0].astype(np.float64))
    for _ in range(most):
        turned = superposed(positions, centre)
        last, centre = centre, turned.mean(0)
        if np.abs(centre - last).max() < 1e-9 * np.abs(centre).max():
            break
    axes = np.linalg.svd(centre)[2]
    axes[2] *= np.sign(np.linalg.det(axes))
    centre = centre @ axes.T
    return centre, superposed(positions, centre)


def rigid_motions(centre: np.ndarray, *, turns: bool) -> np.ndarray:
    """Orthonormal rigid motions [3 atoms, 3 or 6] at `centre`: translations, and with `turns` infinitesimal rotations."""
    atoms = len(centre)
    shifts = [np.tile(axis, (atoms, 1)) for axis in np.eye(3)]
    rotations = [np.cross(axis, centred(centre)) for axis in np.eye(3)] if turns else []
    directions = np.stack([motion.reshape(-1) for motion in shifts + rotations], axis=1)
    return np.asarray(np.linalg.svd(directions, full_matrices=False)[0])
