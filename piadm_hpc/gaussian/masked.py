"""Empirical orthogonal functions of fields with gaps, and the degrees of freedom in the shells of any basis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..theory.bases import EOF, Basis, _Spectral
from .harmonics import HarmonicEOF
from .reference import GaussianReference
from .regional import RegionalEOF
from .rotated import Rotated
from .shared import SharedEOF


class MaskedEOF(EOF):
    """Leading EOFs, a tail shell for the rest of the points with data, and a last shell for the points without.

    `valid` [d] is true where there are data; `modes` [d, r] must vanish elsewhere.
    """

    def __init__(self, modes: Tensor, event_shape: Sequence[int], valid: Tensor):
        super().__init__(modes, event_shape)
        self.valid = valid
        self.num_shells = self.rank + 2

    def expand(self, gains: Tensor) -> Tensor:
        inside, outside = gains[..., self.rank, None], gains[..., self.rank + 1, None]
        return torch.cat([gains[..., : self.rank], torch.where(self.valid, inside, outside)], dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        head, tail = (z[:, : self.rank] ** 2).mean(0), (z[:, self.rank :] ** 2).mean(0)
        inside = tail[self.valid].sum() / max(1, int(self.valid.sum()) - self.rank)
        outside = tail[~self.valid].sum() / max(1, int((~self.valid).sum()))
        return torch.cat([head, inside.reshape(1), outside.reshape(1)])

    def to(self, device: torch.device, dtype: torch.dtype) -> MaskedEOF:
        return MaskedEOF(self.modes.to(device, dtype), self.event_shape, self.valid.to(device))


def shell_degrees(basis: Basis) -> Tensor:
    """Return the number of real degrees of freedom in each shell, [num_shells] float64; they add up to the size of a state."""
    size = math.prod(basis.event_shape)
    if isinstance(basis, Rotated):
        return torch.cat([torch.ones(basis.rank, dtype=torch.float64), basis.left.to("cpu", torch.float64)])
    if isinstance(basis, SharedEOF | RegionalEOF):
        return basis.degrees
    if isinstance(basis, MaskedEOF):
        valid = int(basis.valid.sum())
        return _with_head(basis.rank, [valid - basis.rank, size - valid])
    if isinstance(basis, HarmonicEOF):
        zero = torch.zeros(basis.num_shells, dtype=torch.float64)
        zero[: basis.rank] = 1
        return zero.index_add(0, basis.shells.cpu(), basis.degrees.cpu().to(torch.float64))
    if isinstance(basis, EOF):
        return _with_head(basis.rank, [size - basis.rank])
    if isinstance(basis, _Spectral):
        zero = torch.zeros(basis.num_shells, dtype=torch.float64)
        return zero.index_add(0, basis.shells.cpu(), basis.degrees.cpu().to(torch.float64))
    return torch.full((basis.num_shells,), size / basis.num_shells, dtype=torch.float64)


def log_likelihood(reference: GaussianReference, states: Tensor) -> float:
    """Return the mean logarithm of a reference's density at states [n, *event], over the directions that have variance."""
    degrees = shell_degrees(reference.basis) * (reference.spectrum.cpu() > 0)
    kept = degrees > 0
    variance = reference.spectrum.cpu().to(torch.float64)[kept]
    energy = reference.basis.energy(reference.basis.analyse(states.flatten(1) - reference.mean)).cpu()[kept]
    surprise = degrees[kept] * (torch.log(2 * math.pi * variance) + energy / variance)
    return float(-surprise.sum() / 2)


def _with_head(rank: int, rest: Sequence[int]) -> Tensor:
    return torch.cat([torch.ones(rank, dtype=torch.float64), torch.tensor(rest, dtype=torch.float64)])
