"""Denoising errors on held-out states at each noise level, compared with those of the reference's Wiener filter.

The difference of the two estimates, c = D - D_G, may be taken in part: the error |D_G + g c - x_0|^2 is a parabola in the factor
g, whose minimum follows from the products of c with itself and with the Wiener filter's error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...schema.conditions import Condition, rows_of
from ...theory.process import Process
from ..denoiser import Gate, GaussianDenoiser

SMALL_BATCH = 2**16


@dataclass(frozen=True)
class DenoisingTable:
    """Mean square denoising errors per entry at each log-SNR, of the denoiser and of the Gaussian reference.

    `factor` is the share of the network, from 0 to 1, that has the least error, and 0 where this share is within a standard error
    of nothing. `gated` are the errors with it, which are never above the Gaussian's.
    """

    log_snr: tuple[float, ...]
    denoiser: tuple[float, ...]
    gaussian: tuple[float, ...]
    factor: tuple[float, ...]
    gated: tuple[float, ...]

    @property
    def gate(self) -> Gate:
        """The gate with these factors."""
        return Gate(self.log_snr, self.factor)

    def with_gate(self) -> DenoisingTable:
        """Return the table of the denoiser with this gate."""
        return replace(self, denoiser=self.gated)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The denoiser's error over the Gaussian's at each level."""
        return tuple(a / b for a, b in zip(self.denoiser, self.gaussian, strict=True))

    @property
    def score(self) -> float:
        """Mean logarithm of the ratios; below zero the denoiser is better than the Gaussian."""
        return sum(map(math.log, self.ratios)) / len(self.log_snr)

    def __str__(self) -> str:
        cells = [f"{level:+.0f}: {ratio:.3f}" for level, ratio in zip(self.log_snr, self.ratios, strict=True)]
        return "  ".join(cells)


def even_levels(lowest: float, highest: float) -> tuple[float, ...]:
    """The even integers strictly inside a range of log-SNR, or its midpoint if there are none."""
    levels = tuple(2.0 * k for k in range(math.floor(lowest / 2) + 1, math.ceil(highest / 2)))
    return levels or ((lowest + highest) / 2,)


def time_of(process: Process, log_snr: Tensor) -> Tensor:
    """The process's times, float64, at which log(alpha^2 / sigma^2) has the given values."""
    return process.time(torch.log1p(torch.exp(-log_snr.to(torch.float64))))


def denoising_table(
    denoiser: GaussianDenoiser,
    states: Tensor,
    levels: tuple[float, ...],
    *,
    seed: int = 0,
    batch: int | None = None,
    condition: Condition | None = None,
) -> DenoisingTable:
    """Measure denoising errors on states [n, *event], with noise that depends on `seed` alone; masked entries do not count.

    `condition` has an entry for every state of a conditional model. The network is evaluated on `batch` states at a time: by
    default 16 fields, or as many small states as fill 256 kB.
    """
    batch = batch or max(16, SMALL_BATCH // max(1, states[:1].numel()))
    generator = torch.Generator().manual_seed(seed)
    noise = denoiser.white(states, generator)
    scale = 1.0 if denoiser.mask is None else float(denoiser.mask.sum()) / denoiser.mask.numel()
    wiener = denoiser.without_network()
    products = torch.empty(4, len(levels), len(states), dtype=torch.float64)
    with torch.no_grad():
        for k, level in enumerate(levels):
            for start in range(0, len(states), batch):
                here = slice(start, start + batch)
                clean, white = states[here], noise[here]
                given = () if condition is None else (rows_of(condition, here),)
                t = time_of(denoiser.process, torch.full((len(clean),), level))
                x = denoiser.noised(clean, t, white)
                linear = wiener(x, t, *given)
                denoised = denoiser(x, t, *given)
                wrong, left, added = denoised - clean, clean - linear, denoised - linear
                for row, (a, b) in enumerate(((wrong, wrong), (left, left), (left, added), (added, added))):
                    products[row, k, here] = (a * b).flatten(1).sum(1).to(torch.float64)
    own, gaussian, gain, size = products.sum(2) / (states.numel() * scale)
    factor = _best_factor(*products[2:])
    gated = gaussian - factor * (2 * gain - factor * size)
    return DenoisingTable(levels, *(tuple(each.tolist()) for each in (own, gaussian, factor, gated)))


def _best_factor(gain: Tensor, size: Tensor) -> Tensor:
    """The factors [levels] of least error, within 0 and 1, where they exceed their standard errors, else 0.

    `gain` [levels, states] are products of the Wiener filter's error and what the network adds, `size` of the latter with itself.
    """
    whole = size.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    best = gain.sum(1) / whole
    error = torch.linalg.vector_norm(gain - best[:, None] * size, dim=1) / whole
    return torch.where(best > error, best, 0.0).clamp(0, 1)
