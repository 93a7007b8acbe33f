"""The volume of the rotated copies of a conformer that superposition identifies: the weight of a density of superposed frames."""

from __future__ import annotations

import numpy as np

from .superpose import centred


def log_turns(positions: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return log det(tr(S) I - S) [n], S = sym(sum_i x_i c_i^T), of conformers [n, atoms, 3] superposed on `centre` [atoms, 3].

    A density of all conformers in all orientations is a density of superposed frames times this volume, up to a constant:
    the Jacobian of the coordinates (frame, rotation) at a frame, in which sum_i c_i x x_i = 0. A frame whose matrix is not
    positive definite is not a least-squares superposition but another stationary point, and has -inf.
    """
    sizes = np.linalg.eigvalsh(_inertia(positions, centre))
    positive = (sizes > 0).all(1)
    return np.where(positive, np.log(np.where(sizes > 0, sizes, 1.0)).sum(1), -np.inf)


def log_turns_gradient(positions: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the gradient [n, atoms, 3] of `log_turns` in the positions, (tr(P) I - P) c_i with P = (tr(S) I - S)^-1."""
    inverse = np.linalg.inv(_inertia(positions, centre))
    turned = np.trace(inverse, axis1=1, axis2=2)[:, None, None] * np.eye(3) - inverse
    return np.asarray(np.einsum("nab,ib->nia", turned, centred(centre)))


def _inertia(positions: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return tr(S) I - S, [n, 3, 3]."""
    product = np.einsum("nia,ib->nab", centred(positions.astype(np.float64)), centred(centre))
    symmetric = (product + product.swapaxes(1, 2)) / 2
    return np.asarray(np.trace(symmetric, axis1=1, axis2=2)[:, None, None] * np.eye(3) - symmetric)
