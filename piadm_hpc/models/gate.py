"""The gate of a network: how much of what it adds to a Wiener filter is kept, by noise level and by scale.

A denoising loss is a mean over all directions of a state, most of which are small scales, so a network can lower it and still
make large scales worse. Shells of the reference's basis therefore have factors of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..theory.bases import Basis


@dataclass(frozen=True, eq=False)
class Gate:
    """Factors from 0 to 1 of a network's remainder: `factor` [levels, shells], or [levels, 1] for all shells alike, float64.

    They hold at the increasing `log_snr` [levels] float64. Between these a factor is a cubic without slope at its ends, so the
    score has a continuous derivative; beyond, it is constant. Raises ValueError for levels that do not increase, and for factors
    beyond these limits.
    """

    log_snr: Tensor
    factor: Tensor

    def __post_init__(self) -> None:
        sound = bool(((self.factor >= 0) & (self.factor <= 1)).all()) and bool((self.log_snr.diff() > 0).all())
        if self.factor.ndim != 2 or len(self.factor) != len(self.log_snr) or not sound:
            raise ValueError("gate: levels must increase, with a row of factors between 0 and 1 for each")

    def at(self, log_snr: Tensor) -> Tensor:
        """Return the factors [rows, shells or 1] at log-SNR [rows] float64."""
        levels, factor = self.log_snr.to(log_snr.device), self.factor.to(log_snr.device)
        after = torch.searchsorted(levels, log_snr).clamp(max=len(levels) - 1)
        before = (after - 1).clamp(min=0)
        share = ((log_snr - levels[before]) / (levels[after] - levels[before]).clamp(min=1e-12)).clamp(0, 1)
        return torch.lerp(factor[before], factor[after], (share**2 * (3 - 2 * share))[:, None])

    def __call__(self, remainder: Tensor, log_snr: Tensor, basis: Basis) -> Tensor:
        """Return what is kept of a remainder [rows, *fields, *event] at log-SNR [rows], in its shape and precision."""
        factor = self.at(log_snr).to(remainder.dtype)
        if factor.shape[1] == 1:
            return remainder * factor.reshape(-1, *[1] * (remainder.ndim - 1))
        flat = remainder.reshape(len(remainder), -1, math.prod(basis.event_shape))
        return basis.synthesise(basis.expand(factor)[:, None] * basis.analyse(flat)).reshape(remainder.shape)


def bands_of(degrees: Tensor, growth: float = 0.5, fewest: int = 8) -> Tensor:
    """Divide shells of so many `degrees` of freedom into bands in their order: 1 where a shell is in a band, [bands, shells].

    A band has a share `growth` of the degrees before it, and `fewest` at least.
    """
    band = list[int]()
    before = own = 0.0
    for degree in degrees.tolist():
        limit = max(fewest, growth * before)
        # a tail of most directions stays alone
        if band and (own >= limit or (own > 0 and degree > limit)):
            before, own = before + own, 0.0
            band.append(band[-1] + 1)
        else:
            band.append(band[-1] if band else 0)
        own += degree
    return torch.nn.functional.one_hot(torch.tensor(band)).T.to(torch.float64)
