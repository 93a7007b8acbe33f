"""Power of fields by scale, with the transform that suits their grid."""

from __future__ import annotations

import numpy as np

from ..data.power import cosine_power, zonal_power

BANDS: tuple[tuple[int, int | None], ...] = ((1, 5), (6, 20), (21, None))
"""Wavenumbers over which spectra are compared, both ends included."""


def power_of(fields: np.ndarray, weights: np.ndarray, transform: str | None) -> np.ndarray:
    """The power of every field [n, rows, columns] by wavenumber, [n, k]; [n, 0] for a grid without a transform.

    "zonal" is of Fourier series along the rows, weighted by their area; "cosine" of two-dimensional cosine series, whose
    wavenumber counts half waves across the shorter side. Missing values count as zero.
    """
    if transform is None:
        return np.empty((len(fields), 0))
    measure = cosine_power if transform == "cosine" else lambda one: zonal_power(one, weights)
    return np.stack([measure(np.nan_to_num(one)[None]) for one in fields])


def band_name(low: int, high: int | None) -> str:
    """The name of the score for wavenumbers from low to high; None means no upper end."""
    return f"power_ratio_{low}_{high or 'up'}"


def band_ratios(power: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """Geometric mean of power [..., k] over reference [k] in every band of BANDS that the grid resolves."""
    ratios: dict[str, np.ndarray] = {}
    for low, high in BANDS:
        band = slice(low, None if high is None else high + 1)
        own, other = power[..., band], reference[band]
        if len(other) and (other > 0).all():
            with np.errstate(divide="ignore"):
                ratios[band_name(low, high)] = np.exp(np.log(own / other).mean(-1))
    return ratios
