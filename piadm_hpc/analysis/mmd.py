"""Maximum mean discrepancy of physical features of two sets of fields, a distance of distributions (Gretton et al. 2012)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference

LEADING = 12
GROUPS = 8


def features(x: Tensor, reference: GaussianReference) -> Tensor:
    """Features [samples, features] of states x [samples, *event], in float64 and each of about unit size.

    They are the leading coordinates in standard deviations; the logarithm of the energy in groups of modes, relative to the
    reference; and mean, logarithm of the variance, skewness and extremes of the field.
    """
    flat = x.flatten(1).to(torch.float64).cpu()
    reference = reference.to("cpu", torch.float64)
    z = reference.basis.analyse(flat - reference.mean)
    deviation = torch.sqrt(reference.basis.expand(reference.spectrum)).clamp(min=1e-12).expand(z.shape[1])
    scaled = z / deviation
    sizes = sorted({round(z.shape[1] ** (k / GROUPS)) for k in range(GROUPS + 1)} | {0})
    energies = [torch.log(scaled[:, a:b].square().mean(1) + 1e-6) for a, b in pairwise(sizes)]
    mean, variance = flat.mean(1), flat.var(1)
    standard = (flat - mean[:, None]) / torch.sqrt(variance)[:, None]
    whole = [mean, torch.log(variance), (standard**3).mean(1), standard.amax(1) / 4, standard.amin(1) / 4]
    return torch.cat([scaled[:, :LEADING], torch.stack([*energies, *whole], dim=1)], dim=1)


def mmd(a: Tensor, b: Tensor) -> float:
    """Unbiased squared discrepancy of features a [n, f] and b [m, f], close to zero and of either sign for equal distributions.

    The kernel is a mean of Gaussians whose widths are half, once and twice the median distance. Raises ValueError for fewer
    than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"the discrepancy needs at least two samples of each, got {len(a)} and {len(b)}")
    both = torch.cat([a, b])
    squared = torch.cdist(both, both).square()
    width = squared[~torch.eye(len(both), dtype=torch.bool)].median()
    kernel = torch.stack([torch.exp(-squared / (2 * scale**2 * width)) for scale in (0.5, 1.0, 2.0)]).mean(0)
    n, m = len(a), len(b)
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel[:n, n:].mean())
