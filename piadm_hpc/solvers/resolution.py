"""How many nodes a collocation takes, and where: from the measured variation of the remainder along flows of the model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from ..gaussian.reference import Smoothness
from ..theory.chebyshev import chebyshev_nodes, integrals, left_by_last
from ..theory.stretch import UNSTRETCHED, Stretch
from .collocation import MOST, Collocation

EDGE = 1 / 12  # share of the tolerance allowed for the part of the range that the Gaussian solves alone
SHARE = 1 / 4  # share of the tolerance allowed for the interpolation at the chosen points
FEWEST = 5  # points at least
# stretches that are tried, in lengths of the range: places of the centre, and widths
CENTRES = tuple(np.linspace(0.3, 0.7, 17).tolist())
WIDTHS = (0.22, 0.235, 0.25, 0.27, 0.3, 0.34, 0.4)
FARTHEST = 2.3  # widths from the centre to an end: farther out single nodes have such weights that growth is overestimated


def choose(smoothness: Smoothness, tol: float, low: float, high: float) -> tuple[float, int]:
    """Choose the log-SNR to begin at and the number of points, for an error of `tol` between log-SNRs low and high.

    Before the beginning, the remainders add up to less than EDGE * tol; the interpolation error at the points, placed by the
    stretch that suits them best, is less than SHARE * tol. Both are root mean squares over the samples on which the smoothness
    was measured.
    """
    known = _Known(smoothness)
    places = torch.linspace(low, high, 512, dtype=torch.float64)
    from_start = known.summed(places) - known.summed(places[:1])
    small = np.logical_and.accumulate(known.size(from_start) <= EDGE * tol)
    first = int(small[:-1].sum()) - 1
    begin = float(places[first])
    tried = _stretches(smoothness, begin, high)
    for points in range(FEWEST, MOST + 1):
        if _missed(known, tried, begin, high, points).min() <= SHARE * tol:
            break
    return begin, points


def stretched(scheme: Collocation, smoothness: Smoothness | None) -> Collocation:
    """Place the nodes of a flow by the stretch that leaves the smallest interpolation error; without a smoothness as they are."""
    if smoothness is None:
        return scheme
    (low, high), known = replace(scheme, stretch=UNSTRETCHED).span, _Known(smoothness)
    tried = _stretches(smoothness, low, high)
    return replace(scheme, stretch=tried[int(_missed(known, tried, low, high, scheme.points).argmin())])


def _stretches(smoothness: Smoothness, low: float, high: float) -> list[Stretch]:
    """The stretches that are tried between two log-SNRs: none first, which wins where others are no better."""
    if smoothness.whitened:
        return [UNSTRETCHED]
    length = high - low
    pairs = [(c, w) for c, w in itertools.product(CENTRES, WIDTHS) if max(c, 1 - c) <= FARTHEST * w]
    return [UNSTRETCHED, *(Stretch(low + length * c, length * w) for c, w in pairs)]


class _Known:
    """The measured remainders as polynomials of log-SNR, in the order of the nodes at which they were measured."""

    def __init__(self, smoothness: Smoothness):
        count = len(smoothness.gram)
        self.low, self.half = smoothness.low, (smoothness.high - smoothness.low) / 2
        self.lagrange = np.linalg.inv(chebyshev.chebvander(chebyshev_nodes(count), count - 1))
        self.integral = chebyshev.chebint(self.lagrange, lbnd=-1.0) * self.half / 2
        values, vectors = np.linalg.eigh(smoothness.gram.numpy())
        self.root = vectors * np.sqrt(np.maximum(values, 0))

    def at(self, snr: Tensor) -> np.ndarray:
        """Return the weights [n, N] that interpolate the remainders at log-SNRs [n]."""
        return np.asarray(chebyshev.chebvander(self._place(snr), len(self.lagrange) - 1) @ self.lagrange)

    def summed(self, snr: Tensor) -> np.ndarray:
        """Return the weights [n, N] that integrate g / 2 up to log-SNRs [n]."""
        return np.asarray(chebyshev.chebvander(self._place(snr), len(self.lagrange)) @ self.integral)

    def size(self, rows: np.ndarray) -> np.ndarray:
        """Return the root mean square [n] of sums of remainders with the weights `rows` [n, N]."""
        return np.asarray(np.linalg.norm(rows @ self.root, axis=-1))

    def _place(self, snr: Tensor) -> np.ndarray:
        return np.clip((snr.numpy() - self.low) / self.half - 1, -1, 1)


def _missed(known: _Known, stretches: Sequence[Stretch], low: float, high: float, points: int) -> np.ndarray:
    """The interpolation errors of stretches with so many points: what the last coefficients show, and the true one at the end."""
    x, ends = chebyshev_nodes(points), torch.tensor([low, high], dtype=torch.float64)
    places = torch.from_numpy(x + 1) / 2
    spans = torch.stack([one.coordinate(ends) for one in stretches])
    lengths = spans[:, 1] - spans[:, 0]
    nodes = spans[:, :1] + lengths[:, None] * places
    snr = torch.stack([one.log_snr(u) for one, u in zip(stretches, nodes, strict=True)])
    rate = torch.stack([one.rate(u) for one, u in zip(stretches, nodes, strict=True)])
    at_nodes = known.at(snr.flatten()).reshape(*snr.shape, -1) * (rate * lengths[:, None] / 4).numpy()[..., None]
    whole = known.summed(ends[1:]) - known.summed(ends[:1])
    shown = known.size(left_by_last(x)[0] @ at_nodes).max(1)
    return np.asarray(np.maximum(shown, known.size(integrals(x)[-1:] @ at_nodes - whole)[:, 0]))
