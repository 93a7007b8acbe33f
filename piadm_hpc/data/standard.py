"""The standardisation of fields: the mask of points with data, the climatology, and the scale of deviations from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np

from .reading import RawFields

log = logging.getLogger(__name__)


def static_mask(values: np.ndarray, max_missing: float) -> tuple[np.ndarray, np.ndarray]:
    """The mask of points with data [channels, *grid], and which of the fields [samples, channels, *grid] are complete [samples].

    Raises ValueError if nothing is left of the grid or of the samples.
    """
    missing = ~np.isfinite(values)
    mask = missing.mean(0) <= max_missing
    if not mask.any():
        raise ValueError("every grid point is missing in too many samples; nothing is left to train on (see max_missing)")
    whole = ~(missing & mask).reshape(len(values), -1).any(1)
    if not whole.any():
        raise ValueError(
            f"every sample has gaps of its own beyond the {int((~mask).sum())} points that are always missing; "
            "lower max_missing so that such points are masked"
        )
    if not whole.all():
        log.warning("%d of %d samples have gaps beyond the static mask and are left out", (~whole).sum(), len(whole))
    return mask, whole


def seasons_of(raw: RawFields) -> np.ndarray:
    """The index of the climatology for each sample: 0 for January to 11 for December."""
    if isinstance(raw.dates, str):
        raise ValueError(
            f'anomaly = "monthly" needs a sample dimension with calendar dates, and {raw.dates}; write times as '
            '"days since 2000-01-01" with a CF calendar, or use anomaly = "mean"'
        )
    return raw.dates.month - 1


def climatology_of(values: np.ndarray, train: np.ndarray, season: np.ndarray, seasons: int) -> np.ndarray:
    """Mean training field of every season [seasons, channels, *grid], NaN for seasons without data."""
    absent = sorted(set(season.tolist()) - set(season[train].tolist()))
    if absent:
        months = [k + 1 for k in absent]
        raise ValueError(f"no training samples in month(s) {months}, so their climatology is unknown; hold out fewer")
    means = np.full((seasons, *values.shape[1:]), np.nan)
    for k in np.unique(season[train]):
        means[k] = values[train[season[train] == k]].mean(0, dtype=np.float64)
    return means


def scale_of(
    centred: np.ndarray, mask: np.ndarray, labels: Sequence[str], kind: Literal["pointwise", "global"], floor: float
) -> np.ndarray:
    """Standard deviation [channels, *grid], floored at a fraction of its global rms: the physical size of a state of one."""
    spread = np.sqrt((centred**2).mean(0, dtype=np.float64))
    rms = np.array([np.sqrt((s[m] ** 2).mean()) if m.any() else 0.0 for s, m in zip(spread, mask, strict=True)])
    empty = [label for label, m in zip(labels, mask, strict=True) if not m.any()]
    if empty:
        raise ValueError(
            f"{', '.join(empty)} is missing at every point in more samples than max_missing allows; raise max_missing, so that "
            "these samples are left out, or leave it out of the recipe"
        )
    flat = [label for label, r in zip(labels, rms, strict=True) if not r > 0]
    if flat:
        raise ValueError(
            f"{', '.join(flat)} does not vary between the {len(centred)} training samples; there is nothing to learn"
            ' (with anomaly = "monthly" a calendar month needs several of them)'
        )
    level = np.broadcast_to(rms.reshape(-1, *[1] * (spread.ndim - 1)), spread.shape)
    return level.copy() if kind == "global" else np.maximum(spread, floor * level)


def area_weighted(scale: np.ndarray, latitudes: Sequence[float]) -> np.ndarray:
    """The scale [channels, lat, lon] of fields that are weighted by the root of the area of their cells."""
    # imported here because few models need the sphere's quadrature
    from ..theory.bases import SphericalHarmonics

    nlat, nlon = scale.shape[1:]
    weighted: np.ndarray = scale / SphericalHarmonics(nlat, nlon, 1, latitudes).sqrt_weights.numpy()[:, None]
    return weighted
