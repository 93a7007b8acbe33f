"""Two-dimensional mixtures with exact scores, flows and samples, and distances between samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from common import solve
from torch import Tensor

from piadm_hpc import grid, integrators
from piadm_hpc.integrators import Options, catalogue
from piadm_hpc.integrators.assembly import PhaseGrid, lift
from piadm_hpc.models.analytic import GaussianMixture
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import TimeGrid
from piadm_hpc.theory.phase import PhaseSpace
from piadm_hpc.theory.process import EDM, VP, Process, forward_time

F64 = torch.float64
LAST = 1e-3
PHASE = PhaseSpace()


@dataclass(frozen=True)
class Toy:
    """A mixture, the prior draws [samples, c, 2] that all methods share, and exact samples at the last time."""

    target: GaussianMixture
    first: Tensor
    exact: Tensor


def ring(process: Process, stretch: tuple[float, float], centre: tuple[float, float]) -> GaussianMixture:
    """Eight components on a ring, every other one nearer to its centre, narrower and half as likely; stretched and shifted."""
    angle = 2 * np.pi * np.arange(8) / 8
    means = np.stack([np.cos(angle), np.sin(angle)], 1) * 1.2
    means[::2] *= 0.6
    means = means * np.array(stretch) + np.array(centre)
    widths = np.where(np.arange(8) % 2 == 0, 0.05, 0.12)
    variances = np.repeat((widths**2)[:, None], 2, 1)
    weights = np.array([1, 2, 1, 2, 1, 2, 1, 2.0])
    return GaussianMixture(process, *(torch.from_numpy(a) for a in (means, variances, weights / weights.sum())))


def _drawn(target: GaussianMixture, count: int, generator: np.random.Generator) -> Tensor:
    which = generator.choice(8, count, p=target.weights.numpy())
    widths = np.sqrt(target.variances.numpy()[which])
    return torch.from_numpy(target.means.numpy()[which] + widths * generator.standard_normal((count, 2)))


@functools.cache
def vp_toy(count: int) -> Toy:
    """An anisotropic ring off the origin, for methods of data space on VP."""
    target = ring(VP(), (1.0, 0.45), (0.3, -0.2))
    generator = np.random.default_rng(0)
    first = torch.from_numpy(generator.standard_normal((count, 1, 2)))
    generator = np.random.default_rng(3)
    end = torch.tensor(LAST, dtype=F64)
    clean = _drawn(target, count, generator)
    noise = torch.from_numpy(generator.standard_normal((count, 2)))
    return Toy(target, first, VP().alpha(end) * clean + VP().sigma(end) * noise)


@functools.cache
def phase_toy(count: int) -> Toy:
    """The ring for methods of phase space, with a score of EDM."""
    target = ring(EDM(), (1.0, 1.0), (0.0, 0.0))
    generator = np.random.default_rng(0)
    first = [generator.standard_normal((count, 2)), math.sqrt(PHASE.mass) * generator.standard_normal((count, 2))]
    generator = np.random.default_rng(5)
    end = torch.tensor(LAST, dtype=F64)
    clean = torch.stack([_drawn(target, count, generator), _momenta(generator, count)], 1)
    noise = torch.from_numpy(generator.standard_normal((2, count, 2))).movedim(0, 1)
    flow = PHASE.mean_map(end)
    root = torch.linalg.cholesky(PHASE.stationary - flow @ PHASE.stationary @ flow.mT)
    return Toy(target, torch.from_numpy(np.stack(first, 1)), (flow @ clean + root @ noise)[:, 0])


def _momenta(generator: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(math.sqrt(PHASE.kappa * PHASE.mass) * generator.standard_normal((count, 2)))


def vp_grid(steps: int, exponent: float = 2.0) -> TimeGrid:
    """A power grid from 1 to LAST on the clock of VP."""
    ends = torch.tensor([1.0, LAST], dtype=F64)
    horizon, delta = forward_time(VP(), ends).tolist()
    return grid.power(VP(), steps, horizon=horizon, delta=delta, exponent=exponent, clock=grid.process_clock(VP()))


def phase_grid(steps: int, exponent: float = 2.0) -> PhaseGrid:
    """A power grid from 1 to LAST on the clock of phase space."""
    tau = LAST + (1 - LAST) * (1 - torch.linspace(0, 1, steps + 1, dtype=F64)) ** exponent
    return PhaseGrid(PHASE, tau, (0, steps))


def chain_of(name: str, calls: int, exponent: float = 2.0, **options: Any) -> Chain:
    """The chain of a method with a budget of calls, on its own clock; chains of phase space are lifted to a score of EDM."""
    method = catalogue.find(name)
    steps = max(1, calls // method.calls)
    if method.space == "data":
        return integrators.build(name, VP(), vp_grid(steps, exponent), options=Options(**options))
    native = integrators.native(name, phase_grid(steps, exponent), Options(**options))
    return lift(native, PHASE, EDM())


def from_noise(chain: Chain) -> Chain:
    """The same chain, started from pure noise instead of the marginal at its first point."""
    spread = torch.zeros_like(chain.P[0, 0])
    spread[: min(2, chain.channels), : min(2, chain.channels)] = torch.sqrt(PHASE.stationary)[: min(2, chain.channels)]
    return replace(chain, signal=torch.zeros(chain.channels, dtype=F64), spread=spread)


def run(toy: Toy, chain: Chain, seed: int = 9, first: Tensor | None = None) -> Tensor:
    """End positions [samples, 2] step by step, clipped at 1000 for methods that diverge."""
    state = toy.first if first is None else first
    if state.shape[1] < chain.channels:
        state = torch.cat([state, torch.zeros(len(state), chain.channels - state.shape[1], 2, dtype=F64)], 1)
    noise = None
    if chain.stochastic:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(chain.num_steps, len(state), chain.channels, 2, generator=generator, dtype=F64)
    solution = solve(chain, _safe(toy.target), (state[:, 0], state[:, 1:]), noise=noise, solver="sequential")
    return solution.x.nan_to_num(nan=1e3).clamp(-1e3, 1e3)


def _safe(target: GaussianMixture) -> Callable[[Tensor, Tensor], Tensor]:
    """The score, finite even for states that overflow."""
    return lambda x, t: target.score(x.clamp(-1e100, 1e100), t).nan_to_num(nan=0.0)


@functools.cache
def exact_flow(space: str, count: int, steps: int) -> Tensor:
    """End positions of the probability flow from the shared draws, by a second-order method with many steps."""
    toy = vp_toy(count) if space == "data" else phase_toy(count)
    return run(toy, chain_of("lambda-ddim-ab2" if space == "data" else "gddim-ab2", steps))


def rmse(a: Tensor, b: Tensor) -> float:
    return float(((a - b) ** 2).sum(-1).mean().sqrt())


def sliced_distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein-2 distance of two sets of points [n, 2], over 48 directions."""
    angle = torch.linspace(0, math.pi, 49, dtype=F64)[:-1]
    directions = torch.stack([torch.cos(angle), torch.sin(angle)])
    return float((torch.sort(a @ directions, 0).values - torch.sort(b @ directions, 0).values).square().mean().sqrt())
