"""Spherical harmonics whose large scales are turned into empirical orthogonal functions: the reference for global fields.

A climate is neither the same everywhere (so degrees alone do not describe its covariance) nor sampled often enough for
a full covariance. Here the degrees l < split carry a full covariance, regularised towards one variance per degree, in
its eigenvectors; smaller scales keep one variance per degree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..bases import SphericalHarmonics
from ..reference import GaussianReference

SHRINKAGES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)


class GridHarmonics(SphericalHarmonics):
    """Spherical harmonics for fields that are not area-weighted: the same functions, orthonormal under the plain sum."""

    def __init__(self, nlat: int, nlon: int, lmax: int, latitudes: Sequence[float] | None = None,
                 device: torch.device | None = None, dtype: torch.dtype = torch.float64):
        super().__init__(nlat, nlon, lmax, latitudes, None, torch.float64)
        plain = torch.zeros_like(self.columns)
        for m in range(lmax):
            q, r = torch.linalg.qr((self.columns[m, m:] / self.sqrt_weights).T)
            plain[m, m:] = (q * r.diagonal().sign()).T
        self.columns = plain.to(device, dtype)
        self.sqrt_weights = torch.ones(nlat, dtype=dtype, device=device)
        for name in ("_valid", "shells", "weights", "degrees"):
            setattr(self, name, getattr(self, name).to(device))

    def to(self, device: torch.device, dtype: torch.dtype) -> GridHarmonics:
        nlat, nlon = self.event_shape
        return GridHarmonics(nlat, nlon, self.lmax, self.latitudes, device, dtype)


class HarmonicEOF:
    """Coordinates of `harmonics` in which those of degree l < split are rotated; a shell per mode, then one per degree.

    `rotation` [split^2, split^2] has the modes as orthonormal columns. Its rows are the harmonics' coordinates of low
    degree, scaled to be orthonormal, in the order of `harmonics`.
    """

    def __init__(self, harmonics: GridHarmonics, rotation: Tensor, split: int):
        self.harmonics, self.rotation, self.split = harmonics, rotation, split
        self.event_shape: tuple[int, ...] = harmonics.event_shape
        low = low_degrees(harmonics, split)
        others = torch.ones(harmonics.num_coords, dtype=torch.bool, device=low.device)
        others[low] = False
        self.low, self.high = low, torch.nonzero(others).flatten()
        self.root = torch.sqrt(harmonics.weights[low]).to(rotation.dtype)
        self.rank = len(low)
        if rotation.shape != (self.rank, self.rank):
            raise ValueError(f"rotation must be {(self.rank, self.rank)} for split {split}, got {tuple(rotation.shape)}")
        self.num_coords = harmonics.num_coords
        self.num_shells = self.rank + harmonics.num_shells - split
        # coordinates of low degree that are not rotated are identically zero, their shell does not matter
        self.shells = self.rank + (harmonics.shells[self.high] - split).clamp(min=0)

    def analyse(self, x: Tensor) -> Tensor:
        z = self.harmonics.analyse(x)
        return torch.cat([(z.index_select(-1, self.low) * self.root) @ self.rotation, z.index_select(-1, self.high)], dim=-1)

    def synthesise(self, z: Tensor) -> Tensor:
        low = (z[..., : self.rank] @ self.rotation.T) / self.root
        plain = torch.empty_like(z).index_copy(-1, self.low, low).index_copy(-1, self.high, z[..., self.rank :])
        return self.harmonics.synthesise(plain)

    def expand(self, gains: Tensor) -> Tensor:
        return torch.cat([gains[..., : self.rank], gains.index_select(-1, self.shells)], dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        weights, degrees = (v[self.high].to(z.dtype) for v in (self.harmonics.weights, self.harmonics.degrees))
        zero = z.new_zeros(self.num_shells)
        power = zero.index_add(0, self.shells, weights * (z[:, self.rank :] ** 2).mean(0))[self.rank :]
        count = zero.index_add(0, self.shells, degrees)[self.rank :]
        # the unused coordinates of low degree were counted with the first shell
        count = count - torch.nn.functional.one_hot(torch.tensor(0), len(count)).to(count) * self._unused()
        return torch.cat([(z[:, : self.rank] ** 2).mean(0), power / count])

    def _unused(self) -> float:
        return float(self.harmonics.degrees[self.harmonics.shells < self.split].sum()) - self.rank

    def to(self, device: torch.device, dtype: torch.dtype) -> HarmonicEOF:
        return HarmonicEOF(self.harmonics.to(device, dtype), self.rotation.to(device, dtype), self.split)
