"""The two-step Gaussian-aware integrator, which extrapolates the denoiser's remainder instead of freezing it."""

from __future__ import annotations

import torch

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.process import Process, forward_time, radius
from .exponential import remainder_weight


def gaussian_ab2(process: Process, grid: TimeGrid, reference: GaussianReference) -> Chain:
    """Build the two-step integrator of the probability flow: exact on the reference, second order in the remainder dD = D - D_G.

    c_b = Phi c_a + psi dD_a + w (dD_a - dD_before) / (l_a - l_before) with l = log-SNR and w = int Phi (alpha/2)(l - l_a) dl.
    This is the exponential form of the two-step Adams-Bashforth method; for a reference without variance it is
    DPM-Solver++(2M). One call a step. The channels are (x, dD_before), and the first step has no history.
    """
    theta = forward_time(process, grid.t)
    alpha, sigma = torch.exp(-theta / 2), torch.sqrt(-torch.expm1(-theta))
    v = reference.variance(alpha, sigma)
    snr = -torch.log(torch.expm1(theta))
    before = torch.cat([torch.ones(1, dtype=torch.float64), snr[1:-1] - snr[:-2]])
    slope = remainder_weight(theta, reference, 0.5, power=1) / before[:, None]
    slope[0] = 0
    weight = remainder_weight(theta, reference, 0.5) + slope
    # dD = (sigma^2 / alpha) s + sigma^2 / (alpha v) c, and x = r y in units of the process
    tweedie, r = (sigma**2 / alpha)[:-1, None], radius(process, grid.t)[:, None]
    phi = torch.exp(0.5 * (torch.log(v[1:]) - torch.log(v[:-1])))
    P = torch.zeros(*phi.shape, 2, 2, dtype=torch.float64)
    P[..., 0, 0] = (phi + weight * tweedie / v[:-1]) * r[1:] / r[:-1]
    P[..., 0, 1] = -slope * r[1:]
    P[..., 1, 0] = tweedie / v[:-1] / r[:-1]
    Q = torch.stack([weight * tweedie * r[1:] * r[:-1], (tweedie * r[:-1]).expand_as(phi)], dim=-1)
    levels = process.alpha(grid.t), process.sigma(grid.t)
    M = torch.stack([levels[0][1:, None] - P[..., 0, 0] * levels[0][:-1, None], -P[..., 1, 0] * levels[0][:-1, None]], dim=-1)
    return Chain(P, Q[..., None], None, grid.t, *levels, grid.edges, reference.basis, reference.mean, M)
