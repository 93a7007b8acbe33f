"""Phase-space integrators with further channels beside position and momentum: two-step gDDIM and second-order Verlet."""

from __future__ import annotations

import torch
from torch import Tensor

from ..theory.chain import Chain
from ..theory.phase import gauss_legendre, rotation
from .assembly import Node, PhaseGrid, affine_map, native_chain

F64 = torch.float64


def verlet_x(grid: PhaseGrid) -> Chain:
    """Build RVV-x: velocity Verlet that evaluates its last momentum update at the extrapolated momentum m~ = 2 m_half - m.

    m_half = m + (h beta / 4)(x + nu m + M nu s_m), x' = x + (h beta / 2)(Gamma x - m_half / M + Gamma s_x), then
    m' = m_half + (h beta / 4)(x' + nu m~ + M nu s_m((x', m~), tau - h)). The channels are (x, m, m~). The method is of second
    order up to terms in Gamma. RVV is only of first order, because its last update depends on the momentum that it changes.
    """
    phase, k = grid.phase, grid.step * grid.phase.beta / 2
    gamma, nu, mass = phase.gamma, phase.nu, phase.mass
    one, zero = torch.ones_like(k), torch.zeros_like(k)
    half_x, half_m, half_s = k / 2, 1 + k * nu / 2, k * mass * nu / 2
    back = -k * phase.inverse_mass
    P = _stack([1 + k * gamma + back * half_x, back * half_m, zero], [half_x, half_m, zero], [2 * half_x, 2 * half_m - 1, zero])
    first = affine_map(P, _stack([k * gamma, back * half_s], [zero, half_s], [zero, 2 * half_s]))
    P = _stack([one, zero, zero], [half_x, one, k * nu / 2], [zero, zero, zero])
    second = affine_map(P, _stack([zero, zero], [zero, half_s], [zero, zero]))
    at_half = torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=F64)
    return native_chain(grid, [Node(grid.at("now"), first, torch.eye(2, 3, dtype=F64)), Node(grid.at("next"), second, at_half)])


def gddim_ab2(grid: PhaseGrid) -> Chain:
    """Build two-step gDDIM: the transported root R, and Adams-Bashforth in the prediction eps = -R^T s (Zhang et al. 2022).

    z' = E^-1 z + (R' - E^-1 R) eps + W (eps - eps_before) / (tau - tau_before), with the weight of the slope
    W = -int e^{-F (s - tau')} (G G^T / 2) R_s^-T (s - tau) ds over the step. The channels are (z, eps_before), and the first
    step has no history. The method is exact on point data, of second order, and makes one call a step.
    """
    phase, high, low = grid.phase, grid.tau[:-1], grid.tau[1:]
    back = torch.linalg.matrix_exp(-phase.drift * grid.step[:, None, None])
    angles = torch.cat([torch.zeros(1, dtype=F64), -torch.cumsum(phase.turn(low, high), 0)])
    roots = phase.root(grid.tau, angles)
    slope = _slope_weight(grid) @ rotation(angles[:-1])
    before = torch.cat([torch.ones(1, dtype=F64), high[1:] - high[:-1]])
    slope = slope / before[:, None, None]
    slope[0] = 0
    P = torch.zeros(len(high), 4, 4, dtype=F64)
    P[:, :2, :2], P[:, :2, 2:] = back, -slope
    to_eps = -roots[:-1].mT
    weights = torch.cat([(roots[1:] - back @ roots[:-1] + slope) @ to_eps, to_eps], dim=1)
    return native_chain(grid, [Node(grid.at("now"), affine_map(P, weights), torch.eye(2, 4, dtype=F64))])


def _slope_weight(grid: PhaseGrid) -> Tensor:
    """Compute W [J, 2, 2] of every step, for the root that is the Cholesky factor at the start of the step."""
    phase, high, low = grid.phase, grid.tau[:-1], grid.tau[1:]
    where, weights = gauss_legendre(low, high)
    carry = torch.linalg.matrix_exp(-phase.drift * (where - low[:, None])[..., None, None])
    root = phase.root(where, -phase.turn(where, high[:, None].expand_as(where)))
    integrand = carry @ (0.5 * phase.diffusion) @ torch.linalg.inv(root).mT
    weight: Tensor = -((weights * (where - high[:, None]))[..., None, None] * integrand).sum(1)
    return weight


def _stack(*rows: list[Tensor]) -> Tensor:
    """Stack entries [J] to tables [J, rows, columns]."""
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
