"""The underdamped corrector of PIADM-ODE, with its default friction and length."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from ..theory.process import Process
from .langevin import underdamped


def critical_corrector(
    process: Process,
    reference: GaussianReference | None,
    *,
    friction: float | None,
    length: float | None,
    num_steps: int,
    num_blocks: int,
) -> Callable[[float], Chain]:
    """Build the corrector of PIADM-ODE, as a function of the time at a block's end (Chen et al. 2024, section 3.2).

    Where they are None, friction is 2 sqrt(L) and length 1 / sqrt(L), which damp the stiffest mode critically. L is the largest
    curvature of the reference's marginal at that time, or of the noise without a reference.
    """

    def chain(t: float) -> Chain:
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = process.alpha(time), process.sigma(time)
        smallest = sigma**2 if reference is None else reference.variance(alpha, sigma).min()
        root = 1 / math.sqrt(float(smallest))
        return underdamped(
            process, t, friction=friction or 2 * root, length=length or 1 / root, num_steps=num_steps, num_blocks=num_blocks
        )

    return chain
