"""Two-dimensional turbulence on a beta plane: a chaotic system whose fields are computed by one page of code.

    python barotropic.py six_hours.nc --days 500                                    # 64 x 64 points, every six hours
    python barotropic.py wide.nc --points 256 --days 240 --every 4 --patches 64        # windows of a domain four times as wide

The vorticity q of a doubly periodic square follows

    dq/dt + J(psi, q) + beta dpsi/dx = G q + F - drag q - viscosity k^8 q,   laplacian(psi) = q,

where G lets the wavenumbers from 5 to 7 grow until they saturate, and F, white in time, stirs them. Lengths are such that 64
points are 2 pi, and time is in days: the vorticity is about 3 a day, and two forecasts that differ by little part by a factor
of e in about two days.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from scipy import fft

SPACING = 2 * np.pi / 64  # of the points
START = np.datetime64("2000-01-01T00", "ns")


@dataclass(frozen=True)
class Barotropic:
    """The turbulence on `points` x `points`, in days and in units of which 64 points are 2 pi.

    Attributes:
        stirring: vorticity that the forcing adds in a day, root mean square.
        growth: rate at which the wavenumbers that are stirred grow in a fluid nearly at rest, in place of friction.
        saturation: root mean square of the vorticity at which they no longer grow.
        beta: gradient of the planetary vorticity along y.
        drag: rate at which friction removes vorticity.
        damping: rate at which the viscosity removes the largest wavenumber that is kept.
        step: time step.
    """

    points: int = 64
    stirring: float = 1.4
    growth: float = 1.2
    saturation: float = 9.0
    beta: float = 2.0
    drag: float = 0.3
    damping: float = 80.0
    step: float = 1 / 48

    @cached_property
    def wavenumbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Wavenumbers along y [points, 1] and x [1, columns]."""
        lowest = 64 / self.points
        along_y = fft.fftfreq(self.points, 1 / self.points) * lowest
        return along_y[:, None], fft.rfftfreq(self.points, 1 / self.points)[None] * lowest

    @cached_property
    def square(self) -> np.ndarray:
        """The squared wavenumber, [points, columns]."""
        l, k = self.wavenumbers  # noqa: E741
        return np.asarray(k**2 + l**2)

    @cached_property
    def kept(self) -> np.ndarray:
        """One for wavenumbers whose products are not aliased (two thirds of those of the grid), else zero."""
        l, k = self.wavenumbers  # noqa: E741
        return ((np.abs(k) < 64 / 3) & (np.abs(l) < 64 / 3)).astype(np.float32)

    def tendency(self, q: np.ndarray) -> np.ndarray:
        """Return the rate of change of the spectrum q [..., points, columns] but for friction and forcing."""
        l, k = self.wavenumbers  # noqa: E741
        psi = -q / np.where(self.square > 0, self.square, np.inf)
        parts = np.stack([-1j * l * psi, 1j * k * psi, 1j * k * q, 1j * l * q])
        u, v, along_x, along_y = fft.irfft2(parts, s=(self.points, self.points))
        return np.asarray(-self.kept * fft.rfft2(u * along_x + v * along_y) - self.beta * 1j * k * psi)

    def friction(self, q: np.ndarray) -> np.ndarray:
        """Return the factor by which friction and growth change every wavenumber of the spectrum q in a step."""
        squares = 2 * np.abs(q) ** 2
        squares[:, [0, -1]] /= 2
        growth = self.growth * (1 - squares.sum() / self.points**4 / self.saturation**2)
        viscous = self.damping * (self.square / (64 / 3) ** 2) ** 4
        rate = np.where(self.ring, -growth, self.drag) + viscous
        return np.asarray(self.kept * np.exp(-self.step * rate), dtype=np.float32)

    @cached_property
    def ring(self) -> np.ndarray:
        """Which wavenumbers grow and are stirred, [points, columns]."""
        return (self.square >= 5**2) & (self.square <= 7**2)

    def stirred(self, generator: np.random.Generator, like: np.ndarray) -> np.ndarray:
        """Return what the forcing adds to a spectrum in one step."""
        white = fft.rfft2(generator.standard_normal((*like.shape[:-2], self.points, self.points), dtype=np.float32))
        share = np.count_nonzero(self.ring & (self.wavenumbers[1] > 0)) * 2 / self.points**2
        return np.asarray(white * self.ring * self.stirring * np.sqrt(self.step / share))

    def advance(self, q: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
        """Take one step of the spectrum q by the third-order Runge-Kutta scheme of Heun; None means no forcing."""
        first = self.tendency(q)
        second = self.tendency(q + self.step / 3 * first)
        third = self.tendency(q + self.step * 2 / 3 * second)
        moved = (q + self.step / 4 * (first + 3 * third)) * self.friction(q)
        return np.asarray(moved if generator is None else moved + self.stirred(generator, q), dtype=np.complex64)

    def fields(self, count: int, every: int, seed: int, spin_up: int = 100) -> Iterator[np.ndarray]:
        """Yield `count` fields of vorticity [points, points], `every` steps apart, after `spin_up` days."""
        generator = np.random.default_rng(seed)
        q = np.zeros((self.points, self.points // 2 + 1), dtype=np.complex64)
        for _ in range(round(spin_up / self.step)):
            q = self.advance(q, generator)
        for _ in range(count):
            for _ in range(every):
                q = self.advance(q, generator)
            yield fft.irfft2(q, s=(self.points, self.points))


def dataset(fields: np.ndarray, every: float) -> xr.Dataset:
    """Return fields [time, y, x], `every` days apart, with dates and with coordinates in points."""
    times = START + (np.arange(len(fields)) * every * 86400e9).astype("timedelta64[ns]")
    axes = {name: np.arange(size, dtype=np.float64) for name, size in zip("yx", fields.shape[1:], strict=True)}
    vorticity = xr.DataArray(fields.astype(np.float32), {"time": times, **axes}, ("time", "y", "x"))
    vorticity.attrs = {"units": "day-1", "long_name": "vorticity"}
    return xr.Dataset({"vorticity": vorticity})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="NetCDF file to write")
    parser.add_argument("--points", type=int, default=64, help="points along each side of the domain")
    parser.add_argument("--days", type=float, default=500)
    parser.add_argument("--every", type=float, default=0.25, help="days between fields")
    parser.add_argument("--patches", type=int, help="write windows of this many points instead of the whole domain")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    world = Barotropic(given.points)
    found = world.fields(round(given.days / given.every), round(given.every / world.step), given.seed)
    fields, every = np.stack(list(found)), given.every
    if given.patches is not None:
        n, side = given.points // given.patches, given.patches
        fields = fields.reshape(len(fields), n, side, n, side).swapaxes(2, 3).reshape(-1, side, side)
        every /= n**2
    dataset(fields, every).to_netcdf(given.file)
    print(f"{given.file}: {len(fields)} fields, vorticity {fields.std():.2f} a day")


if __name__ == "__main__":
    main()
