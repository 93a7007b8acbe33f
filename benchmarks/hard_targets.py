"""Targets on which a stopping rule is easily wrong: narrow, many and unequal modes, scores with jumps, steps and ripples.

All have exact scores, up to what a wrapper does to them on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.analytic import GaussianMixture
from piadm_hpc.theory.process import OU

F64 = torch.float64
PROCESS = OU()
Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Target:
    """A score of fields [rows, d] and the mean and variances of its data."""

    name: str
    score: Score
    reference: GaussianReference


def _mixture(means: Tensor, deviation: Tensor | float, weights: Tensor | None = None) -> GaussianMixture:
    variances = torch.as_tensor(deviation, dtype=F64).square().expand(means.shape).clone()
    return GaussianMixture(PROCESS, means, variances, torch.ones(len(means), dtype=F64) if weights is None else weights)


def _two(weight: float = 0.5) -> GaussianMixture:
    return _mixture(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64), 0.02, torch.tensor([weight, 1 - weight], dtype=F64))


def _circle() -> GaussianMixture:
    angle = torch.arange(8, dtype=F64) * 2 * math.pi / 8
    return _mixture(torch.stack([angle.cos(), angle.sin()], 1), 0.03)


def _many() -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(16, 8, dtype=F64, generator=generator)
    return _mixture(means, 0.05, torch.rand(16, dtype=F64, generator=generator) + 0.05)


def _stiff() -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    deviations = 10.0 ** (-3 * torch.rand(6, 8, dtype=F64, generator=generator))
    return _mixture(torch.randn(6, 8, dtype=F64, generator=generator), deviations)


def _categories() -> GaussianMixture:
    """Three channels of four classes, each a corner of a simplex: 64 tight modes in 12 dimensions."""
    corners = torch.eye(4, dtype=F64)
    means = torch.stack([torch.cat([corners[a], corners[b], corners[c]]) for a in range(4) for b in range(4) for c in range(4)])
    return _mixture(2 * means - 0.5, 0.03)


def _rain() -> GaussianMixture:
    """Four cells, each dry (a spike at zero) or wet: sixteen modes of very unequal widths."""
    wet = torch.tensor([[float(number >> cell & 1) for cell in range(4)] for number in range(16)], dtype=F64)
    return _mixture(1.5 * wet, 0.01 + 0.5 * wet)


def _denoised(base: GaussianMixture, change: Callable[[Tensor], Tensor]) -> Score:
    """The score whose denoised estimate is a function of the exact one."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = PROCESS.alpha(t.to(x.dtype))[:, None], PROCESS.sigma(t.to(x.dtype))[:, None]
        estimate = change((x + sigma**2 * base.score(x, t)) / alpha)
        return (alpha * estimate - x) / sigma**2

    return score


def _nearest(base: GaussianMixture) -> Score:
    """The most probable mode takes all: a score with jumps."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        joint, slopes = base._components(x, t)
        return slopes[joint.argmax(0), torch.arange(len(x))]

    return score


def _rippled(base: GaussianMixture) -> Score:
    """A fast ripple on the denoised estimate."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        ratio = (PROCESS.alpha(t.to(x.dtype)) / PROCESS.sigma(t.to(x.dtype)))[:, None]
        return base.score(x, t) + 0.3 * ratio * torch.sin(8 * x)

    return score


def _targets() -> dict[str, tuple[GaussianMixture, Score | None]]:
    circle, many = _circle(), _many()
    return {
        "two modes": (_two(), None),
        "two modes, 99 to 1": (_two(0.99), None),
        "circle of eight": (circle, None),
        "sixteen modes": (many, None),
        "six modes, variances 1e-6 to 1": (_stiff(), None),
        "categories": (_categories(), None),
        "rain": (_rain(), None),
        "clipped estimate": (many, _denoised(many, lambda d: d.clamp(-1, 1))),
        "estimate rounded to 0.05": (many, _denoised(many, lambda d: torch.round(d / 0.05) * 0.05)),
        "jumping score": (circle, _nearest(circle)),
        "rippled score": (many, _rippled(many)),
    }


def targets() -> list[Target]:
    """All of them."""
    return [Target(name, score or base.score, base.reference()) for name, (base, score) in _targets().items()]
