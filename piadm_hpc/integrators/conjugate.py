"""Conjugate integrators in data space: lambda-DDIM, its two-step version, and Euler, in the time of a VP process.

Like all integrators they are derived in Ornstein-Uhlenbeck form and rescaled to the process of the model. Lambda multiplies a
time, so its value depends on the clock: the VP process uses its own time, and other processes that of VP with its usual
schedule.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.process import VP, Process, forward_time
from .exponential import rescaled

F64 = torch.float64


def clock_of(process: Process) -> VP:
    """Return the VP process in whose time lambda and power grids are measured."""
    return process if isinstance(process, VP) else VP()


def clock_times(process: Process, grid: TimeGrid) -> Tensor:
    """Return the grid's points [J+1] in VP time; ValueError for a grid that reaches a point without noise."""
    if float(process.sigma(grid.t[-1:])) <= 0:
        raise ValueError(f"the grid ends at t = {float(grid.t[-1]):g}, where there is no noise; end it before (delta > 0)")
    return clock_of(process).time(forward_time(process, grid.t))


def euler(process: Process, grid: TimeGrid) -> Chain:
    """Build Euler's method for the probability flow in VP time: x + (h beta / 2)(x + s)."""
    clock, u = clock_of(process), clock_times(process, grid)
    half = (u[:-1] - u[1:]) * _beta(clock, u[:-1]) / 2
    return _chain(process, grid, 1 + half, half)


def lambda_ddim(
    process: Process, grid: TimeGrid, *, lam: float | Tensor = 0.0, reference: GaussianReference | None = None
) -> Chain:
    """Build lambda-DDIM (Pandey, Rudolph and Mandt 2024): x' = c x - w eps, which is DDIM for lambda = 0.

    c = e^{lambda h + (b - b')/2} (1 - lambda h), w = int e^{lambda (u - u') + (b - b')/2} beta / (2 sigma) du over the step.
    `lam` is a number, a table [J], or a table [J, K] with one value per shell of `reference`, which is then required.
    """
    u = clock_times(process, grid)
    lam = _per_step(lam, len(u) - 1)
    c, w = _linear_factor(process, u, lam), _weight(process, u, lam, slope=False)
    sigma = _ou_sigma(process, grid.t)[:-1, None]
    return _chain(process, grid, c, w * sigma, reference if lam.shape[1] > 1 else None)


def lambda_ddim_ab2(process: Process, grid: TimeGrid, *, lam: float = 0.0) -> Chain:
    """Build two-step lambda-DDIM: Adams-Bashforth in the prediction eps, whose last value is a second channel.

    x' = c x - w eps - w_1 (eps - eps_before) / (u - u_before), where the integral of w_1 is that of w with a further factor
    u_s - u. The first step has no history. The method is of second order for lambda = 0.
    """
    u = clock_times(process, grid)
    values = _per_step(lam, len(u) - 1)
    c, w, slope = (
        a[:, 0]
        for a in (
            _linear_factor(process, u, values),
            _weight(process, u, values, slope=False),
            _weight(process, u, values, slope=True),
        )
    )
    before = torch.cat([torch.ones(1, dtype=F64), u[1:-1] - u[:-2]])
    slope = slope / before
    slope[0] = 0
    sigma = _ou_sigma(process, grid.t)[:-1]
    zero = torch.zeros_like(c)
    P = torch.stack([torch.stack([c, slope], -1), torch.stack([zero, zero], -1)], -2)
    Q = torch.stack([(w + slope) * sigma, -sigma], -1)
    r = torch.sqrt(process.alpha(grid.t) ** 2 + process.sigma(grid.t) ** 2)
    # the position is rescaled, eps is the same in every process: s_y = r s_x
    P[:, 0, 0], P[:, 0, 1] = P[:, 0, 0] * r[1:] / r[:-1], P[:, 0, 1] * r[1:]
    Q = Q * torch.stack([r[1:] * r[:-1], r[:-1]], -1)
    return Chain(P, Q, None, grid.t, process.alpha(grid.t), process.sigma(grid.t), grid.edges)


def best_lambda(process: Process, grid: TimeGrid, variance: Tensor | float) -> Tensor:
    """Compute lambda*(u) [J, K] for Gaussian data of variances [K], which makes the second-order local error smallest.

    With V = alpha^2 v + sigma^2, K = beta / (2 V) and D = v alpha^2 / sigma^2 that error is |l^2 + K l + D K^2| h^2 / 2, so
    l* = -(K/2)(1 - sqrt(max(0, 1 - 4 D))). The error vanishes where D <= 1/4 and is smallest elsewhere.
    """
    clock, u = clock_of(process), clock_times(process, grid)[:-1, None]
    v = torch.as_tensor(variance, dtype=F64).reshape(-1)
    alpha, sigma = clock.alpha(u), clock.sigma(u)
    rate = _beta(clock, u) / (2 * (alpha**2 * v + sigma**2))
    return -rate / 2 * (1 - torch.sqrt((1 - 4 * v * alpha**2 / sigma**2).clamp(min=0)))


def _per_step(lam: float | Tensor, steps: int) -> Tensor:
    """Return lambda as a table [J, 1] or [J, K]."""
    table = torch.as_tensor(lam, dtype=F64)
    return table.expand(steps)[:, None] if table.ndim < 2 else table


def _linear_factor(process: Process, u: Tensor, lam: Tensor) -> Tensor:
    theta = forward_time(clock_of(process), u)
    h = (u[:-1] - u[1:])[:, None]
    return torch.exp(lam * h + (theta[:-1] - theta[1:])[:, None] / 2) * (1 - lam * h)


def _weight(process: Process, u: Tensor, lam: Tensor, *, slope: bool, nodes: int = 24) -> Tensor:
    """Compute w [J, K], or w_1, by Gauss-Legendre in the square root of time, in which 1/sigma du is smooth down to zero."""
    clock = clock_of(process)
    points, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    high, low = torch.sqrt(u[:-1])[:, None], torch.sqrt(u[1:])[:, None]
    q = (high + low) / 2 + (high - low) / 2 * points
    where = q**2
    theta, final = forward_time(clock, where), forward_time(clock, u[1:])[:, None]
    common = (high - low) / 2 * weights * 2 * q * _beta(clock, where) / (2 * clock.sigma(where)) * torch.exp((theta - final) / 2)
    if slope:
        common = common * (where - u[:-1, None])
    carry = torch.exp(lam[:, None] * (where - u[1:, None])[..., None])
    return (common[..., None] * carry).sum(1)


def _beta(clock: VP, u: Tensor) -> Tensor:
    return clock.beta_min + u * (clock.beta_max - clock.beta_min)


def _ou_sigma(process: Process, t: Tensor) -> Tensor:
    return torch.sqrt(-torch.expm1(-forward_time(process, t)))


def _chain(process: Process, grid: TimeGrid, P: Tensor, Q: Tensor, reference: GaussianReference | None = None) -> Chain:
    P, Q, _ = rescaled(P, Q, torch.zeros_like(P), process, grid.t)
    basis = None if reference is None else reference.basis
    return Chain(P, Q, None, grid.t, process.alpha(grid.t), process.sigma(grid.t), grid.edges, basis)
