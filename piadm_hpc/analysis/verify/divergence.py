"""Divergence of two samples of a pair of coordinates, and the part of it that is due to finite sampling."""

from __future__ import annotations

from itertools import combinations

import numpy as np

BLOCKS = 8  # contiguous parts of a series


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms in bits: 0 for the same, 1 for disjoint ones."""
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2

    def entropy_from(a: np.ndarray) -> float:
        occupied = a > 0
        return float((a[occupied] * np.log2(a[occupied] / middle[occupied])).sum())

    return (entropy_from(p) + entropy_from(q)) / 2


def histogram(points: np.ndarray, weight: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Probabilities of points [n, 2] on a grid of bins."""
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=edges, weights=weight)[0]
    return np.asarray(counts / counts.sum())


def baseline(
    points: np.ndarray, weight: np.ndarray, edges: tuple[np.ndarray, np.ndarray], count: int, *, seed: int = 0
) -> tuple[float, float]:
    """Divergence between two halves of a series' blocks, as mean and standard deviation over all choices of halves.

    From one half `count` points are drawn by weight, or all of them if there are no more, and compared with the other half.
    Few samples diverge from any reference, so the number of points of the reference must be the same.
    """
    generator = np.random.default_rng(seed)
    cuts = np.array_split(np.arange(len(points)), BLOCKS)
    parts = np.stack([np.histogram2d(points[cut, 0], points[cut, 1], edges, weights=weight[cut])[0] for cut in cuts])
    divergences = []
    for half in (list(half) for half in combinations(range(BLOCKS), BLOCKS // 2) if 0 in half):
        own = np.concatenate([cuts[k] for k in half])
        share = weight[own] / weight[own].sum()
        drawn = parts[half].sum(0)
        if count < 1 / (share**2).sum():  # the effective number of the half's points (Kish 1965)
            chosen = generator.choice(own, count, p=share)
            drawn = np.histogram2d(points[chosen, 0], points[chosen, 1], edges)[0]
        divergences.append(divergence(drawn, parts.sum(0) - parts[half].sum(0)))
    return float(np.mean(divergences)), float(np.std(divergences))
