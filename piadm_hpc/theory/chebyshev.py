"""Polynomials through values at Chebyshev points: interpolation, integrals, and what the last coefficients add to them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

DROPPED = 2  # number of last Chebyshev coefficients whose contribution estimates the error of the interpolation


def chebyshev_nodes(points: int) -> np.ndarray:
    """Return the zeros of the Chebyshev polynomial in increasing order; they leave out the ends, where the remainder vanishes."""
    return -np.cos(math.pi * (np.arange(points) + 0.5) / points)


def highest_coefficients(points: int) -> Tensor:
    """Return the matrix [DROPPED, points] that gives the last Chebyshev coefficients of values at the nodes."""
    x = chebyshev_nodes(points)
    return torch.from_numpy(np.linalg.inv(chebyshev.chebvander(x, points - 1))[-DROPPED:].copy())


def interpolation(known: np.ndarray, wanted: np.ndarray) -> Tensor:
    """Return the matrix [wanted, known] of the polynomial through values at `known` places, at `wanted` places."""
    degree = len(known) - 1
    return torch.from_numpy(chebyshev.chebvander(wanted, degree) @ np.linalg.inv(chebyshev.chebvander(known, degree)))


def integrals(x: np.ndarray) -> np.ndarray:
    """Integrate the Lagrange polynomials of nodes x from -1 to every node and to 1, [M + 1, M]."""
    lagrange = np.linalg.inv(chebyshev.chebvander(x, len(x) - 1))
    summed = chebyshev.chebint(lagrange, lbnd=-1.0)
    return np.asarray(chebyshev.chebvander(np.append(x, 1.0), len(x)) @ summed)


def left_by_last(x: np.ndarray) -> np.ndarray:
    """Compute the share of the last Chebyshev coefficients in those integrals, [M + 1, M]."""
    vandermonde = chebyshev.chebvander(x, len(x) - 1)
    kept = vandermonde.copy()
    kept[:, -DROPPED:] = 0
    return np.asarray(integrals(x) @ (np.eye(len(x)) - kept @ np.linalg.inv(vandermonde)))
