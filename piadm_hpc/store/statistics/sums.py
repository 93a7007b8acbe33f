"""Sums in doubled precision: two float64 for a number, so that the order of the terms does not affect the result.

A total is an array [2, ...], the rounded sum and its rounding error. Every addition is exact except for the last of about 106
bits (Knuth, The Art of Computer Programming 2, 4.2.2; Dekker 1971, A floating-point technique for extending the available
precision).
"""

from __future__ import annotations

import numpy as np

SPLIT = float(2**27 + 1)  # halves the 53 bits of a float64, so that products of halves are exact


def zero(shape: tuple[int, ...]) -> np.ndarray:
    """A total of nothing, [2, *shape] float64."""
    return np.zeros((2, *shape))


def add(total: np.ndarray, values: np.ndarray) -> None:
    """Add float64 `values` [*shape] to a `total` [2, *shape] in place."""
    high, low = _two_sum(total[0], values)
    total[0], total[1] = _two_sum(high, low + total[1])


def merged(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of two totals [2, *shape], the same whichever comes first."""
    high, low = _two_sum(a[0], b[0])
    return np.stack(_two_sum(high, low + (a[1] + b[1])))


def variance(total: np.ndarray, squares: np.ndarray, count: int) -> np.ndarray:
    """The mean squared deviation of `count` numbers from their mean, by the totals of the numbers and of their squares."""
    high, low = _two_product(total[0], total[0])
    low = low + 2 * total[0] * total[1]
    mean = high / count
    back, rest = _two_product(mean, np.full_like(mean, count))
    minus = np.stack([-mean, -((high - back) - rest + low) / count])
    return np.asarray(np.maximum(merged(squares, minus).sum(0), 0.0) / count)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A rounded sum and its rounding error, which add up to a + b exactly."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A rounded product and its rounding error."""
    product = a * b
    (a1, a0), (b1, b0) = _halves(a), _halves(b)
    return product, a0 * b0 - (((product - a1 * b1) - a0 * b1) - a1 * b0)


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = SPLIT * a
    high = scaled - (scaled - a)
    return high, a - high
