"""Exact moments of a chain on a Gaussian: its discretisation error without a network and without sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from .linear import reference_part


def end_covariance(chain: Chain, reference: GaussianReference, first: Tensor | None = None) -> Tensor:
    """Covariance of the last state per shell, [K, c, c], when the score is exactly that of the reference.

    `first` [K, c, c] is the covariance of the first state; by default the one the chain says it starts from.
    """
    signal, spread = chain.entry()
    covariance = reference.marginal(signal, spread @ spread.mT) if first is None else first
    A, noise = reference_part(chain, reference).A, chain.noise
    for j in range(chain.num_steps):
        covariance = A[j] @ covariance @ A[j].mT + noise[j] @ noise[j].mT
    return covariance


def deviation_growth(chain: Chain, reference: GaussianReference) -> Tensor:
    """Standard deviation of the last position, per shell [K], in units of the data's (never less than a tenth of the largest).

    Far above one where the chain is unstable; coarse chains blur, they do not grow.
    """
    scale = torch.sqrt(reference.spectrum.to(torch.float64).cpu() + 1e-2 * reference.spectrum.max().cpu())
    return torch.sqrt(end_covariance(chain, reference)[:, 0, 0]) / scale
