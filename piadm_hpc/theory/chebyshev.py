"""Polynomials through values at Chebyshev points: interpolation, integrals, and the contributions of the last coefficients."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

DROPPED = 2  # number of last Chebyshev coefficients whose contribution estimates the error of the interpolation
STEEPEST = 0.95  # largest ratio of successive contributions for which the rest of the series is summed


def chebyshev_nodes(points: int) -> np.ndarray:
    """Return the zeros of the Chebyshev polynomial in increasing order; they leave out the ends, where the remainder vanishes."""
    return -np.cos(math.pi * (np.arange(points) + 0.5) / points)


def highest_coefficients(points: int) -> Tensor:
    """Return the matrix [DROPPED, points] that gives the last Chebyshev coefficients of values at the nodes."""
    x = chebyshev_nodes(points)
    return torch.from_numpy(np.linalg.inv(chebyshev.chebvander(x, points - 1))[-DROPPED:].copy())


def interpolation(known: np.ndarray, wanted: np.ndarray) -> Tensor:
    """Return the matrix [wanted, known] that evaluates at `wanted` points the polynomial through values at `known` points."""
    degree = len(known) - 1
    return torch.from_numpy(chebyshev.chebvander(wanted, degree) @ np.linalg.inv(chebyshev.chebvander(known, degree)))


def integrals(x: np.ndarray) -> np.ndarray:
    """Integrate the Lagrange polynomials of nodes x from -1 to every node and to 1, [M + 1, M]."""
    lagrange = np.linalg.inv(chebyshev.chebvander(x, len(x) - 1))
    summed = chebyshev.chebint(lagrange, lbnd=-1.0)
    return np.asarray(chebyshev.chebvander(np.append(x, 1.0), len(x)) @ summed)


def left_by_last(x: np.ndarray) -> np.ndarray:
    """Compute the shares of the last DROPPED Chebyshev coefficients in those integrals, and of the DROPPED before them.

    Returns [2, M + 1, M].
    """
    vandermonde = chebyshev.chebvander(x, len(x) - 1)
    coefficients, summed = np.linalg.inv(vandermonde), integrals(x) @ vandermonde
    pairs = (slice(-DROPPED, None), slice(-2 * DROPPED, -DROPPED))
    return np.stack([summed[:, pair] @ coefficients[pair] for pair in pairs])


def rest_of_series(last: float, before: float) -> float:
    """Estimate the error of the polynomial, from the contributions of its last coefficients and of those before them.

    Coefficients of a smooth function decay fast, and the last ones exceed the sum of those that follow. Where they decay slowly,
    at a kink or a jump, the rest is summed as a geometric series.
    """
    ratio = min(last / before, STEEPEST) if before > 0 else 0.0
    return last * max(1.0, ratio / (1 - ratio))
