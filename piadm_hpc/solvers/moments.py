"""Exact moments of a chain on a Gaussian: they measure its discretisation error without a network or samples."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from .linear import reference_part


def end_covariance(chain: Chain, reference: GaussianReference, first: Tensor | None = None) -> Tensor:
    """Compute the covariance of the last state per shell, [K, c, c], for the exact score of the reference.

    `first` [K, c, c] is the covariance of the first state; by default it is the reference's marginal there.
    """
    signal, spread = chain.entry()
    covariance = reference.marginal(signal, spread @ spread.mT) if first is None else first
    A, noise = reference_part(chain, reference).A, chain.noise
    for j in range(chain.num_steps):
        covariance = A[j] @ covariance @ A[j].mT + noise[j] @ noise[j].mT
    return covariance


def deviation_growth(chain: Chain, reference: GaussianReference) -> Tensor:
    """Compute the standard deviation of the last position per shell, [K], relative to that of the data.

    The data's deviation counts as at least a tenth of the largest. Values far above one mean that the chain is unstable:
    coarse but stable chains lose variance instead.
    """
    scale = torch.sqrt(reference.spectrum.to(torch.float64).cpu() + 1e-2 * reference.spectrum.max().cpu())
    return torch.sqrt(end_covariance(chain, reference)[:, 0, 0]) / scale
