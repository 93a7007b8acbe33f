"""Chebyshev collocation of the probability flow in log-SNR, applied to the remainder that the Gaussian reference leaves.

In coordinates whitened by the reference, y = (x - alpha mean) / sqrt(v) with v = alpha^2 lambda + sigma^2 per shell, the
reference's own flow is constant, and the probability flow is

    dy/dl = g(l) / 2,    g = sigma^2 (s / sqrt(v) + y / v),    l = log(alpha^2 / sigma^2)               (remainder)

g vanishes for Gaussian data and at both ends of the range. It is interpolated at Chebyshev points, so that one table
[points + 1, points] of integrals serves all shells. Multistep solvers of the same form: Lu et al. 2022 (DPM-Solver++).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.chebyshev import chebyshev_nodes, integrals, interpolation, left_by_last
from ..theory.grid import TimeGrid
from ..theory.process import Process
from ..theory.stretch import UNSTRETCHED, Stretch

MOST = 64  # points at most, unless more are asked for
# points of the first sweep, and of every further one: sweeps gain half a digit each, eight points a digit
UNEVEN = 8, 4
EVEN = 5, 5  # the same where the stretch suits the flow


@dataclass(frozen=True)
class Collocation:
    """The flow from forward time `horizon` to `delta`, solved at `points` nodes; the solver cuts it into pieces where needed.

    With `backward` it goes from `delta` to `horizon`, from data to the first states that the flow maps to them.

    Raises ValueError for an empty range and for fewer than four points.
    """

    process: Process
    reference: GaussianReference
    horizon: float
    delta: float
    points: int
    backward: bool = False
    stretch: Stretch = UNSTRETCHED

    channels, reads, drawn, stochastic, basis, sequential_rounds, knows_levels = 1, 1, 1, False, None, None, True
    needs_reference = False

    def __post_init__(self) -> None:
        mistakes = []
        if not 0 < self.delta < self.horizon:
            mistakes.append(f"delta = {self.delta:g} must lie between 0 and horizon = {self.horizon:g}")
        if self.points < 4:
            mistakes.append(f"points = {self.points}: collocation needs at least 4")
        if mistakes:
            raise ValueError("collocation: " + "; ".join(mistakes))

    @cached_property
    def span(self) -> tuple[float, float]:
        """The coordinate of `stretch` at the start and at the end: log-SNR, where nothing is stretched."""
        ends = torch.tensor([_log_snr(self.horizon), _log_snr(self.delta)], dtype=torch.float64)
        noisy, clean = self.stretch.coordinate(ends).tolist()
        return (clean, noisy) if self.backward else (noisy, clean)

    def reversed(self) -> Collocation:
        """Return the same flow in the other direction, with the same nodes."""
        return replace(self, backward=not self.backward)

    @cached_property
    def t(self) -> Tensor:
        """First time, nodes and last time of the whole range, [points + 2]."""
        nodes = self.piece(*self.span).t
        times = (self.delta, self.horizon) if self.backward else (self.horizon, self.delta)
        ends = self.process.time(torch.tensor(times, dtype=torch.float64))
        return torch.cat([ends[:1], nodes, ends[1:]])

    @cached_property
    def point_counts(self) -> tuple[int, ...]:
        """The numbers of points that the first sweeps over the whole range evaluate; the last one is all of them."""
        first, more = (count * math.ceil(self.points / MOST) for count in self._counts)
        return (*range(first, self.points, more), self.points)

    @property
    def more(self) -> int:
        """The number of points by which they grow from sweep to sweep."""
        return self._counts[1] * math.ceil(self.points / MOST)

    @property
    def _counts(self) -> tuple[int, int]:
        return UNEVEN if self.stretch == UNSTRETCHED else EVEN

    @property
    def num_steps(self) -> int:
        return self.points

    @property
    def edges(self) -> tuple[int, int]:
        return 0, self.points

    @property
    def grid(self) -> TimeGrid:
        """The nodes as one block, from noise to data in either direction."""
        t = self.t.flip(0) if self.backward else self.t
        return TimeGrid(torch.cat([t[:-2], t[-1:]]), self.edges)

    @property
    def ratio(self) -> Tensor:
        """Noise over signal at the first time, the nodes and the last time."""
        return self.process.sigma(self.t) / self.process.alpha(self.t)

    def entry(self) -> tuple[Tensor, Tensor]:
        """Return the signal [1] and the spread [1, 1] of the first state."""
        first = self.t[:1]
        return self.process.alpha(first), self.process.sigma(first)[:, None]

    def piece(self, low: float, high: float) -> Piece:
        """Build the nodes and tables from one coordinate to another; on the way back to noise `low` is the larger one."""
        x = chebyshev_nodes(self.points)
        u = torch.tensor(low + (high - low) * (np.append(x, 1.0) + 1) / 2)
        theta = torch.log1p(torch.exp(-self.stretch.log_snr(u)))
        t = self.process.time(theta)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        root = torch.sqrt(self.reference.variance(alpha, sigma).cpu())
        weights, doubt = (torch.from_numpy(table) * (high - low) / 4 for table in (integrals(x), left_by_last(x)))
        return Piece(low, high, t[:-1], alpha, sigma, self.stretch.rate(u), root, weights, doubt)

    def remainder(self, piece: Piece, reference: GaussianReference, x: Tensor, score: Tensor) -> Tensor:
        """Compute g at the nodes of a piece from states and scores [M, d], in whitened coordinates [M, n]."""
        root = reference.basis.expand(piece.root[:-1].to(x))
        centred = x - piece.alpha[:-1, None].to(x) * reference.mean
        whitened = reference.basis.analyse(score) / root + reference.basis.analyse(centred) / root**2
        return piece.factor[:-1, None].to(x) * whitened

    def inherit(self, low: float, high: float, part: tuple[float, float], known: int | None = None) -> Tensor:
        """Return the matrix [points, known] that interpolates from the nodes of low .. high to the nodes of a part of it."""
        inside = part[0] + (part[1] - part[0]) * (chebyshev_nodes(self.points) + 1) / 2
        return interpolation(chebyshev_nodes(known or self.points), 2 * (inside - low) / (high - low) - 1)


@dataclass(frozen=True)
class Piece:
    """The nodes and tables between coordinates low and high; in all tables the end of the piece comes last.

    Attributes:
        low: coordinate at the start.
        high: coordinate at the end.
        t: times of the nodes, [M].
        alpha: signal levels, [M + 1].
        sigma: noise levels, [M + 1].
        rate: change of log-SNR with the coordinate, [M + 1].
        root: sqrt(v) per shell, [M + 1, K].
        weights: sum the remainders at the nodes to the whitened states at nodes and end, [M + 1, M].
        doubt: the shares of the last Chebyshev coefficients in those sums, and of those before them, [2, M + 1, M].
    """

    low: float
    high: float
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    rate: Tensor
    root: Tensor
    weights: Tensor
    doubt: Tensor

    @property
    def length(self) -> float:
        """Its part of the range."""
        return self.high - self.low

    @property
    def factor(self) -> Tensor:
        """What turns whitened scores into remainders, sigma^2 dl/du: [M + 1]."""
        return self.sigma**2 * self.rate


def _log_snr(theta: float) -> float:
    return -math.log(math.expm1(theta))
