"""Conditional problems with exact scores: a Gaussian whose moments are known for any condition, and a shifted mixture."""

from __future__ import annotations

import torch
from problems import F64, SIZE, mixture
from torch import Tensor

from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.schema.conditions import Condition
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.process import Process

KNOWN = 3  # numbers in a condition of the Gaussian


class ConditionalGaussian:
    """x = mean + B c + noise: given c, a Gaussian with mean `mean` + B c and with the same `variances` for every c."""

    def __init__(self, process: Process, size: int = SIZE):
        generator = torch.Generator().manual_seed(8)
        self.process = process
        self.variances = 2.0 / (1 + torch.arange(size, dtype=F64)) ** 1.2
        size_of = 0.4 * self.variances.sqrt()
        self.mean = size_of * torch.randn(size, dtype=F64, generator=generator)
        self.B = size_of[:, None] * torch.randn(size, KNOWN, dtype=F64, generator=generator)
        # the Gaussian of the residuals x - E[x | c]
        self.reference = GaussianReference(torch.zeros_like(self.mean), Pixelwise((size,)), self.variances)

    def expected(self, c: Tensor) -> Tensor:
        """Return the means [samples, d] given conditions c [samples, KNOWN]."""
        return self.mean + c @ self.B.T

    def score(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Return the score of alpha x_0 + sigma eps given c."""
        alpha, sigma = (level(t.to(F64))[:, None] for level in (self.process.alpha, self.process.sigma))
        return (alpha * self.expected(c.to(F64)) - x) / (alpha**2 * self.variances + sigma**2)


class ShiftedMixture:
    """The mixture of `problems`, moved by the condition {"map": {"shift": [d]}, "sign": 0 or 1}."""

    def __init__(self, process: Process):
        self.process, self.target = process, mixture(process)

    def score(self, x: Tensor, t: Tensor, c: Condition) -> Tensor:
        """Return the mixture's score at x - alpha shift, which is the shifted mixture's at x."""
        assert not isinstance(c, Tensor) and not isinstance(c["map"], Tensor)
        shift, sign = c["map"]["shift"], c["sign"]
        assert isinstance(shift, Tensor) and isinstance(sign, Tensor) and sign.dtype == torch.int64
        moved = (1 - 2 * sign[:, None]) * shift
        return self.target.score(x - self.process.alpha(t.to(F64))[:, None].to(x) * moved, t)

    @staticmethod
    def conditions(samples: int) -> dict[str, Condition]:
        """Return a different condition for every sample."""
        generator = torch.Generator().manual_seed(3)
        shift = 0.5 * torch.randn(samples, SIZE, dtype=F64, generator=generator)
        return {"map": {"shift": shift}, "sign": torch.arange(samples) % 2}
