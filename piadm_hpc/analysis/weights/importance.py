"""Importance weights and how far they can be trusted: effective sample size, Pareto diagnostic, resampling, bootstrap."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BOOTSTRAPS = 200
LARGEST_SHAPE = 0.7  # of the Pareto diagnostic, above which averages are not reliable (Vehtari et al. 2024)
FEWEST_EFFECTIVE = 100


@dataclass(frozen=True)
class Importance:
    """Logarithms of importance weights [n], up to a constant, with the diagnostics of their tail.

    Attributes:
        log_weight: logarithms of the raw weights, the largest is zero; -inf for a sample that the target excludes.
        smoothed: the same with the largest weights replaced by quantiles of the fitted Pareto tail (PSIS).
        shape: k-hat, the shape of that tail: weights of a target of finite variance have at most 0.5.
        log_mean: logarithm of the mean raw weight, an estimate of the target's normalising constant.
    """

    log_weight: np.ndarray
    smoothed: np.ndarray
    shape: float
    log_mean: float

    @classmethod
    def of(cls, logs: np.ndarray) -> Importance:
        """Diagnose log-weights [n]. Raises ValueError when fewer than five are finite, or one is NaN or +inf."""
        logs = np.asarray(logs, dtype=np.float64)
        finite = np.isfinite(logs)
        wrong = int((np.isnan(logs) | (logs == np.inf)).sum())
        if wrong or finite.sum() < 5:
            raise ValueError(f"log-weights: {wrong} of {len(logs)} are NaN or infinite, {int(finite.sum())} are usable")
        largest = float(logs.max())
        smoothed = np.full_like(logs, -np.inf)
        smoothed[finite], shape = _smoothed(logs[finite])
        mean = float(np.log(np.exp(logs - largest).mean()) + largest)
        return cls(logs - largest, smoothed - smoothed.max(), shape, mean)

    @property
    def effective(self) -> float:
        """The effective sample size (Kish 1965) as a share of the samples."""
        weight = normalised(self.log_weight)
        return float(1 / (weight**2).sum() / len(weight))

    @property
    def warnings(self) -> list[str]:
        """Reasons not to trust averages with these weights; empty when there are none."""
        found, number = [], self.effective * len(self.log_weight)
        if not self.shape <= LARGEST_SHAPE:
            found.append(f"k-hat = {self.shape:.2f} exceeds {LARGEST_SHAPE}: a few samples carry the averages; do not trust them")
        if number < FEWEST_EFFECTIVE:
            found.append(f"the weights are worth {number:.0f} samples, fewer than {FEWEST_EFFECTIVE}: draw more samples")
        return found


def normalised(logs: np.ndarray) -> np.ndarray:
    """Return the weights [n] that sum to one."""
    weight = np.exp(logs - logs.max())
    return np.asarray(weight / weight.sum())


def resampled(logs: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Return how often each sample [n] occurs among `count` equally weighted ones, by systematic resampling.

    Kitagawa 1996: a sample of weight w occurs floor(count w) or ceil(count w) times.
    """
    at = (np.arange(count) + np.random.default_rng(seed).random()) / count
    cumulative = np.cumsum(normalised(logs))
    cumulative[-1] = 1.0
    return np.bincount(np.searchsorted(cumulative, at), minlength=len(logs))


def bootstrap(estimate: Callable[[np.ndarray], np.ndarray], count: int, *, seed: int = 0) -> np.ndarray:
    """Return the standard error of an estimate from multiplicities [count] of independent samples, by the bootstrap."""
    generator = np.random.default_rng(seed)
    each = np.full(count, 1 / count)
    found = [estimate(generator.multinomial(count, each)) for _ in range(BOOTSTRAPS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an estimate that is never defined has no error either
        return np.asarray(np.nanstd(found, axis=0))


def _smoothed(logs: np.ndarray) -> tuple[np.ndarray, float]:
    """Return Pareto-smoothed log-weights [n] and the shape k-hat of their tail (Vehtari et al. 2024), by arviz."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from arviz import psislw
    except ImportError:
        raise ValueError("the diagnostics of weights need arviz: pip install 'piadm_hpc[weights]'") from None
    if np.ptp(logs) == 0:
        return logs - logs.max(), 0.0  # equal weights have no tail
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smoothed, shape = psislw(logs)  # type: ignore[no-untyped-call]
    return np.asarray(smoothed), float(shape)
