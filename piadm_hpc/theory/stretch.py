"""A coordinate of log-SNR in which a remainder that varies within a part of the range varies evenly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stretch:
    """The coordinate u = centre + sqrt(2 pi) width (Phi((l - centre) / width) - 1/2) of log-SNR l, with dl/du = 1 at `centre`.

    Phi is the distribution function of the normal distribution: points spaced evenly in u are normally distributed in l. With
    an infinite `width` u is l. Raises ValueError for a width that is not positive.
    """

    centre: float = 0.0
    width: float = math.inf

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"stretch: width = {self.width:g} must be positive")

    def coordinate(self, snr: Tensor) -> Tensor:
        """Return u at log-SNRs `snr` [*], float64."""
        if math.isinf(self.width):
            return snr
        share: Tensor = torch.special.ndtr((snr - self.centre) / self.width)
        return self.centre + math.sqrt(2 * math.pi) * self.width * (share - 0.5)

    def log_snr(self, u: Tensor) -> Tensor:
        """Return the log-SNRs at coordinates `u` [*], float64."""
        return u if math.isinf(self.width) else self.centre + self.width * self._quantile(u)

    def rate(self, u: Tensor) -> Tensor:
        """Return dl/du at coordinates `u` [*], float64."""
        return torch.ones_like(u) if math.isinf(self.width) else torch.exp(self._quantile(u) ** 2 / 2)

    def _quantile(self, u: Tensor) -> Tensor:
        normal: Tensor = torch.special.ndtri((u - self.centre) / (math.sqrt(2 * math.pi) * self.width) + 0.5)
        return normal


UNSTRETCHED = Stretch()  # log-SNR itself
