"""Chebyshev collocation of the probability flow in log-SNR, on what the Gaussian reference leaves over.

In coordinates whitened by the reference, y = (x - alpha mean) / sqrt(v) with v = alpha^2 lambda + sigma^2 per shell, the
reference's own flow stands still and the probability flow is

    dy/dl = g(l) / 2,    g = sigma^2 (s / sqrt(v) + y / v),    l = log(alpha^2 / sigma^2)               (remainder)

g vanishes for Gaussian data and at both ends of the range. It is interpolated at Chebyshev points, so that one table
[points + 1, points] of integrals serves all shells. Multistep solvers of the same form: Lu et al. 2022 (DPM-Solver++).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from .chain import Chain
from .grid import TimeGrid
from .process import Process
from .reference import GaussianReference

DROPPED = 2  # last Chebyshev coefficients whose contribution stands for the error of the interpolation


@dataclass(frozen=True)
class Collocation:
    """The flow from forward time `horizon` to `delta` in pieces of `points` nodes each; one piece unless it must be cut.

    Raises ValueError for a range that is empty or fewer than four points.
    """

    process: Process
    reference: GaussianReference
    horizon: float
    delta: float
    points: int

    channels, reads, stochastic, basis = 1, 1, False, None

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
        """Log-SNR of both ends."""
        return _log_snr(self.horizon), _log_snr(self.delta)

    @cached_property
    def t(self) -> Tensor:
        """First time, nodes and last time of the whole range, [points + 2]."""
        nodes = self.piece(*self.span).t
        ends = self.process.time(torch.tensor([self.horizon, self.delta], dtype=torch.float64))
        return torch.cat([ends[:1], nodes, ends[1:]])

    @property
    def num_steps(self) -> int:
        return self.points

    @property
    def edges(self) -> tuple[int, int]:
        return 0, self.points

    @property
    def grid(self) -> TimeGrid:
        """The nodes as one block."""
        return TimeGrid(torch.cat([self.t[:-2], self.t[-1:]]), self.edges)

    @property
    def ratio(self) -> Tensor:
        """Noise over signal at the first time, the nodes and the last time."""
        return self.process.sigma(self.t) / self.process.alpha(self.t)

    def entry(self) -> tuple[Tensor, Tensor]:
        """Signal [1] and spread [1, 1] of the first state."""
        first = self.t[:1]
        return self.process.alpha(first), self.process.sigma(first)[:, None]

    def piece(self, low: float, high: float) -> Piece:
        """The nodes and tables between two log-SNRs."""
        x = chebyshev_nodes(self.points)
        theta = torch.log1p(torch.exp(-torch.tensor(low + (high - low) * (np.append(x, 1.0) + 1) / 2)))
        t = self.process.time(theta)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        integrals = torch.from_numpy(_integrals(x)) * (high - low) / 4
        coefficients = torch.from_numpy(np.linalg.inv(chebyshev.chebvander(x, self.points - 1)))
        kept = torch.from_numpy(chebyshev.chebvander(x, self.points - 1))
        kept[:, -DROPPED:] = 0
        return Piece(
            low, high, t[:-1], alpha, sigma, torch.sqrt(self.reference.variance(alpha, sigma).cpu()), integrals,
            integrals @ (torch.eye(self.points, dtype=torch.float64) - kept @ coefficients),
        )  # fmt: skip

    def inherit(self, low: float, high: float, part: tuple[float, float]) -> Tensor:
        """From values at the nodes of low .. high to those of its polynomial at the nodes of a part, [points, points]."""
        x = chebyshev_nodes(self.points)
        inside = part[0] + (part[1] - part[0]) * (x + 1) / 2
        there = chebyshev.chebvander(2 * (inside - low) / (high - low) - 1, self.points - 1)
        return torch.from_numpy(there @ np.linalg.inv(chebyshev.chebvander(x, self.points - 1)))


Scheme = Chain | Collocation  # what a sampler solves: steps, or points of the flow


@dataclass(frozen=True)
class Piece:
    """Log-SNR low .. high: node times [M], levels alpha, sigma [M + 1] and root sqrt(v) [M + 1, K], the end last.

    `weights` [M + 1, M] sum remainders at the nodes to the whitened state at nodes and end; `doubt` [M + 1, M] is the share
    of the highest Chebyshev coefficients in that.
    """

    low: float
    high: float
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    root: Tensor
    weights: Tensor
    doubt: Tensor


def chebyshev_nodes(points: int) -> np.ndarray:
    """Zeros of the Chebyshev polynomial, increasing: no score is spent on the ends, where the remainder vanishes."""
    return -np.cos(math.pi * (np.arange(points) + 0.5) / points)


def _integrals(x: np.ndarray) -> np.ndarray:
    """Integrals of the Lagrange polynomials of nodes x from -1 to every node and to 1, [M + 1, M]."""
    lagrange = np.linalg.inv(chebyshev.chebvander(x, len(x) - 1))
    summed = chebyshev.chebint(lagrange, lbnd=-1.0)
    return np.asarray(chebyshev.chebvander(np.append(x, 1.0), len(x)) @ summed)


def _log_snr(theta: float) -> float:
    return -math.log(math.expm1(theta))
