"""Spherical harmonics with empirical orthogonal functions at large scales: the reference for global fields.

The covariance of a climate differs from place to place, so one variance per degree does not describe it, and there are too few
samples to estimate it in full. Degrees l < split therefore have a full covariance, regularised towards one variance per degree
and represented by its eigenvectors; smaller scales keep one variance per degree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..theory.bases import SphericalHarmonics
from .reference import GaussianReference

SHRINKAGES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)


class HarmonicEOF:
    """Spherical harmonics whose degrees l < split are rotated into modes: one shell per mode, then one per degree.

    `rotation` [split^2, split^2] has the modes as orthonormal columns; its rows are the coordinates of low degree in the order
    of `harmonics`, scaled to be orthonormal. Raises ValueError for a rotation of another size.
    """

    def __init__(self, harmonics: SphericalHarmonics, rotation: Tensor, split: int):
        self.harmonics, self.rotation, self.split = harmonics, rotation, split
        self.event_shape: tuple[int, ...] = harmonics.event_shape
        low = low_degrees(harmonics, split)
        others = torch.ones(harmonics.num_coords, dtype=torch.bool, device=low.device)
        others[low] = False
        self.low, self.high = low, torch.nonzero(others).flatten()
        self.rest = self.high[: len(self.high) - math.prod(self.event_shape)]  # without the tail, which comes last
        self.root = torch.sqrt(harmonics.weights[low].to(torch.float64)).to(rotation.dtype)
        self.rank = len(low)
        if rotation.shape != (self.rank, self.rank):
            raise ValueError(f"rotation must be {(self.rank, self.rank)} for split {split}, got {tuple(rotation.shape)}")
        self.num_coords = harmonics.num_coords
        self.num_shells = self.rank + harmonics.num_shells - split
        shells = harmonics.shells[self.high]
        # imaginary parts of zonal means are always zero; at low degrees they belong to no mode and are no degrees of freedom
        self.shells = self.rank + (shells - split).clamp(min=0)
        self.places = torch.cat([torch.arange(self.rank, device=low.device), self.shells])
        self.degrees = torch.where(shells < split, torch.zeros_like(harmonics.degrees[self.high]), harmonics.degrees[self.high])

    def analyse(self, x: Tensor) -> Tensor:
        head = self.harmonics.head(x)
        low = (head.index_select(-1, self.low) * self.root) @ self.rotation
        return torch.cat([low, head.index_select(-1, self.rest), x - self.harmonics.field(head)], dim=-1)

    def synthesise(self, z: Tensor) -> Tensor:
        tail = self.rank + len(self.rest)
        low = (z[..., : self.rank] @ self.rotation.T) / self.root
        head = z.new_empty(*z.shape[:-1], tail)
        head.index_copy_(-1, self.low, low).index_copy_(-1, self.rest, z[..., self.rank : tail])
        return self.harmonics.field(head) + z[..., tail:]

    def expand(self, gains: Tensor) -> Tensor:
        return gains.index_select(-1, self.places)

    def energy(self, z: Tensor) -> Tensor:
        zero = z.new_zeros(self.num_shells)
        power = zero.index_add(0, self.shells, self.harmonics.weights[self.high].to(z.dtype) * (z[:, self.rank :] ** 2).mean(0))
        count = zero.index_add(0, self.shells, self.degrees.to(z.dtype))
        return torch.cat([(z[:, : self.rank] ** 2).mean(0), (power / count.clamp(min=1e-30))[self.rank :]])

    def to(self, device: torch.device, dtype: torch.dtype) -> HarmonicEOF:
        return HarmonicEOF(self.harmonics.to(device, dtype), self.rotation.to(device, dtype), self.split)


def low_degrees(harmonics: SphericalHarmonics, split: int) -> Tensor:
    """Return the indices [split^2] of coordinates of degree below `split`, without the imaginary parts of zonal means."""
    head = len(harmonics._valid) * 2
    order = (harmonics._valid // harmonics.lmax).repeat_interleave(2)
    imaginary = torch.arange(head, device=order.device) % 2 == 1
    return torch.nonzero((harmonics.shells[:head] < split) & ~((order == 0) & imaginary)).flatten()


def fit_harmonic_eof(train: Tensor, validation: Tensor, latitudes: Sequence[float], lmax: int, split: int) -> GaussianReference:
    """Fit the reference to states [n, lat, lon] float64; `validation` states decide how strongly the covariance is regularised.

    Raises ValueError for a split that is not below lmax.
    """
    if not 1 <= split < lmax:
        raise ValueError(f"reference.split must be at least 1 and below lmax = {lmax}, got {split}")
    nlat, nlon = train.shape[1:]
    harmonics = SphericalHarmonics(nlat, nlon, lmax, latitudes, area_weighted=False)
    mean = train.flatten(1).mean(0)
    low = low_degrees(harmonics, split)
    root = torch.sqrt(harmonics.weights[low].to(torch.float64))
    apart = harmonics.analyse(train.flatten(1) - mean)
    # a Fourier transform of no fields at all is an error
    unseen = harmonics.analyse(validation.flatten(1) - mean) if len(validation) else apart[:0]
    unbiased = len(apart) / max(1, len(apart) - 1)
    sample = (apart[:, low] * root).T @ (apart[:, low] * root) / len(apart) * unbiased
    target = _degree_variances(sample, harmonics.shells[low])
    variances, modes = shrunk(sample, target, best_shrinkage(sample, target, unseen[:, low] * root))
    energy = harmonics.energy(apart)[split:] * unbiased
    return GaussianReference(mean, HarmonicEOF(harmonics, modes, split), torch.cat([variances, energy]))


def shrunk(sample: Tensor, target: Tensor, amount: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (descending) and eigenvectors of a covariance shrunk towards a target by the weight `amount`."""
    variances, modes = torch.linalg.eigh((1 - amount) * sample + amount * target)
    return variances.flip(0), modes.flip(1)


def best_shrinkage(sample: Tensor, target: Tensor, unseen: Tensor) -> float:
    """Return the weight of the target that maximises the likelihood of held-out coordinates [n, k]; without any it is 0.3."""

    def surprise(amount: float) -> float:
        variances, modes = shrunk(sample, target, amount)
        # data without any variance along a direction have none in the held-out part either
        variances = variances.clamp(min=1e-12 * float(variances[0]))
        return float((torch.log(variances) + ((unseen @ modes) ** 2).mean(0) / variances).sum())

    return min(SHRINKAGES, key=surprise) if len(unseen) else 0.3


def _degree_variances(sample: Tensor, degree: Tensor) -> Tensor:
    """Return the covariance with one variance per degree, the mean of the sample's variances of that degree."""
    count = int(degree.max()) + 1
    mean = torch.zeros(count, dtype=sample.dtype).index_add(0, degree, sample.diagonal()) / torch.bincount(degree)
    return torch.diag(mean[degree])
