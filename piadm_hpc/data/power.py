"""Power of fields by wavenumber: around the globe, row by row, and of a region, in cosines."""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn


def zonal_power(fields: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Mean one-sided power per zonal wavenumber, [nlon // 2 + 1], of fields [samples, lat, lon].

    Rows are weighted by `area` [lat]; the powers add up to the area-weighted mean square of the fields.
    """
    nlon = fields.shape[-1]
    power = np.abs(np.fft.rfft(fields, axis=-1) / nlon) ** 2
    power[..., 1 : (nlon + 1) // 2] *= 2
    weighted: np.ndarray = np.einsum("nyk,y->k", power, area / area.sum()) / len(fields)
    return weighted


def cosine_power(fields: np.ndarray) -> np.ndarray:
    """Mean power per wavenumber, [k + 1] with k the shorter side, of fields [samples, rows, columns] of a region.

    Fields are developed into cosines, which end with no slope at the edges, so that a trend across the region does not leak
    into small scales as in a Fourier series (Denis, Cote and Laprise 2002, doi:10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2).
    A mode of m and n half waves along rows and columns counts for the wavenumber k of the ellipse k / min(rows, columns)
    <= sqrt((m / rows)^2 + (n / columns)^2), and the last wavenumber has all beyond. The powers add up to the mean square.
    """
    rows, columns = fields.shape[-2:]
    power = dctn(fields, axes=(-2, -1), norm="ortho") ** 2 / (rows * columns)
    shorter = min(rows, columns)
    ellipse = np.hypot(np.arange(rows)[:, None] / rows, np.arange(columns) / columns) * shorter
    number = np.floor(ellipse + 1e-9).astype(int).clip(max=shorter)  # rounding must not move a wave into the ellipse before
    found: np.ndarray = np.bincount(number.ravel(), weights=power.mean(0).ravel(), minlength=shorter + 1)
    return found
