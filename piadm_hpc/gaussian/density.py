"""Log-densities of a Gaussian reference, over the subspace that its states lie in."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..theory.bases import Basis
from ..theory.process import Process
from .masked import shell_degrees
from .reference import GaussianReference

ROWS = 512  # unit vectors that are projected at once
SLACK = 1e-2  # of degrees of freedom, which are whole numbers


def degrees_within(basis: Basis, project: Callable[[Tensor], Tensor] | None, like: Tensor) -> Tensor:
    """Return the degrees of freedom [num_shells], float64, that a projection of flat states [rows, d] leaves in each shell.

    The basis is in the precision and on the device of `like`.

    Raises ValueError for a projection that mixes shells, because no density over its subspace is a product over shells.
    """
    whole = shell_degrees(basis)
    if project is None:
        return whole
    size = math.prod(basis.event_shape)
    kept = torch.zeros_like(whole)
    for start in range(0, size, ROWS):
        count = min(ROWS, size - start)
        rows = torch.zeros(count, size, dtype=like.dtype, device=like.device)
        rows[torch.arange(count), torch.arange(start, start + count)] = 1
        kept += basis.energy(basis.analyse(project(rows))).to(torch.float64).cpu() * count
    kept *= whole
    if bool(((kept - kept.round()).abs() > SLACK).any()):
        raise ValueError(
            "the projection of the states mixes shells of the reference's basis, so that its density has no closed form: "
            "use a reference that was fitted to projected states (EOFs of the masked fields, of the superposed frames)"
        )
    return kept.round()


def log_density(
    reference: GaussianReference,
    process: Process,
    x: Tensor,
    t: Tensor,
    *,
    degrees: Tensor | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the log-density [rows], float64, of the reference's marginal at time t (a number) for states x [rows, *event].

    `degrees` are those that the projection `project` of flat states leaves in each shell (`degrees_within`); without both the
    states fill the whole space.
    """
    alpha, sigma = process.alpha(t.to(torch.float64)).cpu(), process.sigma(t.to(torch.float64)).cpu()
    variance = reference.variance(alpha.reshape(1).to(reference.spectrum.device), sigma.reshape(1).to(reference.spectrum.device))
    free = shell_degrees(reference.basis) if degrees is None else degrees
    wide = reference.to(x.device, torch.float64)
    away = x.flatten(1).to(torch.float64) - alpha.to(x.device) * wide.mean
    away = away if project is None else project(away)
    gains = wide.basis.expand(1 / variance[0].to(x.device))
    square = (away * wide.basis.synthesise(gains * wide.basis.analyse(away))).sum(-1)
    volume = free @ (math.log(2 * math.pi) + torch.log(variance[0].cpu()))
    return (-0.5 * (square.cpu() + volume)).to(torch.float64)
