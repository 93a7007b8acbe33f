"""From steps in phase space to chains: composing affine maps, one network call a node, and lifting to an ordinary network."""

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
    """Times tau [J+1] of a phase-space process, and the steps at which blocks begin and end.

    Raises ValueError for a grid that reaches tau = 0, where the perturbation kernel has no inverse.
    """

    phase: PhaseSpace
    tau: Tensor
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        if float(self.tau[-1]) <= 0:
            raise ValueError("phase-space integrators divide by the noise: end the grid before tau = 0 (delta > 0)")

    @property
    def step(self) -> Tensor:
        """h [J]."""
        return self.tau[:-1] - self.tau[1:]

    def at(self, when: str) -> Tensor:
        """Times [J] for the score of every step: `now`, `middle`, `next`, or `ahead` (tau + h, never beyond the start)."""
        shift = {"now": 0.0, "middle": -0.5, "next": -1.0, "ahead": 1.0}[when]
        return (self.tau[:-1] + shift * self.step).clamp(max=float(self.tau[0]))


def phase_grid(phase: PhaseSpace, process: Process, grid: TimeGrid) -> PhaseGrid:
    """The times of a phase-space process at which its effective noise over signal is that of a grid of another process."""
    if float(process.sigma(grid.t[-1:])) <= 0:
        raise ValueError(f"the grid ends at t = {float(grid.t[-1]):g}, where there is no noise; end it before (delta > 0)")
    ratio = torch.sqrt(torch.expm1(forward_time(process, grid.t)))
    return PhaseGrid(phase, phase.time(ratio), grid.edges)


@dataclass(frozen=True)
class Map:
    """z -> P z + Q s + noise of covariance C, for every step: P, C [J, c, c], Q [J, c, 2]."""

    P: Tensor
    Q: Tensor
    C: Tensor

    def then(self, after: Map) -> Map:
        """First this map, then `after`, both with the same score."""
        return Map(after.P @ self.P, after.P @ self.Q + after.Q, after.P @ self.C @ after.P.mT + after.C)


def affine_map(P: Tensor, Q: Tensor | None = None, C: Tensor | None = None) -> Map:
    """A map from the parts it has."""
    return Map(P, torch.zeros(*P.shape[:-1], 2, dtype=P.dtype) if Q is None else Q, torch.zeros_like(P) if C is None else C)


@dataclass(frozen=True)
class Node:
    """One network call in every step: when it is made [J], the map that follows it, and what it reads [2, c]."""

    tau: Tensor
    map: Map
    rows: Tensor


def native_chain(grid: PhaseGrid, nodes: Sequence[Node], before: Map | None = None) -> Chain:
    """The chain of a two-field score s(z, tau): `nodes` calls a step, and a map that precedes the first call of a step.

    The latter joins the end of the step before; that of the first step changes the distribution of the first state.
    """
    maps = [node.map for node in nodes]
    phase, start = grid.phase, grid.tau[0]
    channels = maps[0].P.shape[-1]
    signal, noise = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, channels, dtype=torch.float64)
    signal[:2], noise[:2, :2] = phase.signal(start), phase.covariance(start)
    if before is not None:
        ahead = Map(*(torch.cat([table[1:], last]) for table, last in zip(_tables(before), _nothing(channels), strict=True)))
        maps[-1] = maps[-1].then(ahead)
        signal, noise = before.P[0] @ signal, before.P[0] @ noise @ before.P[0].mT + before.C[0]
    P, Q, C = (torch.stack(tables, dim=1).flatten(0, 1) for tables in zip(*map(_tables, maps), strict=True))
    tau = torch.cat([torch.stack([node.tau for node in nodes], dim=1).flatten(), grid.tau[-1:]])
    rows = torch.stack([node.rows for node in nodes]).repeat(len(grid.step), 1, 1)
    edges = tuple(len(nodes) * edge for edge in grid.edges)
    levels = phase.signal(tau), phase.factor(tau)
    return Chain(P, Q[:, None], lower_root(C), tau, *levels, edges, R=rows, signal=signal, spread=lower_root(noise))


def lift(native: Chain, phase: PhaseSpace, process: Process) -> Chain:
    """The chain for an ordinary network of a process in data space, exact and without retraining.

    With H the precision of the perturbation kernel and e its signal, j = e^T H e, the statistic y = e^T H z / j is x_0 plus
    noise of variance 1/j and sufficient: s(z) = -H (z - e D(y)). The network sees alpha y at the time with
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


def _nothing(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the identity."""
    zeros = torch.zeros(1, channels, channels, dtype=torch.float64)
    return torch.eye(channels, dtype=torch.float64)[None], zeros[..., :2], zeros
