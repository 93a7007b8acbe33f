"""Scales of fields on any grid, with gaps or without: smooth functions, and the power of fields in bands of them.

The smooth functions are eigenvectors of the Laplacian of the graph of neighbouring points. They take the place of sines on a
rectangle and of spherical harmonics: eigenvalues are squared wavenumbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.linalg import eigsh

FUNCTIONS = 500
"""Smooth functions of larger grids; everything beyond them is one band."""

DENSE = 1500
"""Points up to which all eigenvectors are taken."""

BAND = 0.25, 4
"""Functions of a band: a share of all before it, and the fewest."""

FLOOR = 0.15
"""The share of the power in a band that is the same in all directions of it."""

LEFT = 0.9
"""The share of the smallest variance in any band that may be left to white noise."""


def band_edges(count: int, growth: float, fewest: int) -> np.ndarray:
    """Return where bands begin and end, from 0 to `count`: each is a share `growth` of all before it, and `fewest` at least."""
    edges = [0]
    while edges[-1] < count:
        edges.append(min(count, edges[-1] + max(fewest, int(growth * edges[-1]))))
    return np.array(edges)


@dataclass(frozen=True)
class Scales:
    """Smooth functions [points, k], orthonormal and in order of their scale, and the bands they fall into, by their `edges`."""

    functions: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, neighbours: np.ndarray, there: np.ndarray) -> Scales:
        """Smooth functions on the points that are `there` [points], of which pairs [n, 2] are neighbours."""
        place = np.cumsum(there) - 1
        pairs = place[neighbours[there[neighbours].all(1)]]
        size = int(there.sum())
        links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
        links = (links + links.T).tocsr()
        links.data[:] = 1  # pairs may be given once or twice
        laplacian = csc_array(diags_array(links.sum(1)) - links)
        if size <= DENSE:
            functions = np.linalg.eigh(laplacian.toarray())[1]
        else:
            start = np.random.default_rng(0).standard_normal(size)
            functions = eigsh(laplacian, min(FUNCTIONS, size - 2), sigma=-1e-3, tol=1e-4, v0=start)[1]
        return cls(functions.astype(np.float32), band_edges(functions.shape[1], *BAND))

    @property
    def degrees(self) -> np.ndarray:
        """The number of directions in every band, the last of which is all that the functions leave."""
        points, count = self.functions.shape
        return np.append(np.diff(self.edges), points - count)

    def power(self, fields: np.ndarray) -> np.ndarray:
        """The square of fields [points, n] in every band, summed over them."""
        low = np.add.reduceat(np.square(self.functions.T @ fields).sum(1, dtype=np.float64), self.edges[:-1])
        return np.append(low, max(0.0, np.square(fields).sum(dtype=np.float64) - low.sum()))

    def balanced(
        self, modes: np.ndarray, variances: np.ndarray, wanted: np.ndarray, tail: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gains of all bands, and what to add to a covariance of modes [points, k] before them, [k, k] in the modes.

        With the gains, the addition, 1 - FLOOR times the covariance, and white noise of variance `tail`, the power in every
        band is the one `wanted`. The addition is the share FLOOR of it, the same in all directions of a band: what modes of
        large scales have of small ones is taken away by the gains, and the directions of small scales must not lose theirs.
        """
        degrees = self.degrees.clip(min=1e-9)
        has, spanned = self.power(modes * np.sqrt(variances).astype(modes.dtype)), self.power(modes)
        left = (wanted - tail * self.degrees).clip(min=0)
        used = (has > 1e-12 * has.sum()) & (left > 0)
        kept = left * (1 - FLOOR * (spanned / degrees).clip(max=1)) / (1 - FLOOR)
        gains = np.sqrt(np.divide(kept, has, out=np.zeros_like(has), where=used))
        floor = np.divide(FLOOR * left / degrees, gains**2, out=np.zeros_like(has), where=used)
        inside = self.functions.T @ modes
        spread = np.repeat(floor[:-1] - floor[-1], np.diff(self.edges))[:, None]
        return gains, inside.T @ (spread * inside) + floor[-1] * (modes.T @ modes)

    def filtered(self, fields: np.ndarray, gains: np.ndarray) -> np.ndarray:
        """Fields [points, n] whose part in every band is multiplied with its gain."""
        inside = self.functions.T @ fields
        change = np.repeat(gains[:-1] - gains[-1], np.diff(self.edges))[:, None].astype(fields.dtype)
        result: np.ndarray = fields * fields.dtype.type(gains[-1]) + self.functions @ (change * inside)
        return result

    def most_noise(self, wanted: np.ndarray) -> float:
        """The largest variance of white noise that fields of this power in every band may have."""
        degrees = self.degrees
        return LEFT * float((wanted / np.maximum(degrees, 1))[degrees > 0].min())
