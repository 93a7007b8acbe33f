"""Empirical orthogonal functions with white noise whose variance differs between regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..theory.bases import EOF


class RegionalEOF(EOF):
    """EOFs, one shell each, and a shell of all other directions within each region.

    `regions` [d] are the numbers of the regions of entries, from 0 on. In every region the restrictions of `modes` [d, r] to it
    must span no more than modes that vanish outside it: then the projection on modes leaves regions apart, and every shell is a
    subspace of its own. A last region may be the points without data, where modes vanish.
    """

    def __init__(self, modes: Tensor, event_shape: Sequence[int], regions: Tensor):
        super().__init__(modes, event_shape)
        self.regions = regions
        self.num_regions = int(regions.max()) + 1
        self.num_shells = self.rank + self.num_regions

    def expand(self, gains: Tensor) -> Tensor:
        return torch.cat([gains[..., : self.rank], gains[..., self.rank :].index_select(-1, self.regions)], dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        squares = (z**2).mean(0)
        sums = self._sums(squares[self.rank :])
        return torch.cat([squares[: self.rank], sums / self.degrees[self.rank :].to(sums).clamp(min=1)])

    @property
    def degrees(self) -> Tensor:
        """The number of directions in every shell, [num_shells] float64."""
        left = self._sums(1 - (self.modes.to(torch.float64) ** 2).sum(1)).cpu().round()
        return torch.cat([torch.ones(self.rank, dtype=torch.float64), left])

    def to(self, device: torch.device, dtype: torch.dtype) -> RegionalEOF:
        return RegionalEOF(self.modes.to(device, dtype), self.event_shape, self.regions.to(device))

    def _sums(self, values: Tensor) -> Tensor:
        """Sums of values [d] over regions."""
        return values.new_zeros(self.num_regions).index_add(0, self.regions, values)
