"""Preconditioners: the linear part of every step, which sweeps treat exactly.

The fixed point of the sweeps does not depend on the linear part; the number of sweeps does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.bases import Basis, compatible
from ..theory.chain import Chain


@dataclass(frozen=True)
class LinearPart:
    """The matrices A [J, K, c, c] of all steps, per shell of `basis`.

    `slope` [J, K, k, k] is the slope of the score that A assumes, where it assumes one.
    """

    A: Tensor
    basis: Basis | None = None
    slope: Tensor | None = None

    def product(self, start: int, stop: int) -> Tensor:
        """Return A[stop-1] ... A[start], float64 [K, c, c]; the identity when the range is empty."""
        total = torch.eye(self.A.shape[-1], dtype=torch.float64).expand(self.A.shape[1:]).clone()
        for j in range(start, stop):
            total = self.A[j] @ total
        return total


def identity_part(chain: Chain) -> LinearPart:
    """Return A = I, the choice of ParaDiGMS (Shih et al. 2023)."""
    eye = torch.eye(chain.channels, dtype=torch.float64)
    return LinearPart(eye.expand(chain.num_steps, 1, *eye.shape), chain.basis)


def process_part(chain: Chain) -> LinearPart:
    """Return A = P, the choice of PIADM (Chen et al. 2024): the process without the score is treated exactly."""
    return LinearPart(chain.P, chain.basis)


def denoised_part(chain: Chain) -> LinearPart:
    """Return A = P - Q H R, with H the precision of the noise: the denoised estimate is constant, instead of the score."""
    slope = -torch.linalg.inv(chain.levels[1][:-1])[:, None]
    return LinearPart(chain.P + chain.Q @ slope @ chain.rows[:, None], chain.basis, slope)


def reference_part(chain: Chain, reference: GaussianReference) -> LinearPart:
    """Return A = P + Q J R, with the Jacobian J of a Gaussian reference's score per shell: one sweep solves a Gaussian."""
    signal, covariance = chain.levels
    return _followed(chain, reference, -torch.linalg.inv(reference.marginal(signal[:-1], covariance[:-1])))


def response_part(chain: Chain, reference: GaussianReference) -> LinearPart:
    """Return A = P + Q J R, with the model's probed Jacobian diagonal J per shell, which also holds where data are not Gaussian.

    J = -H + H e C e^T H for signal e, noise of precision H and posterior variance C = gain ratio^2 of x_0. Raises ValueError
    for a reference without a response.
    """
    if reference.response is None:
        raise ValueError("this reference has no response: probe the model (`piadm reference MODEL`), or use another `linear`")
    signal, covariance = chain.levels
    precision = torch.linalg.inv(covariance[:-1])
    pulled = (precision @ signal[:-1, :, None])[:, None]
    spread = reference.response.at(chain.ratio[:-1]) * chain.ratio[:-1, None] ** 2
    return _followed(chain, reference, spread[..., None, None] * pulled @ pulled.mT - precision[:, None])


def _followed(chain: Chain, reference: GaussianReference, slope: Tensor) -> LinearPart:
    """Return A = P + Q slope R in the reference's basis, for a slope [J, K, k, k] of the score."""
    if not compatible(chain.basis, reference.basis):
        raise ValueError("the chain's tables and the reference must share one basis; build both from the same reference")
    return LinearPart(chain.P + chain.Q @ slope @ chain.rows[:, None], reference.basis, slope)
