"""Orthonormal bases in which a Gaussian reference is diagonal: identity, pixelwise, EOF, Fourier, spherical harmonics.

A basis maps flat states [..., d] to coordinates [..., n] and back. Coordinates are grouped into *shells*, and an operator with
one gain per shell acts on them elementwise. Coordinates may be redundant (n >= d): a basis that does not span the whole space
appends the remainder of the state, its *tail*, as a last shell, so that `synthesise(analyse(x)) == x` always holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Basis(Protocol):
    """An orthonormal basis of flat states, in whose coordinates operators with one gain per shell act elementwise."""

    event_shape: tuple[int, ...]
    num_coords: int
    num_shells: int

    def analyse(self, x: Tensor) -> Tensor:
        """Return the coordinates [..., num_coords] of states [..., d]."""
        ...

    def synthesise(self, z: Tensor) -> Tensor:
        """Return the states [..., d] of coordinates [..., num_coords]."""
        ...

    def expand(self, gains: Tensor) -> Tensor:
        """Return gains per coordinate, [..., num_coords] or broadcastable to it, from gains per shell [..., num_shells]."""
        ...

    def energy(self, z: Tensor) -> Tensor:
        """Return the mean square per shell of coordinates [samples, num_coords]; it is one in every shell for white noise."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Basis:
        """Return the basis on another device, in another precision."""
        ...


class Identity:
    """The entries of the state themselves in one shell: operators are multiples of the identity."""

    def __init__(self, event_shape: Sequence[int]):
        self.event_shape = tuple(event_shape)
        self.num_coords = math.prod(self.event_shape)
        self.num_shells = 1

    def analyse(self, x: Tensor) -> Tensor:
        return x

    def synthesise(self, z: Tensor) -> Tensor:
        return z

    def expand(self, gains: Tensor) -> Tensor:
        return gains

    def energy(self, z: Tensor) -> Tensor:
        return (z**2).mean().reshape(1)

    def to(self, device: torch.device, dtype: torch.dtype) -> Identity:
        return self


class Pixelwise(Identity):
    """The entries of the state themselves, each in a shell of its own: operators are diagonal matrices."""

    def __init__(self, event_shape: Sequence[int]):
        super().__init__(event_shape)
        self.num_shells = self.num_coords

    def energy(self, z: Tensor) -> Tensor:
        return (z**2).mean(0)

    def to(self, device: torch.device, dtype: torch.dtype) -> Pixelwise:
        return self


def compatible(own: Basis | None, other: Basis) -> bool:
    """Whether operators per shell of two bases act on the same coordinates; None stands for multiples of the identity."""
    return own is None or own is other or (isinstance(own, Identity) and isinstance(other, Identity))


class EOF:
    """Leading empirical orthogonal functions: `modes` [d, r] are orthonormal columns, one shell each, and the tail is a shell."""

    def __init__(self, modes: Tensor, event_shape: Sequence[int]):
        self.event_shape = tuple(event_shape)
        self.modes = modes
        self.rank = modes.shape[1]
        self.num_coords = self.rank + modes.shape[0]
        self.num_shells = self.rank + 1

    def analyse(self, x: Tensor) -> Tensor:
        head = x @ self.modes
        return torch.cat([head, x - head @ self.modes.T], dim=-1)

    def synthesise(self, z: Tensor) -> Tensor:
        return z[..., : self.rank] @ self.modes.T + z[..., self.rank :]

    def expand(self, gains: Tensor) -> Tensor:
        tail = gains[..., self.rank :].expand(*gains.shape[:-1], self.modes.shape[0])
        return torch.cat([gains[..., : self.rank], tail], dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        degrees = max(1, self.modes.shape[0] - self.rank)
        tail = (z[:, self.rank :] ** 2).sum(-1).mean() / degrees
        return torch.cat([(z[:, : self.rank] ** 2).mean(0), tail.reshape(1)])

    def to(self, device: torch.device, dtype: torch.dtype) -> EOF:
        return EOF(self.modes.to(device, dtype), self.event_shape)


class _Spectral:
    """A basis whose coordinates are assigned to shells by a table.

    Subclasses set `shells`, `weights` and `degrees` [num_coords]: the shell of each coordinate, the weight of its square in the
    squared norm of the state, and the number of real degrees of freedom that it represents.
    """

    num_shells: int
    shells: Tensor
    weights: Tensor
    degrees: Tensor

    def expand(self, gains: Tensor) -> Tensor:
        return gains.index_select(-1, self.shells)

    def energy(self, z: Tensor) -> Tensor:
        zero = torch.zeros(self.num_shells, dtype=z.dtype, device=z.device)
        power = zero.index_add(0, self.shells, self.weights.to(z.dtype) * (z**2).mean(0))
        return power / zero.index_add(0, self.shells, self.degrees.to(z.dtype)).clamp(min=1e-30)


def _half_spectrum(columns: int, length: int) -> Tensor:
    """Return how often each column of a real transform of `length` points occurs in the full one: 1 at the ends, else 2."""
    weights = torch.full((columns,), 2.0)
    weights[0] = 1.0
    if length % 2 == 0 and columns == length // 2 + 1:
        weights[-1] = 1.0
    return weights


class Fourier(_Spectral):
    """Fourier modes of real fields on a periodic grid, one shell per rounded length of the integer wave vector."""

    def __init__(self, event_shape: Sequence[int], device: torch.device | None = None):
        self.event_shape = tuple(event_shape)
        last = self.event_shape[-1]
        axes = [torch.fft.fftfreq(n, 1 / n) for n in self.event_shape[:-1]] + [torch.fft.rfftfreq(last, 1 / last)]
        waves = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        self.spectral_shape = tuple(waves.shape[1:])
        self.wavenumbers, shells = torch.unique(torch.sqrt((waves**2).sum(0)).round().long(), return_inverse=True)
        self.num_shells = len(self.wavenumbers)
        self.shells = shells.reshape(-1).repeat_interleave(2).to(device)
        self.num_coords = len(self.shells)
        weights = _half_spectrum(self.spectral_shape[-1], last).expand(self.spectral_shape)
        self.weights = weights.reshape(-1).repeat_interleave(2).to(device)
        self.degrees = self.weights / 2

    def analyse(self, x: Tensor) -> Tensor:
        grid = x.reshape(*x.shape[:-1], *self.event_shape)
        modes: Tensor = torch.fft.rfftn(grid, dim=self._axes, norm="ortho")
        return torch.view_as_real(modes).reshape(*x.shape[:-1], self.num_coords)

    def synthesise(self, z: Tensor) -> Tensor:
        modes = torch.view_as_complex(z.reshape(*z.shape[:-1], *self.spectral_shape, 2).contiguous())
        grid: Tensor = torch.fft.irfftn(modes, s=self.event_shape, dim=self._axes, norm="ortho")
        return grid.reshape(*z.shape[:-1], math.prod(self.event_shape))

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.event_shape), 0))

    def to(self, device: torch.device, dtype: torch.dtype) -> Fourier:
        return Fourier(self.event_shape, device)


class SphericalHarmonics(_Spectral):
    """Spherical harmonics for fields over latitude and longitude, one shell per degree l < lmax, and a tail shell.

    `latitudes` are in degrees, in any order (default: Gauss-Legendre, north first); there are `nlon` equally spaced longitudes.
    States are area-weighted fields sqrt(w) f, with `sqrt_weights` [nlat] of mean square one: white noise is then white on the
    sphere, and on Gauss-Legendre latitudes the basis functions are sqrt(w) Y_lm exactly. On other latitudes, and for fields f
    without weights (`area_weighted` false), the same functions are orthonormalised for each order m (QR, low degrees first).
    Raises ValueError for an lmax that the grid does not resolve.
    """

    def __init__(
        self,
        nlat: int,
        nlon: int,
        lmax: int,
        latitudes: Sequence[float] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float64,
        *,
        area_weighted: bool = True,
    ):
        if not 1 <= lmax <= min(nlat, nlon // 2):
            raise ValueError(f"lmax must be between 1 and min(nlat, nlon // 2) = {min(nlat, nlon // 2)}, got {lmax}")
        self.event_shape: tuple[int, ...] = (nlat, nlon)
        self.lmax, self.latitudes, self.area_weighted = lmax, latitudes, area_weighted
        sine, weights = _latitude_nodes(nlat, latitudes)
        root = np.sqrt(weights / weights.mean()) if area_weighted else np.ones(nlat)
        values = _legendre(lmax, sine) * root
        columns = np.zeros_like(values)
        for m in range(lmax):
            columns[m, m:] = _orthonormal_rows(values[m, m:])
        degree = torch.arange(lmax).expand(lmax, lmax)
        valid = (degree >= degree.T).reshape(-1).to(device)
        # columns of degrees below their order are zero, so any coordinate may stand there
        self._valid, self._places = torch.nonzero(valid).reshape(-1), (valid.cumsum(0) - 1).clamp(min=0)
        self.columns = torch.tensor(columns, dtype=dtype, device=device)
        self.sqrt_weights = torch.tensor(root, dtype=dtype, device=device)
        size = nlat * nlon
        head = degree.reshape(-1).to(device)[self._valid].repeat_interleave(2)
        self.num_coords, self.num_shells = len(head) + size, lmax + 1
        self.shells = torch.cat([head, torch.full((size,), lmax, device=device)])
        weight = _half_spectrum(nlon // 2 + 1, nlon)[:lmax].repeat_interleave(lmax).to(device)[self._valid].repeat_interleave(2)
        tail = torch.full((size,), 1 - float(weight.sum()) / 2 / size, device=device)
        self.weights = torch.cat([weight, torch.ones(size, device=device)])
        self.degrees = torch.cat([weight / 2, tail])

    def analyse(self, x: Tensor) -> Tensor:
        head = self.head(x)
        return torch.cat([head, x - self.field(head)], dim=-1)

    def synthesise(self, z: Tensor) -> Tensor:
        size = math.prod(self.event_shape)
        return self.field(z[..., :-size]) + z[..., -size:]

    def to(self, device: torch.device, dtype: torch.dtype) -> SphericalHarmonics:
        nlat, nlon = self.event_shape
        return SphericalHarmonics(nlat, nlon, self.lmax, self.latitudes, device, dtype, area_weighted=self.area_weighted)

    def head(self, x: Tensor) -> Tensor:
        """Return the coordinates of degrees below lmax alone, without the tail."""
        grid = x.reshape(-1, *self.event_shape)
        waves = torch.view_as_real(torch.fft.rfft(grid, dim=-1, norm="ortho")[..., : self.lmax])
        each = waves.permute(2, 0, 3, 1).reshape(self.lmax, -1, self.event_shape[0])
        modes = torch.bmm(each, self.columns.mT).reshape(self.lmax, len(grid), 2, -1).permute(1, 0, 3, 2)
        return modes.reshape(len(grid), -1, 2).index_select(1, self._valid).reshape(*x.shape[:-1], -1)

    def field(self, head: Tensor) -> Tensor:
        """Return the states of these coordinates, without the tail."""
        flat = head.reshape(-1, len(self._valid), 2).movedim(0, 1)
        modes = flat.flatten(1).index_select(0, self._places).reshape(self.lmax, self.lmax, -1)
        waves = torch.bmm(modes.mT, self.columns).reshape(self.lmax, flat.shape[1], 2, -1)
        each = torch.complex(waves[:, :, 0], waves[:, :, 1]).movedim(0, -1)
        grid: Tensor = torch.fft.irfft(each, n=self.event_shape[1], dim=-1, norm="ortho")
        return grid.reshape(*head.shape[:-1], -1)


def _latitude_nodes(nlat: int, latitudes: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return sines and area weights of latitudes in degrees, by default Gauss-Legendre latitudes, north first."""
    nodes, weights = np.polynomial.legendre.leggauss(nlat)
    if latitudes is None:
        return nodes[::-1].copy(), weights[::-1].copy()
    if len(latitudes) != nlat:
        raise ValueError(f"got {len(latitudes)} latitudes for nlat = {nlat}")
    sine = np.sin(angle := np.deg2rad(np.asarray(latitudes, dtype=np.float64)))
    if np.abs(np.sort(sine) - nodes).max() < 1e-5:
        return sine, np.interp(sine, nodes, weights)
    return sine, np.cos(angle).clip(min=1e-6)


def _legendre(lmax: int, sine: np.ndarray) -> np.ndarray:
    """Return orthonormal associated Legendre functions P_l^m, [m, l, latitude], by the stable three-term recurrence in l."""
    cosine = np.sqrt(1 - sine**2)
    values = np.zeros((lmax, lmax, len(sine)))
    values[0, 0] = np.sqrt(1 / (4 * np.pi))
    for m in range(1, lmax):
        values[m, m] = -np.sqrt((2 * m + 1) / (2 * m)) * cosine * values[m - 1, m - 1]
    for m in range(lmax - 1):
        values[m, m + 1] = np.sqrt(2 * m + 3) * sine * values[m, m]
    for m in range(lmax):
        for degree in range(m + 2, lmax):
            a = np.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            b = np.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
            values[m, degree] = a * (sine * values[m, degree - 1] - b * values[m, degree - 2])
    return values


def _orthonormal_rows(rows: np.ndarray) -> np.ndarray:
    """Orthonormalise rows in their order, keeping their signs."""
    q, r = np.linalg.qr(rows.T)
    return (q * np.sign(np.diag(r))).T
