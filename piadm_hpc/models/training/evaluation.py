"""Denoising errors on held-out states at each noise level, compared with those of the reference's Wiener filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...schema.conditions import Condition, rows_of
from ...theory.process import Process
from ..denoiser import GaussianDenoiser

SMALL_BATCH = 2**16


@dataclass(frozen=True)
class DenoisingTable:
    """Mean square denoising errors per entry at each log-SNR, of the denoiser and of the Gaussian reference."""

    log_snr: tuple[float, ...]
    denoiser: tuple[float, ...]
    gaussian: tuple[float, ...]

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
    sums = torch.zeros(2, len(levels), dtype=torch.float64)
    with torch.no_grad():
        for k, level in enumerate(levels):
            for start in range(0, len(states), batch):
                here = slice(start, start + batch)
                clean, white = states[here], noise[here]
                given = () if condition is None else (rows_of(condition, here),)
                t = time_of(denoiser.process, torch.full((len(clean),), level))
                x = denoiser.noised(clean, t, white)
                for row, model in enumerate((denoiser, wiener)):
                    sums[row, k] += ((model(x, t, *given) - clean) ** 2).sum().to(torch.float64)
    errors = sums / states.numel() / scale
    return DenoisingTable(levels, tuple(errors[0].tolist()), tuple(errors[1].tolist()))
