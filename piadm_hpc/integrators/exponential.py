"""Exponential integrators: PIADM's freezes the score over a step, the Gaussian-aware one only the denoiser's remainder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.process import Process, forward_time, radius


def rescaled(P: Tensor, Q: Tensor, N: Tensor, process: Process, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rescale tables [J, ...] from Ornstein-Uhlenbeck form y = x / r to the states x of a process (s_y = r s_x)."""
    r = radius(process, t).reshape(-1, *([1] * (P.ndim - 1)))
    return r[1:] / r[:-1] * P, r[1:] * r[:-1] * Q, r[1:] * N


def piadm(process: Process, grid: TimeGrid, *, eta: float = 1.0) -> Chain:
    """Build PIADM's exponential integrator, which freezes the score over a step and is exact otherwise.

    `eta` is the interpolation parameter upsilon: 1 is the reverse SDE and 0 the probability-flow ODE (Chen et al. 2024,
    eqs. 3.2 and 3.7). With step e: y' = e^{e/2} y + 2 kappa (e^{e/2} - 1) s + upsilon sqrt(e^e - 1) xi.
    """
    theta = forward_time(process, grid.t)
    step, kappa = theta[:-1] - theta[1:], (1 + eta**2) / 2
    P = torch.exp(step / 2)
    Q = 2 * kappa * torch.expm1(step / 2)
    N = eta * torch.sqrt(torch.expm1(step))
    P, Q, N = rescaled(P, Q, N, process, grid.t)
    return Chain(P, Q, N, grid.t, process.alpha(grid.t), process.sigma(grid.t), grid.edges)


def euler_maruyama(process: Process, grid: TimeGrid, *, eta: float = 1.0) -> Chain:
    """Build Euler-Maruyama for the reverse SDE in Ornstein-Uhlenbeck form: y + step (y/2 + kappa s) + upsilon sqrt(step) xi."""
    theta = forward_time(process, grid.t)
    step, kappa = theta[:-1] - theta[1:], (1 + eta**2) / 2
    P, Q, N = rescaled(1 + step / 2, kappa * step, eta * torch.sqrt(step), process, grid.t)
    return Chain(P, Q, N, grid.t, process.alpha(grid.t), process.sigma(grid.t), grid.edges)


def gaussian_exponential(process: Process, grid: TimeGrid, reference: GaussianReference, *, eta: float = 1.0) -> Chain:
    """Build the Gaussian-aware exponential integrator: exact on the reference, it freezes the denoiser's remainder over a step.

    Per shell and about the reference's mean m, c_b = Phi c_a + psi dD + sqrt(var) xi with dD = D - D_G,
    Phi = e^{(1/2-kappa) step} (v_b/v_a)^kappa, var = v_b (1 - (e^{-step} v_b/v_a)^{upsilon^2}),
    psi = kappa int Phi(b, theta) alpha/sigma^2 dtheta. The chain uses dD = (sigma^2/alpha) s + sigma^2/(alpha v) c.
    """
    theta = forward_time(process, grid.t)
    phi, deviation, v = gaussian_flow(theta, reference, eta)
    tweedie = torch.expm1(theta[:-1, None]) * torch.exp(-theta[:-1, None] / 2)
    gain = remainder_weight(theta, reference, (1 + eta**2) / 2) * tweedie
    P, Q, N = rescaled(phi + gain / v[:-1], gain, deviation, process, grid.t)
    levels = process.alpha(grid.t), process.sigma(grid.t)
    M = levels[0][1:, None] - P * levels[0][:-1, None]
    return Chain(P, Q, N, grid.t, *levels, grid.edges, reference.basis, reference.mean, M)


def gaussian_flow(theta: Tensor, reference: GaussianReference, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the exact steps on the reference in Ornstein-Uhlenbeck form, c_b = Phi c_a + sqrt(var) xi, at times theta [J+1].

    They are Phi and sqrt(var) [J, K], with the variances v [J+1, K] of the reference's marginals.
    """
    v = reference.variance(torch.exp(-theta / 2), torch.sqrt(-torch.expm1(-theta)))
    step, kappa, ratio = (theta[:-1] - theta[1:])[:, None], (1 + eta**2) / 2, v[1:] / v[:-1]
    variance = -v[1:] * torch.expm1(eta**2 * (torch.log(ratio) - step))
    return torch.exp((0.5 - kappa) * step) * ratio**kappa, torch.sqrt(variance.clamp(min=0)), v


def remainder_weight(theta: Tensor, reference: GaussianReference, kappa: float, power: int = 0, nodes: int = 48) -> Tensor:
    """Compute psi [J, K] for a remainder that grows from the start of the step like (l - l_a)^power.

    It uses Gauss-Legendre quadrature in log-SNR l, in which the integrand is analytic in a strip of width pi.
    """
    snr = -torch.log(torch.expm1(theta))
    points, weights = np.polynomial.legendre.leggauss(nodes)
    middle, half = (snr[1:] + snr[:-1]) / 2, (snr[1:] - snr[:-1]) / 2
    final = theta[1:]
    v_final = reference.variance(torch.exp(-final / 2), torch.sqrt(-torch.expm1(-final)))
    total = torch.zeros_like(v_final)
    for point, weight in zip(points, weights, strict=True):
        here = torch.log1p(torch.exp(-(middle + half * point)))
        alpha, sigma = torch.exp(-here / 2), torch.sqrt(-torch.expm1(-here))
        v = reference.variance(alpha, sigma)
        carry = torch.exp((0.5 - kappa) * (here - final))[:, None] * (v_final / v) ** kappa
        # dtheta = sigma^2 dl turns alpha/sigma^2 dtheta into alpha dl
        grown = (half * (1 + point)) ** power
        total += weight * (half * grown)[:, None] * carry * alpha[:, None]
    return kappa * total
