"""Covariances of few fields in two parts: that of the sample, and the same localised by distance.

The sample covariance of n fields has rank n - 1 and, between distant points, mostly chance. Times a correlation that falls to
zero with distance (Gaspari and Cohn 1999, equation 4.10; Hamill et al. 2001) it keeps the variance of every point, and has full
rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.spatial import KDTree

SHARES = (0.4, 0.45, 0.5)
"""Shares of the localised covariance that are tried: above them large scales lose power, below them small ones are overfitted."""

NEIGHBOURS = (200, 500)
"""The fewest and the most points, in the mean, within reach of another; between them it is a twentieth of all."""

PAIRS = 60_000_000
"""The most entries of a localised covariance; beyond them every variable is localised for itself, then within less reach."""

OVERSAMPLED, ITERATIONS, TRIED = 60, 2, 300

BLOCK = 200_000
"""Pairs whose covariances are computed at once."""


@dataclass(frozen=True)
class Channels:
    """The `point` [d] and `variable` [d] of every entry, and a rotation [c, c] that leaves variables no mean covariance."""

    point: np.ndarray
    variable: np.ndarray
    rotation: np.ndarray

    @classmethod
    def of(cls, apart: np.ndarray, there: np.ndarray) -> Channels:
        variable, point = np.nonzero(there)
        rotation = np.eye(len(there))
        if len(there) > 1 and (there == there[0]).all():
            fields = apart.reshape(len(apart), len(there), -1)
            _, rotation = np.linalg.eigh(np.einsum("ncd,njd->cj", fields, fields))
        return cls(point, variable, rotation)

    @property
    def turned(self) -> bool:
        return not np.array_equal(self.rotation, np.eye(len(self.rotation)))

    def rotated(self, flat: np.ndarray) -> np.ndarray:
        """States [n, d] with their variables rotated."""
        if not self.turned:
            return flat
        variables = len(self.rotation)
        apart = flat.reshape(len(flat), variables, flat.shape[1] // variables)
        fields: np.ndarray = np.einsum("ncd,cj->njd", apart, self.rotation)
        return fields.reshape(flat.shape)

    def back(self, modes: np.ndarray) -> np.ndarray:
        """Modes [d, k] of rotated variables as those of the variables themselves."""
        if not self.turned:
            return modes
        fields: np.ndarray = np.einsum("jdk,cj->cdk", modes.reshape(len(self.rotation), -1, modes.shape[1]), self.rotation)
        return fields.reshape(modes.shape)


@dataclass(frozen=True)
class Reach:
    """Pairs of entries of a state within reach, by index, and the correlation that their covariance is multiplied with."""

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray


def reach_of(channels: Channels, place: np.ndarray) -> Reach:
    """Pairs of entries of `channels` within reach of each other, for points at `place` [points, k]."""
    variables = len(channels.rotation)
    used = np.unique(channels.point)
    wanted = min(len(used), int(np.clip(len(used) // 20, *NEIGHBOURS)))
    # all pairs of variables where there are few enough, else each with itself: after the rotation these matter most
    together = variables**2 * len(used) * wanted <= PAIRS
    wanted = max(2, min(wanted, PAIRS // (len(used) * variables * (variables if together else 1))))
    tree = KDTree(place[used])
    some = np.random.default_rng(0).choice(len(used), min(200, len(used)), replace=False)
    radius = float(np.median(tree.query(place[used][some], k=[wanted])[0]))
    near = tree.sparse_distance_matrix(tree, max(radius, 1e-12), output_type="coo_matrix")
    entry = np.full((variables, len(place)), -1, dtype=np.int32)  # half the memory of millions of pairs
    entry[channels.variable, channels.point] = np.arange(len(channels.point))
    rows, columns, weights = [], [], []
    taper = gaspari_cohn(near.data / (radius / 2))
    for u in range(variables):
        for v in range(variables) if together else (u,):
            i, j = entry[u, used[near.row]], entry[v, used[near.col]]
            kept = (i >= 0) & (i < j)  # one of every two, and no point with itself
            rows.append(i[kept])
            columns.append(j[kept])
            weights.append(taper[kept])
    return Reach(np.concatenate(rows), np.concatenate(columns), np.concatenate(weights))


def gaspari_cohn(ratio: np.ndarray) -> np.ndarray:
    """Return the correlation of Gaspari and Cohn at distances over the half-width; it is one at 0, and zero from 2 on."""
    near, far = np.minimum(ratio, 1), np.clip(ratio, 1, 2)
    inner = 1 - near**2 * (5 / 3 - near * (5 / 8 + near * (0.5 - near * 0.25)))
    outer = 4 - far * (5 - far * (5 / 3 + far * (5 / 8 - far * (0.5 - far / 12)))) - 2 / (3 * far)
    taper: np.ndarray = np.where(ratio <= 1, inner, np.maximum(outer, 0))
    return taper


@dataclass(frozen=True)
class Covariance:
    """A covariance in two parts: that of fields `apart` [n, d], with n - 1 taken account of, and the same localised."""

    mean: np.ndarray
    apart: np.ndarray
    local: csr_array
    channels: Channels

    @classmethod
    def of(cls, flat: np.ndarray, channels: Channels, reach: Reach) -> Covariance:
        mean = flat.mean(0)
        apart = (channels.rotated(flat - mean) / math.sqrt(len(flat) - 1)).astype(np.float32)
        values = np.empty(len(reach.rows), dtype=np.float32)
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            products = np.einsum("nk,nk->k", apart[:, reach.rows[block]], apart[:, reach.columns[block]])
            values[block] = products * reach.weights[block]
        size = apart.shape[1]
        above = coo_array((values, (reach.rows, reach.columns)), shape=(size, size)).tocsr()
        return cls(mean, apart, csr_array(above + above.T + diags_array((apart**2).sum(0))), channels)

    @property
    def total(self) -> float:
        """The sum of all variances."""
        return float((self.apart.astype(np.float64) ** 2).sum())

    def times(self, share: float, vectors: np.ndarray) -> np.ndarray:
        """Multiply vectors [d, k] by the covariance with a share of the localised part."""
        product: np.ndarray = share * (self.local @ vectors) + (1 - share) * (self.apart.T @ (self.apart @ vectors))
        return product

    def modes(self, share: float, count: int, near: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return leading variances [k], descending, and modes [d, k] by subspace iteration (Halko et al. 2011, algorithm 4.4).

        It starts from `near` [d, j], modes of a similar covariance, and needs one iteration less then.
        """
        size = self.apart.shape[1]
        wide = min(size, count + OVERSAMPLED)
        vectors = np.random.default_rng(0).standard_normal((size, wide), dtype=np.float32)
        if near is not None:
            vectors[:, : near.shape[1]] = near
        for _ in range(ITERATIONS if near is None else ITERATIONS - 1):
            vectors, _ = np.linalg.qr(self.times(share, vectors))
        inner = (vectors.T @ self.times(share, vectors)).astype(np.float64)
        values, rotation = np.linalg.eigh((inner + inner.T) / 2)
        kept = min(count, wide)
        return values[::-1][:kept].clip(min=0), vectors @ rotation[:, ::-1][:, :kept].astype(np.float32)

    def best_share(self, fields: np.ndarray) -> float:
        """The share under which held-out fields [n, d] are likeliest, judged in the leading modes alone."""
        _, modes = self.modes(SHARES[-1], min(TRIED, self.apart.shape[1]))
        sample = (self.apart @ modes).astype(np.float64)
        local = (modes.T @ (self.local @ modes)).astype(np.float64)
        coordinates = self.channels.rotated(fields - self.mean) @ modes

        def surprise(share: float) -> float:
            values, vectors = np.linalg.eigh((1 - share) * sample.T @ sample + share * (local + local.T) / 2)
            values = values.clip(min=1e-9 * values[-1])
            return float((np.log(values) + ((coordinates @ vectors) ** 2).mean(0) / values).sum())

        return min(SHARES, key=surprise)
