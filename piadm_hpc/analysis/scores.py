"""Scores of generated fields against real ones: means, spreads, patterns and spectra, each with its sampling error.

Means and patterns leave out points that are missing in any sample (such as land in fields of the sea). Spectra need
whole rows, so there a missing point counts as no deviation from the mean of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..data.grids import row_shares
from .spectra import band_ratios, power_of

CHUNK_BYTES = 2**27


@dataclass(frozen=True)
class Reference:
    """Statistics of the real fields of one variable, in physical units.

    `mean` and unbiased `std` [lat, lon] (NaN where there are no data), `power` [k] of deviations from `mean` by wavenumber of
    the `transform`, `area_means` [count] of all fields, and `weights` [lat] of rows, which sum to one.
    """

    label: str
    mean: np.ndarray
    std: np.ndarray
    power: np.ndarray
    area_means: np.ndarray
    weights: np.ndarray
    transform: str | None = "zonal"

    @property
    def count(self) -> int:
        return len(self.area_means)


@dataclass(frozen=True)
class Ensemble:
    """Fields relative to a reference: `deviations` [n, lat, lon] from its mean, and their `power` [n, k] and `area_means` [n]."""

    deviations: np.ndarray
    power: np.ndarray
    area_means: np.ndarray


@dataclass(frozen=True)
class Moments:
    """The moments that scores are computed from, for B sets of fields.

    `shift` [B, lat, lon] is the difference of means from the reference, `std` [B, lat, lon] is unbiased, `power` [B, k] is a
    mean over fields, and `area_mean` and `area_spread` [B] are mean and standard deviation of the area means.
    """

    shift: np.ndarray
    std: np.ndarray
    power: np.ndarray
    area_mean: np.ndarray
    area_spread: np.ndarray


def row_weights(dataset: xr.Dataset, dim: str) -> np.ndarray:
    """Share of the area in each row of a dataset's dimension: as stored in `cell_weight` where it is, else by latitude."""
    if "cell_weight" in dataset and dataset["cell_weight"].dims == (dim,):
        stored = dataset["cell_weight"].values.astype(np.float64)
        share: np.ndarray = stored / stored.sum()
        return share
    return row_shares(dim, dataset[dim].values, dataset[dim].attrs)


def area_mean(fields: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area-weighted mean over points with data: [..., lat, lon] -> [...]; NaN without any."""
    area = np.where(np.isfinite(fields), weights[:, None], 0)
    total = area.sum((-2, -1))
    return _ratio((np.nan_to_num(fields) * area).sum((-2, -1)), total)


def pattern_correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area-weighted, centred correlation of fields [..., lat, lon] over their common points; NaN if one is constant."""
    a, b = _common(a, b)
    a = a - area_mean(a, weights)[..., None, None]
    b = b - area_mean(b, weights)[..., None, None]
    scale = np.sqrt(area_mean(a**2, weights) * area_mean(b**2, weights))
    return _ratio(area_mean(a * b, weights), scale)


def amplitude_ratio(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Root of the area mean of a^2 over that of b^2, for fields [..., lat, lon] over their common points."""
    a, b = _common(a, b)
    return np.asarray(np.sqrt(_ratio(area_mean(a**2, weights), area_mean(b**2, weights))))


def reference_of(label: str, fields: np.ndarray, weights: np.ndarray, transform: str | None = "zonal") -> Reference:
    """The reference of fields [n, lat, lon], with area weights [lat] and the transform of their spectrum."""
    mean = fields.mean(0, dtype=np.float64)
    power = power_of(fields - mean, weights, transform).mean(0)
    return Reference(label, mean, _std(fields), power, area_mean(_valid(fields), weights), weights, transform)


def ensemble(fields: np.ndarray, reference: Reference) -> Ensemble:
    """Fields [n, lat, lon] relative to a reference on the same grid."""
    deviations = fields.astype(np.float64) - reference.mean
    power = power_of(deviations, reference.weights, reference.transform)
    return Ensemble(deviations, power, area_mean(_valid(deviations), reference.weights) + _common_mean(deviations, reference))


def moments(fields: Ensemble, counts: np.ndarray | None = None) -> Moments:
    """Moments of the fields, or of B resamples in which field i occurs counts[b, i] times (rows add up to n)."""
    n = len(fields.deviations)
    weight = (np.ones((1, n)) if counts is None else counts) / n
    flat = fields.deviations.reshape(n, -1)
    shift = weight @ flat
    average = weight @ fields.area_means
    return Moments(
        shift=shift.reshape(-1, *fields.deviations.shape[1:]),
        std=_spread(weight @ flat**2 - shift**2, n).reshape(-1, *fields.deviations.shape[1:]),
        power=weight @ fields.power,
        area_mean=average,
        area_spread=_spread(((fields.area_means - average[:, None]) ** 2 * weight).sum(1), n),
    )


def scores(sets: Moments, reference: Reference) -> dict[str, np.ndarray]:
    """All scores [B] of B sets of fields against a reference; NaN where a score is not defined."""
    weights = reference.weights
    return {
        "global_mean": sets.area_mean,
        "global_mean_spread": sets.area_spread,
        "mean_field_rms_difference": np.sqrt(area_mean(sets.shift**2, weights)),
        "std_pattern_correlation": pattern_correlation(sets.std, reference.std, weights),
        "std_ratio": amplitude_ratio(sets.std, reference.std, weights),
        **band_ratios(sets.power, reference.power),
    }


def standard_errors(fields: Ensemble, reference: Reference, *, resamples: int = 200, seed: int = 0) -> dict[str, float]:
    """Bootstrap standard errors of the scores: their standard deviation over fields drawn with replacement.

    The reference counts as exact, so these are also the standard errors of differences from it.
    """
    n = len(fields.deviations)
    if n < 2:
        return {}
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    rows = max(1, CHUNK_BYTES // fields.deviations[0].nbytes)
    parts = [scores(moments(fields, counts[start : start + rows]), reference) for start in range(0, resamples, rows)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: float(np.std(values[np.isfinite(values)])) for name, values in drawn.items() if np.isfinite(values).sum() > 1}


def rms(values: np.ndarray) -> float:
    """The root mean square of all values."""
    return float(np.sqrt((values**2).mean()))


def fair_crps(members: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the fair CRPS [m] of members [n, m] at values [m] (Ferro 2014)."""
    try:
        import scoringrules
    except ImportError:
        raise ValueError("CRPS needs scoringrules: pip install 'piadm_hpc[verify]'") from None
    return np.asarray(scoringrules.crps_ensemble(values, members, m_axis=0, estimator="fair"))


def rank_shares(members: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Shares of the weights [m] by the rank, from 0 to n, of values [m] among members [n, m]; NaN without weights."""
    counts = np.bincount((members < values).sum(0), weights=weights, minlength=len(members) + 1)
    return counts / counts.sum() if counts.sum() > 0 else np.full(len(counts), np.nan)


def counted(number: int, thing: str) -> str:
    """`3 fields`, `1 field`."""
    return f"{number} {thing}{'s' * (number != 1)}"


def _common(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both fields with NaN wherever either is missing."""
    both = np.isfinite(a) & np.isfinite(b)
    return np.where(both, a, np.nan), np.where(both, b, np.nan)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is not positive."""
    return np.asarray(np.divide(a, b, out=np.full_like(b, np.nan), where=b > 0))


def _valid(fields: np.ndarray) -> np.ndarray:
    """Fields [n, lat, lon] with NaN at every point that is missing in any of them."""
    return np.where(np.isfinite(fields).all(0), fields, np.nan)


def _common_mean(deviations: np.ndarray, reference: Reference) -> np.ndarray:
    """Area mean of the reference's mean over the points of the deviations, so that both add up to that of the fields."""
    return area_mean(np.where(np.isfinite(deviations).all(0), reference.mean, np.nan), reference.weights)


def _std(fields: np.ndarray) -> np.ndarray:
    """Unbiased pointwise standard deviation; NaN for a single field."""
    return _spread(fields.var(0, dtype=np.float64), len(fields))


def _spread(variance: np.ndarray, n: int) -> np.ndarray:
    """Unbiased standard deviation from the mean square deviation of n values; NaN for a single value."""
    return np.sqrt(np.maximum(variance, 0) * n / (n - 1)) if n > 1 else np.full_like(variance, np.nan)
