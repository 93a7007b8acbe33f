"""The samplers in common use, each as a chain: DDIM, ancestral DDPM, DPM-Solver++(2M) and EDM's Heun."""

from __future__ import annotations

import torch

from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.process import Process


def ddim(process: Process, grid: TimeGrid, *, eta: float = 0.0) -> Chain:
    """Build DDIM for any eta: x_b = alpha_b D + sqrt(sigma_b^2 - c^2) eps + c xi (Song et al. 2021, eq. 12).

    c is eta times the standard deviation of the forward process's posterior; eta = 0 is deterministic, and eta = 1 is DDPM.
    """
    a, s = process.alpha(grid.t), process.sigma(grid.t)
    noise = eta * _posterior_deviation(process, grid)
    direction = torch.sqrt((s[1:] ** 2 - noise**2).clamp(min=0))
    P = a[1:] / a[:-1]
    Q = P * s[:-1] ** 2 - direction * s[:-1]
    return Chain(P, Q, noise, grid.t, a, s, grid.edges)


def ddpm(process: Process, grid: TimeGrid, *, large_variance: bool = False) -> Chain:
    """Build ancestral DDPM, with the posterior's variance or the larger beta (Ho et al. 2020, section 3.2)."""
    chain = ddim(process, grid, eta=1.0)
    if not large_variance:
        return chain
    forward = torch.sqrt(_transition_variance(process, grid))
    return Chain(chain.P, chain.Q, forward, grid.t, chain.alpha, chain.sigma, grid.edges)


def dpmpp_2m(process: Process, grid: TimeGrid) -> Chain:
    """Build DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); the previous denoised estimate is a second channel."""
    a, s = process.alpha(grid.t), process.sigma(grid.t)
    half_snr = torch.log(a / s)
    step = half_snr[1:] - half_snr[:-1]
    # w = h_j / (2 h_{j-1}); the first step has no history and is of first order
    history = torch.cat([torch.zeros(1, dtype=torch.float64), step[1:] / (2 * step[:-1])])
    gain = -a[1:] * torch.expm1(-step)
    P = torch.zeros(len(step), 2, 2, dtype=torch.float64)
    P[:, 0, 0] = s[1:] / s[:-1] + gain * (1 + history) / a[:-1]
    P[:, 0, 1] = -gain * history
    P[:, 1, 0] = 1 / a[:-1]
    tweedie = s[:-1] ** 2 / a[:-1]
    Q = torch.stack([gain * (1 + history) * tweedie, tweedie], dim=-1)
    return Chain(P, Q, None, grid.t, a, s, grid.edges)


def one_step(process: Process, t: float) -> Chain:
    """Build the chain of a generator distilled into one call, whose output G(x, t) is the sample itself: x_1 = G(x_0, t).

    It suits a Sampler whose score is such a network (Diff-Instruct, consistency models); `t` is the time of its input noise.
    """
    times = torch.tensor([t, t], dtype=torch.float64)
    table = torch.ones(1, dtype=torch.float64)
    return Chain(0 * table, table, None, times, process.alpha(times), process.sigma(times))


def heun(process: Process, grid: TimeGrid) -> Chain:
    """Build EDM's deterministic sampler: Heun's method in rho = sigma / alpha, two calls a step (Karras et al. 2022, alg. 1).

    With y = x / alpha, dy/drho = -sigma s. The second channel is y plus half the step along the first slope; the second call,
    at the end of the Euler step, completes the trapezoidal rule.
    """
    a, s = process.alpha(grid.t), process.sigma(grid.t)
    rho = s / a
    step, ratio = rho[1:] - rho[:-1], a[1:] / a[:-1]
    steps, zero, one = grid.num_steps, torch.zeros_like(ratio), torch.ones_like(ratio)
    P = torch.stack([torch.stack([ratio, zero, ratio, zero], -1), torch.stack([zero, one, zero, zero], -1)], 1)
    euler = -a[1:] * step
    Q = torch.stack([torch.stack([euler * s[:-1], euler * s[:-1] / 2], -1), torch.stack([euler * s[1:] / 2, zero], -1)], 1)
    # the first call at the step's start, the second at its end
    t = torch.cat([torch.stack([grid.t[:-1], grid.t[1:]], dim=1).flatten(), grid.t[-1:]])
    edges = tuple(2 * edge for edge in grid.edges)
    return Chain(P.reshape(2 * steps, 2, 2), Q.reshape(2 * steps, 2), None, t, process.alpha(t), process.sigma(t), edges)


def _transition_variance(process: Process, grid: TimeGrid) -> torch.Tensor:
    """Variance of the forward transition x_a | x_b for every step a -> b of the reverse chain, [J]."""
    a, s = process.alpha(grid.t), process.sigma(grid.t)
    return (s[:-1] ** 2 - (a[:-1] / a[1:]) ** 2 * s[1:] ** 2).clamp(min=0)


def _posterior_deviation(process: Process, grid: TimeGrid) -> torch.Tensor:
    """Standard deviation of x_b given x_a and x_0 for every step, [J]."""
    s = process.sigma(grid.t)
    return torch.sqrt(_transition_variance(process, grid)) * s[1:] / s[:-1]
