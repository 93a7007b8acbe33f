"""A basis in which some directions are rotated into modes of their own: the eigenvectors of a conditioned Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from ..theory.bases import Basis


class Rotated:
    """Orthonormal modes, one shell each, before the shells of another basis on all that is orthogonal to them.

    The columns of `modes` [d, k] must span a sum of subspaces of single shells of `base`, so that its operators leave the
    complement in place. `degrees` [base.num_shells] are the degrees of freedom in the shells of `base`.
    """

    def __init__(self, base: Basis, modes: Tensor, degrees: Tensor):
        self.base, self.modes, self.rank = base, modes, modes.shape[1]
        self.event_shape: tuple[int, ...] = base.event_shape
        self.num_coords, self.num_shells = self.rank + base.num_coords, self.rank + base.num_shells
        self.degrees = degrees
        taken = self.rank * base.energy(base.analyse(modes.T)).to("cpu", torch.float64) * degrees.cpu()
        self.left = (degrees.cpu() - taken).clamp(min=0)
        self.left[self.left < 1e-6 * degrees.cpu()] = 0

    def analyse(self, x: Tensor) -> Tensor:
        head = x @ self.modes
        return torch.cat([head, self.base.analyse(x - head @ self.modes.T)], dim=-1)

    def synthesise(self, z: Tensor) -> Tensor:
        return z[..., : self.rank] @ self.modes.T + self.base.synthesise(z[..., self.rank :])

    def expand(self, gains: Tensor) -> Tensor:
        rest = self.base.expand(gains[..., self.rank :])
        if rest.shape[-1] == 1:  # one gain for all coordinates of the base
            rest = rest.expand(*rest.shape[:-1], self.base.num_coords)
        return torch.cat([gains[..., : self.rank], rest], dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        head, rest = (z[:, : self.rank] ** 2).mean(0), self.base.energy(z[:, self.rank :])
        share = torch.where(self.left > 0, self.degrees.cpu() / self.left.clamp(min=1e-30), 0.0)
        return torch.cat([head, rest * share.to(rest)])

    def to(self, device: torch.device, dtype: torch.dtype) -> Rotated:
        return Rotated(self.base.to(device, dtype), self.modes.to(device, dtype), self.degrees)
