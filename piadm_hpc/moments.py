"""Exact moments of a chain on a Gaussian: its discretisation error without a network and without sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from .chain import Chain, reference_part
from .reference import GaussianReference


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


def deviation_ratio(chain: Chain, reference: GaussianReference, signal: Tensor, variance: Tensor) -> Tensor:
    """Standard deviation of the last position over the exact one per shell, [K]; one is perfect.

    The exact one is that of signal x_0 plus noise of a variance (scalars), the marginal at the chain's end.
    """
    exact = reference.marginal(signal.reshape(1), variance.reshape(1, 1))[:, 0, 0]
    return torch.sqrt(end_covariance(chain, reference)[:, 0, 0] / exact)
