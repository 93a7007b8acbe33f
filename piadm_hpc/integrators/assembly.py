"""Chains of phase-space integrators: affine maps are composed between network calls, and lifted to an ordinary network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian.reference import lower_root
from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.phase import PhaseSpace
from ..theory.process import Process, forward_time


@dataclass(frozen=True)
class PhaseGrid:
    """Times tau [J+1] of a phase-space process, and the points `edges` at which blocks begin and end.

    Raises ValueError for a grid that reaches tau = 0, where the covariance of the perturbation kernel has no inverse.
    """

    phase: PhaseSpace
    tau: Tensor
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        if float(self.tau[-1]) <= 0:
            raise ValueError("phase-space integrators divide by the noise: end the grid before tau = 0 (delta > 0)")

    @property
    def step(self) -> Tensor:
        """Step sizes h, [J]."""
        return self.tau[:-1] - self.tau[1:]

    def at(self, when: str) -> Tensor:
        """Return the times [J] of every step's score: `now`, `middle`, `next`, or `ahead` (tau + h, at most the first time)."""
        shift = {"now": 0.0, "middle": -0.5, "next": -1.0, "ahead": 1.0}[when]
        return (self.tau[:-1] + shift * self.step).clamp(max=float(self.tau[0]))


def phase_grid(phase: PhaseSpace, process: Process, grid: TimeGrid) -> PhaseGrid:
    """Return the phase-space times at which the effective noise over signal equals that of another process on its grid.

    Raises ValueError for a grid that ends without noise.
    """
    if float(process.sigma(grid.t[-1:])) <= 0:
        raise ValueError(f"the grid ends at t = {float(grid.t[-1]):g}, where there is no noise; end it before (delta > 0)")
    ratio = torch.sqrt(torch.expm1(forward_time(process, grid.t)))
    return PhaseGrid(phase, phase.time(ratio), grid.edges)


@dataclass(frozen=True)
class Map:
    """The maps z -> P z + Q s + noise of covariance C of all steps: P, C [J, c, c], Q [J, c, 2]."""

    P: Tensor
    Q: Tensor
    C: Tensor

    def then(self, after: Map) -> Map:
        """Return this map followed by `after`, both with the same score."""
        return Map(after.P @ self.P, after.P @ self.Q + after.Q, after.P @ self.C @ after.P.mT + after.C)


def affine_map(P: Tensor, Q: Tensor | None = None, C: Tensor | None = None) -> Map:
    """Build a map from P [J, c, c], with Q and C zero where they are not given."""
    return Map(P, torch.zeros(*P.shape[:-1], 2, dtype=P.dtype) if Q is None else Q, torch.zeros_like(P) if C is None else C)


@dataclass(frozen=True)
class Node:
    """One network call in every step: its times `tau` [J], the map that follows it, and the `rows` [2, c] that form its input."""

    tau: Tensor
    map: Map
    rows: Tensor


def native_chain(grid: PhaseGrid, nodes: Sequence[Node], before: Map | None = None) -> Chain:
    """Build the chain of a score of two fields, s(z, tau), with one network call per node and step.

    The map `before`, if any, precedes the first call of every step. It is joined to the end of the step before; for the first
    step it changes the distribution of the first state.
    """
    maps = [node.map for node in nodes]
    phase, start = grid.phase, grid.tau[0]
    channels = maps[0].P.shape[-1]
    signal, noise = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, channels, dtype=torch.float64)
    signal[:2], noise[:2, :2] = phase.signal(start), phase.covariance(start)
    if before is not None:
        ahead = Map(
            *(torch.cat([table[1:], last]) for table, last in zip(_tables(before), _identity_step(channels), strict=True))
        )
        maps[-1] = maps[-1].then(ahead)
        signal, noise = before.P[0] @ signal, before.P[0] @ noise @ before.P[0].mT + before.C[0]
    P, Q, C = (torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*map(_tables, maps), strict=True))
    tau = torch.cat([torch.stack([node.tau for node in nodes], dim=1).flatten(), grid.tau[-1:]])
    rows = torch.stack([node.rows for node in nodes]).repeat(len(grid.step), 1, 1)
    edges = tuple(len(nodes) * edge for edge in grid.edges)
    levels = phase.signal(tau), phase.factor(tau)
    return Chain(P, Q[:, None], lower_root(C), tau, *levels, edges, R=rows, signal=signal, spread=lower_root(noise))


def lift(native: Chain, phase: PhaseSpace, process: Process) -> Chain:
    """Lift a chain to an ordinary network of a process in data space; this is exact and needs no retraining.

    Let H be the precision of the perturbation kernel, e its signal and j = e^T H e. The statistic y = e^T H z / j is x_0 plus
    noise of variance 1/j, and it is sufficient: s(z) = -H (z - e D(y)). The network is called with alpha y at the time where
    sigma / alpha = j^-1/2, and D = (alpha y + sigma^2 s) / alpha.
    """
    tau = native.t
    pulled, j = phase.statistic(tau)
    t = process.time(torch.log1p(1 / j))
    alpha, sigma = process.alpha(t), process.sigma(t)
    precision = torch.linalg.inv(phase.covariance(tau))
    # s = (-H + H e (H e)^T / j) u + H e (sigma^2 / alpha) s_net, u = R z
    linear = (pulled[:, :, None] * pulled[:, None, :] / j[:, None, None] - precision)[:-1]
    gain = (pulled * (sigma**2 / alpha)[:, None])[:-1, :, None]
    P = native.P[:, 0] + native.Q[:, 0] @ linear @ native.rows
    Q = native.Q[:, 0] @ gain
    rows = ((alpha / j)[:, None] * pulled)[:-1, None, :] @ native.rows
    return Chain(
        P, Q[:, None], native.noise[:, 0], t, alpha, sigma, native.edges, R=rows, signal=native.signal, spread=native.spread
    )


def _tables(one: Map) -> tuple[Tensor, Tensor, Tensor]:
    return one.P, one.Q, one.C


def _identity_step(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tables of one identity step."""
    zeros = torch.zeros(1, channels, channels, dtype=torch.float64)
    return torch.eye(channels, dtype=torch.float64)[None], zeros[..., :2], zeros
