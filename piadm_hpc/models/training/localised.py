"""Many empirical orthogonal functions from few fields on any grid, with gaps or several variables: localised covariances.

The sample covariance of n fields has rank n - 1, and between distant points it is mostly noise. It is mixed with itself times a
correlation that falls to zero with distance (Gaspari and Cohn 1999, equation 4.10; Hamill et al. 2001): every point keeps its
own variance and its own small scales, there are as many modes as wanted, and hardly anything is left to white noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.spatial import KDTree
from torch import Tensor

from ...gaussian.masked import MaskedEOF
from ...gaussian.reference import GaussianReference
from ...theory.bases import EOF

SHARES = (0.4, 0.45, 0.5)
"""Shares of the localised covariance that are tried: above them large scales lose power, below them small ones are overfitted."""

NEIGHBOURS = (200, 500)
"""The fewest and the most points, in the mean, within reach of another; between them it is a twentieth of all."""

PAIRS = 60_000_000
"""The most entries of a localised covariance; beyond them every variable is localised for itself, then within less reach."""

NUMBERS = 2**26
"""The most numbers in all modes: 256 MB in single precision."""

OVERSAMPLED, ITERATIONS, TRIED = 60, 2, 300

BLOCK = 200_000
"""Pairs whose covariances are computed at once."""

GRAINY = 0.022
"""The largest share of the variance that fewer modes than there are may leave to white noise."""


def fit_localised_eof(
    train: Tensor, validation: Tensor, places: np.ndarray, mask: Tensor | None = None, count: int = 1000
) -> GaussianReference:
    """Fit a reference of at most `count` modes to fields [n, *event] float64, variables before points.

    `places` [points, k] are the positions of points; only distances count, so a periodic direction is mapped to a circle. `mask`
    [*event] is true where there are data. Held-out fields choose the share of the localised covariance; without any the last
    fifth of the training fields does. Raises ValueError for fields that are not on the grid of `places`, and for fewer than
    five.
    """
    size, points = math.prod(train.shape[1:]), len(places)
    if size % points or len(train) < 5:
        raise ValueError(f"basis 'smooth' needs 5 or more fields on a grid of {points} points, got {len(train)} of {size} values")
    there = np.ones(size, dtype=bool) if mask is None else mask.numpy().ravel()
    flat = train.flatten(1).numpy()[:, there]
    held = validation.flatten(1).numpy()[:, there]
    mean = flat.mean(0)
    channels = _Channels.of(flat - mean, there.reshape(-1, points))
    reach = _reach(channels, places)
    kept = len(flat) if len(held) else len(flat) - max(1, len(flat) // 5)
    probe = _Covariance.of(flat[:kept], channels, reach)
    share = probe.best_share(held if len(held) else flat[kept:])
    covariance = probe if kept == len(flat) else _Covariance.of(flat, channels, reach)
    variances, modes = covariance.modes(share, max(1, min(count, NUMBERS // size)))
    rank, tail = _rank(covariance, variances, modes, held)
    variances, modes = variances[:rank], modes[:, :rank]
    spectrum = torch.cat([torch.from_numpy(variances), torch.full((1,), tail, dtype=torch.float64)])
    columns = torch.zeros(size, len(variances), dtype=torch.float64)
    columns[torch.from_numpy(there)] = torch.from_numpy(channels.back(modes)).to(torch.float64)
    event = tuple(train.shape[1:])
    if mask is None:
        return GaussianReference(train.flatten(1).mean(0), EOF(columns, event), spectrum)
    basis = MaskedEOF(columns, event, mask.flatten())
    return GaussianReference(train.flatten(1).mean(0), basis, torch.cat([spectrum, torch.zeros(1, dtype=torch.float64)]))


def _rank(covariance: _Covariance, variances: np.ndarray, modes: np.ndarray, held: np.ndarray) -> tuple[int, float]:
    """The number of modes that maximises the likelihood of held-out fields, and the variance of every other direction.

    All variances add up to the fields'. Only a small share of them may be left to white noise, which is grainy.
    """
    size = len(modes)
    inside = np.square(covariance.channels.rotated(held - covariance.mean) @ modes).mean(0) if len(held) else variances
    whole = float(np.square(held - covariance.mean).sum(1).mean()) if len(held) else covariance.total

    def tail(rank: int) -> float:
        return max(0.0, covariance.total - float(variances[:rank].sum())) / max(1, size - rank)

    def surprise(rank: int) -> float:
        head = (np.log(variances[:rank]) + inside[:rank] / variances[:rank]).sum()
        rest = (size - rank) * np.log(tail(rank)) + (whole - inside[:rank].sum()) / tail(rank) if rank < size else 0.0
        return float(head + rest)

    ranks = [
        r for r in range(10, len(variances), 10) if 0 < tail(r) * (size - r) < GRAINY * covariance.total and variances[r] > 0
    ]
    most = int((variances > 1e-9 * variances[0]).sum())
    best = min((r for r in ranks if r <= most), key=surprise, default=most) if len(held) else most
    return best, tail(best)


@dataclass(frozen=True)
class _Channels:
    """The `point` [d] and `variable` [d] of every entry, and a rotation [c, c] that leaves variables no mean covariance."""

    point: np.ndarray
    variable: np.ndarray
    rotation: np.ndarray

    @classmethod
    def of(cls, apart: np.ndarray, there: np.ndarray) -> _Channels:
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
        fields: np.ndarray = np.einsum("ncd,cj->njd", flat.reshape(len(flat), len(self.rotation), -1), self.rotation)
        return fields.reshape(flat.shape)

    def back(self, modes: np.ndarray) -> np.ndarray:
        """Modes [d, k] of rotated variables as those of the variables themselves."""
        if not self.turned:
            return modes
        fields: np.ndarray = np.einsum("jdk,cj->cdk", modes.reshape(len(self.rotation), -1, modes.shape[1]), self.rotation)
        return fields.reshape(modes.shape)


@dataclass(frozen=True)
class _Reach:
    """Pairs of entries of a state within reach, by index, and the correlation that their covariance is multiplied with."""

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray


def _reach(channels: _Channels, place: np.ndarray) -> _Reach:
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
            kept = (i >= 0) & (j >= 0)
            rows.append(i[kept])
            columns.append(j[kept])
            weights.append(taper[kept])
    return _Reach(np.concatenate(rows), np.concatenate(columns), np.concatenate(weights))


def gaspari_cohn(ratio: np.ndarray) -> np.ndarray:
    """Return the correlation of Gaspari and Cohn at distances over the half-width; it is one at 0, and zero from 2 on."""
    near, far = np.minimum(ratio, 1), np.clip(ratio, 1, 2)
    inner = 1 - near**2 * (5 / 3 - near * (5 / 8 + near * (0.5 - near * 0.25)))
    outer = 4 - far * (5 - far * (5 / 3 + far * (5 / 8 - far * (0.5 - far / 12)))) - 2 / (3 * far)
    taper: np.ndarray = np.where(ratio <= 1, inner, np.maximum(outer, 0))
    return taper


@dataclass(frozen=True)
class _Covariance:
    """A covariance in two parts: that of fields `apart` [n, d], with n - 1 taken account of, and the same localised."""

    mean: np.ndarray
    apart: np.ndarray
    local: csr_array
    channels: _Channels

    @classmethod
    def of(cls, flat: np.ndarray, channels: _Channels, reach: _Reach) -> _Covariance:
        mean = flat.mean(0)
        apart = (channels.rotated(flat - mean) / math.sqrt(len(flat) - 1)).astype(np.float32)
        values = np.empty(len(reach.rows), dtype=np.float32)
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            products = np.einsum("nk,nk->k", apart[:, reach.rows[block]], apart[:, reach.columns[block]])
            values[block] = products * reach.weights[block]
        size = apart.shape[1]
        local = coo_array((values, (reach.rows, reach.columns)), shape=(size, size)).tocsr()
        # a point's distance to itself is no entry of a sparse matrix of distances
        variance = (apart**2).sum(0) - local.diagonal()
        return cls(mean, apart, csr_array(local + diags_array(variance)), channels)

    @property
    def total(self) -> float:
        """The sum of all variances."""
        return float((self.apart.astype(np.float64) ** 2).sum())

    def times(self, share: float, vectors: np.ndarray) -> np.ndarray:
        """Multiply vectors [d, k] by the covariance with a share of the localised part."""
        product: np.ndarray = share * (self.local @ vectors) + (1 - share) * (self.apart.T @ (self.apart @ vectors))
        return product

    def modes(self, share: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return leading variances [k], descending, and modes [d, k] by subspace iteration (Halko et al. 2011, algorithm 4.4)."""
        size = self.apart.shape[1]
        wide = min(size, count + OVERSAMPLED)
        vectors = np.random.default_rng(0).standard_normal((size, wide), dtype=np.float32)
        for _ in range(ITERATIONS):
            vectors, _ = np.linalg.qr(self.times(share, vectors))
        inner = (vectors.T @ self.times(share, vectors)).astype(np.float64)
        values, rotation = np.linalg.eigh((inner + inner.T) / 2)
        kept = min(count, wide)
        return values[::-1][:kept].clip(min=0), vectors @ rotation[:, ::-1][:, :kept].astype(np.float32)

    def best_share(self, held: np.ndarray) -> float:
        """The share that maximises the likelihood of held-out fields [n, d] in the leading modes."""
        _, modes = self.modes(SHARES[-1], min(TRIED, self.apart.shape[1]))
        sample = (self.apart @ modes).astype(np.float64)
        local = (modes.T @ (self.local @ modes)).astype(np.float64)
        coordinates = self.channels.rotated(held - self.mean) @ modes

        def surprise(share: float) -> float:
            values, vectors = np.linalg.eigh((1 - share) * sample.T @ sample + share * (local + local.T) / 2)
            values = values.clip(min=1e-9 * values[-1])
            return float((np.log(values) + ((coordinates @ vectors) ** 2).mean(0) / values).sum())

        return min(SHARES, key=surprise)
