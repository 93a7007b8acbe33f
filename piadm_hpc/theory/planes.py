"""Plane waves on a periodic grid, each with a gain of its own: the basis of stationary fields that are not isotropic."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .bases import Fourier


class PlaneWaves(Fourier):
    """Fourier modes of real fields on a periodic grid, one shell per coefficient of the real transform.

    Gains must be those of a real operator: the same for opposite wave vectors where the transform has both.
    """

    def __init__(self, event_shape: Sequence[int], device: torch.device | None = None):
        super().__init__(event_shape, device)
        self.num_shells = self.num_coords // 2
        self.shells = torch.arange(self.num_shells, device=device).repeat_interleave(2)

    def to(self, device: torch.device, dtype: torch.dtype) -> PlaneWaves:
        return PlaneWaves(self.event_shape, device)
