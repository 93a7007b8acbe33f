"""The two-step Gaussian-aware integrator, which extrapolates the denoiser's remainder instead of freezing it."""

from __future__ import annotations

import torch

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from ..theory.grid import TimeGrid
from ..theory.process import Process, forward_time, radius
from .exponential import gaussian_flow, remainder_weight


def gaussian_ab2(process: Process, grid: TimeGrid, reference: GaussianReference, *, eta: float = 0.0) -> Chain:
    """Build the two-step integrator that is exact on the reference and of second order in the remainder dD = D - D_G.

    c_b = Phi c_a + psi dD_a + w (dD_a - dD_before) + sqrt(var) xi, with Phi, psi and var as in `gaussian_exponential` and
    w = kappa int Phi (alpha / sigma^2) (l - l_a) dtheta / (l_a - l_before), where l is log-SNR. This is the exponential form of
    the two-step Adams-Bashforth method, with the noise of the one-step form; `eta` is 0 for the probability flow and 1 for the
    reverse SDE. For a reference without variance it is DPM-Solver++(2M) and its stochastic version (Lu et al. 2022). One call a
    step. The channels are (x, w dD_before), the history in units of what it adds to x; the first step has none.
    """
    theta, snr = forward_time(process, grid.t), -torch.log(torch.expm1(forward_time(process, grid.t)))
    kappa = (1 + eta**2) / 2
    phi, deviation, v = gaussian_flow(theta, reference, eta)
    before = torch.cat([torch.ones(1, dtype=torch.float64), snr[1:-1] - snr[:-2]])
    slope = remainder_weight(theta, reference, kappa, power=1) / before[:, None]
    slope[0] = 0
    # dD = (sigma^2 / alpha) s + sigma^2 / (alpha v) c, and x = r y in units of the process
    tweedie, r = torch.expm1(theta[:-1, None]) * torch.exp(-theta[:-1, None] / 2), radius(process, grid.t)[:, None]
    now, later = r[1:] * (remainder_weight(theta, reference, kappa) + slope), torch.zeros_like(slope)
    later[:-1] = r[2:] * slope[1:]
    weights = torch.stack([now, later], dim=-1) * tweedie[..., None]
    P = torch.zeros(*phi.shape, 2, 2, dtype=torch.float64)
    P[..., 0] = weights / (v[:-1] * r[:-1])[..., None]
    P[..., 0, 0] += phi * r[1:] / r[:-1]
    P[1:, :, 0, 1] = -1
    N = torch.zeros_like(P)
    N[..., 0, 0] = deviation * r[1:]
    levels = process.alpha(grid.t), process.sigma(grid.t)
    M = -P[..., 0] * levels[0][:-1, None, None]
    M[..., 0] += levels[0][1:, None]
    Q = weights * r[:-1, :, None]
    return Chain(P, Q[..., None], N, grid.t, *levels, grid.edges, reference.basis, reference.mean, M)
