"""How far two samples of a pair of coordinates are apart, and how far sampling alone takes them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

BLOCKS = 8  # contiguous parts of a series


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms in bits: 0 for the same, 1 for disjoint ones."""
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2

    def entropy_from(a: np.ndarray) -> float:
        there = a > 0
        return float((a[there] * np.log2(a[there] / middle[there])).sum())

    return (entropy_from(p) + entropy_from(q)) / 2


def histogram(points: np.ndarray, weight: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Probabilities of points [n, 2] on a grid of bins."""
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=edges, weights=weight)[0]
    return np.asarray(counts / counts.sum())


def baseline(
    points: np.ndarray, weight: np.ndarray, edges: tuple[np.ndarray, np.ndarray], count: int, *, seed: int = 0
) -> tuple[float, float]:
    """The divergence that sampling alone makes, as mean and standard deviation over all ways to halve a series in blocks.

    Of one half `count` points are drawn by weight, or all taken where it has no more, and compared with the other half:
    few samples are far from any reference, and have to be judged by as few points of the reference itself.
    """
    generator = np.random.default_rng(seed)
    cuts = np.array_split(np.arange(len(points)), BLOCKS)
    parts = np.stack([np.histogram2d(points[cut, 0], points[cut, 1], edges, weights=weight[cut])[0] for cut in cuts])
    found = []
    for half in (list(half) for half in combinations(range(BLOCKS), BLOCKS // 2) if 0 in half):
        own = np.concatenate([cuts[k] for k in half])
        share = weight[own] / weight[own].sum()
        drawn = parts[half].sum(0)
        if count < 1 / (share**2).sum():  # the effective number of the half's points (Kish 1965)
            chosen = generator.choice(own, count, p=share)
            drawn = np.histogram2d(points[chosen, 0], points[chosen, 1], edges)[0]
        found.append(divergence(drawn, parts.sum(0) - parts[half].sum(0)))
    return float(np.mean(found)), float(np.std(found))
