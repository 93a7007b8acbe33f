"""Denoising errors on held-out states at each noise level, compared with those of the reference's Wiener filter.

The difference of the two estimates, c = D - D_G, may be taken in part: in every band of shells the error |D_G + g c - x_0|^2 is a
parabola in the factor g, whose minimum follows from the products of c with itself and with the Wiener filter's error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...schema.conditions import Condition, rows_of
from ...theory.bases import Basis
from ...theory.process import Process
from ..denoiser import GaussianDenoiser
from ..gate import Gate, bands_of

SMALL_BATCH = 2**16


@dataclass(frozen=True)
class DenoisingTable:
    """Mean square denoising errors per entry at each log-SNR, of the denoiser and of the Gaussian reference.

    `gate` keeps of the network the share, from 0 to 1, that has the least error in a band of shells, and nothing where this share
    is within a standard error of nothing. `gated` are the errors with it, which are never above the Gaussian's.
    """

    log_snr: tuple[float, ...]
    denoiser: tuple[float, ...]
    gaussian: tuple[float, ...]
    gated: tuple[float, ...]
    gate: Gate

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
    wiener, basis = denoiser.without_network(), denoiser.reference_in(states.dtype).basis
    # rotations of a molecule mix the shells of its reference, so that a network that turns with them has one factor
    bands = bands_of(denoiser.degrees) if denoiser.constraint is None else torch.ones(1, basis.num_shells)
    errors = torch.zeros(2, len(levels), dtype=torch.float64)
    products = torch.empty(2, len(levels), len(states), len(bands), dtype=torch.float64)
    with torch.no_grad():
        for k, level in enumerate(levels):
            for start in range(0, len(states), batch):
                here = slice(start, start + batch)
                clean, white = states[here], noise[here]
                given = () if condition is None else (rows_of(condition, here),)
                t = time_of(denoiser.process, torch.full((len(clean),), level))
                x = denoiser.noised(clean, t, white)
                denoised, linear = denoiser(x, t, *given), wiener(x, t, *given)
                for row, estimate in enumerate((denoised, linear)):
                    errors[row, k] += ((estimate - clean) ** 2).sum().to(torch.float64)
                left, added = (clean - linear).flatten(1), (denoised - linear).flatten(1)
                for b, part in enumerate(_parts(added, bands, basis)):
                    products[:, k, here, b] = torch.stack([(other * part).sum(1) for other in (left, added)]).to(torch.float64)
    entries = states.numel() * scale
    own, gaussian = errors / entries
    factor, (gain, size) = _best_factor(*products), products.sum(2)
    gated = gaussian - (factor * (2 * gain - factor * size)).sum(1) / entries
    gate = Gate(torch.tensor(levels, dtype=torch.float64), factor if len(bands) == 1 else factor @ bands)
    own_errors, gaussian_errors, gated_errors = (tuple(each.tolist()) for each in (own, gaussian, gated))
    return DenoisingTable(levels, own_errors, gaussian_errors, gated_errors, gate)


def _parts(flat: Tensor, bands: Tensor, basis: Basis) -> Iterator[Tensor]:
    """The parts of states [rows, d] in bands [bands, shells]."""
    if len(bands) == 1:
        yield flat
        return
    z = basis.analyse(flat)
    for band in bands.to(flat):
        yield basis.synthesise(basis.expand(band) * z)


def _best_factor(gain: Tensor, size: Tensor) -> Tensor:
    """The factors [levels, bands] of least error, within 0 and 1, where they exceed their standard errors, else 0.

    `gain` [levels, states, bands] are products of the Wiener filter's error and what the network adds, `size` of the latter with
    itself.
    """
    whole = size.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    best = gain.sum(1) / whole
    error = torch.linalg.vector_norm(gain - best[:, None] * size, dim=1) / whole
    return torch.where(best > error, best, 0.0).clamp(0, 1)
