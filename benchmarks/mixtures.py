"""Eight separated modes: does a sample keep its mode, and does the tolerance mean what it says?

    python benchmarks/mixtures.py                    100 seeds: DDIM of 100 steps at d = 64 and 1024, DDPM of 1000 at d = 64
    python benchmarks/mixtures.py --peers            rounds of the peers at d = 64, beside those of an independent study

The chains are those of the linear beta schedule of 1000 levels (Ho et al. 2020) with trailing spacing, down to no noise.
The error of a sample is the root mean square over coordinates of its distance from the same chain step by step, over the
root mean square of the latter; a wrong mode is another nearest mean.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import Report, at_most, parser
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.bases import EOF
from piadm_hpc.chain import Chain
from piadm_hpc.grid import from_times
from piadm_hpc.noise import PRIOR, Noise
from piadm_hpc.process import OU
from piadm_hpc.reference import GaussianReference
from piadm_hpc.solvers.peers import PeerSettings
from piadm_hpc.solving import Solution, solve

F64 = torch.float64
MODES = 8
LEVELS = (1e-2, 1e-3, 1e-4)
COLUMNS = ("tol", "window", "rounds", "at most", "calls a step", "median error", "largest error", "largest / tol", "wrong modes")


class SeparatedModes:
    """Eight Gaussians with means N(0, 0.8^2 I), each with deviations 0.02-0.8 in random directions and one elsewhere.

    d/4 directions a mode for d = 64, d/16 beyond 256; deviations elsewhere are 0.05-0.2, weights unequal.
    """

    def __init__(self, d: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        directions = d // 4 if d <= 256 else d // 16
        self.event_shape = (d,)
        self.means = 0.8 * torch.randn(MODES, d, generator=generator, dtype=F64)
        self.axes = torch.linalg.qr(torch.randn(MODES, d, directions, generator=generator, dtype=F64)).Q
        spread = torch.rand(MODES, directions, generator=generator, dtype=F64)
        self.inside = torch.exp(math.log(0.02) + spread * math.log(0.8 / 0.02)) ** 2
        self.elsewhere = (0.05 + 0.15 * torch.rand(MODES, generator=generator, dtype=F64)) ** 2
        self.weights = torch.softmax(torch.randn(MODES, generator=generator, dtype=F64) / 2, 0)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Score of the mixture noised for forward times t [rows]: x [rows, d] -> [rows, d]."""
        alpha, noise = torch.exp(-t / 2)[:, None], -torch.expm1(-t)[:, None]
        joint, slopes = [], []
        for mean, axes, inside, elsewhere, weight in zip(
            self.means, self.axes, self.inside, self.elsewhere, self.weights, strict=True
        ):
            away = x - alpha * mean
            along = away @ axes
            v_in, v_out = alpha**2 * inside + noise, alpha**2 * elsewhere + noise
            slope = -away / v_out - (along * (1 / v_in - 1 / v_out)) @ axes.T
            volume = torch.log(v_in).sum(-1) + (x.shape[-1] - len(inside)) * torch.log(v_out)[:, 0]
            joint.append(torch.log(weight) - 0.5 * volume + 0.5 * (away * slope).sum(-1))
            slopes.append(slope)
        share = torch.softmax(torch.stack(joint), 0)
        return torch.einsum("cr,crd->rd", share, torch.stack(slopes))

    def mode(self, x: Tensor) -> Tensor:
        """The nearest mean, [rows]."""
        return torch.cdist(x, self.means).argmin(-1)

    def reference(self) -> GaussianReference:
        """Mean and covariance, exact in its leading d/4 (at most 64) directions, one variance elsewhere."""
        d, mean = self.means.shape[1], self.weights @ self.means
        apart = (self.means - mean) * torch.sqrt(self.weights)[:, None]
        within = torch.einsum("c,cdi,ci,cei->de", self.weights, self.axes, self.inside - self.elsewhere[:, None], self.axes)
        covariance = apart.T @ apart + within + (self.weights @ self.elsewhere) * torch.eye(d, dtype=F64)
        values, vectors = torch.linalg.eigh(covariance)
        rank = min(d // 4, 64)
        tail = values[:-rank].mean().reshape(1)
        basis = EOF(vectors[:, -rank:].flip(1).contiguous(), (d,))
        return GaussianReference(mean, basis, torch.cat([values[-rank:].flip(0), tail]))


def chain_of(method: str, steps: int) -> Chain:
    """DDIM or DDPM over `steps` of the 1000 levels, trailing, and one more to no noise at all."""
    theta = -torch.cumsum(torch.log1p(-torch.linspace(1e-4, 0.02, 1000, dtype=F64)), 0)
    times = torch.cat([theta[torch.arange(1000, 0, -1000 // steps) - 1], torch.zeros(1, dtype=F64)])
    return {"ddim": integrators.ddim, "ddpm": integrators.ddpm}[method](OU(), from_times(times))


@dataclass(frozen=True, eq=False)
class Case:
    """One target and chain with its draws and their samples step by step."""

    target: SeparatedModes
    chain: Chain
    seeds: int
    reference: GaussianReference

    def solve(self, **settings: Any) -> Solution:
        d = self.target.means.shape[1]
        noise = Noise(0, d, dtype=F64)
        first = noise.at([0], range(self.seeds), stream=PRIOR)[0, :, 0]
        return solve(self.chain, self.target, first, noise=noise, **settings)

    def truth(self) -> Tensor:
        return self.solve(solver="sequential").x

    def error(self, x: Tensor, truth: Tensor) -> Tensor:
        """Per sample, relative to the sequential sample."""
        return (x - truth).square().mean(-1).sqrt() / truth.square().mean(-1).sqrt()
