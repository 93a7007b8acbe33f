"""Scales of fields on any grid, with gaps or without: smooth functions, and the power of fields in bands of them.

The smooth functions are eigenvectors of the Laplacian of the graph of neighbouring points. They take the place of sines on a
rectangle and of spherical harmonics: eigenvalues are squared wavenumbers. Of large grids only the smoothest are computed; the
smaller scales, which have most of the directions, are told apart by polynomials of the Laplacian (Hammond et al. 2011,
doi:10.1016/j.acha.2010.04.005, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.chebyshev import chebinterpolate
from scipy.sparse import coo_array, csc_array, csr_array, diags_array, eye_array
from scipy.sparse.linalg import eigsh

FUNCTIONS = 300
"""Smooth functions of larger grids; bands of smaller scales are passes of polynomials."""

DENSE = 1500
"""Points up to which all eigenvectors are taken."""

BAND = 0.25, 4
"""Functions of a band: a share of all before it, and the fewest."""

OCTAVE = 2.0
"""The eigenvalue at the end of a pass over the one at its beginning."""

STEEPNESS, DEGREE, PROBES = 4, 32, 16
"""Steepness of the ends of a pass, as a power of the eigenvalue; degree of its polynomial; noises that count its directions."""

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
class Passes:
    """Bands of scales below those of smooth functions: Chebyshev coefficients [bands, degree + 1] of polynomials of a Laplacian.

    They are not negative and add up to one. `laplacian` [points, points] is scaled to have its eigenvalues between -1 and 1.
    """

    laplacian: csr_array
    polynomials: np.ndarray

    @classmethod
    def of(cls, laplacian: csc_array, smallest: float) -> Passes:
        """Passes for eigenvalues from the `smallest` on, each an OCTAVE wide."""
        largest = 2 * float(laplacian.diagonal().max())  # by Gershgorin's theorem
        count = max(1, int(np.ceil(np.log(largest / smallest) / np.log(OCTAVE))) - 1)
        unit = csr_array(laplacian * (2 / largest) - eye_array(laplacian.shape[0]), dtype=np.float32)

        def above(cut: float) -> np.ndarray:
            step: np.ndarray = chebinterpolate(
                lambda x: 1 / (1 + (cut / (largest / 2 * (1 + x)).clip(1e-9)) ** STEEPNESS), DEGREE
            )
            return step

        whole = np.eye(1, DEGREE + 1)
        steps = np.vstack([whole, *(above(smallest * OCTAVE**k)[None] for k in range(1, count)), 0 * whole])
        return cls(unit, (steps[:-1] - steps[1:]).astype(np.float32))

    def __call__(self, fields: np.ndarray) -> list[np.ndarray]:
        """The parts of fields [points, n] in all bands."""
        before, now = fields, self.laplacian @ fields
        parts = [first * before + second * now for first, second in self.polynomials[:, :2]]
        for weights in self.polynomials.T[2:]:
            before, now = now, 2 * (self.laplacian @ now) - before
            for part, weight in zip(parts, weights, strict=True):
                part += weight * now
        return parts


@dataclass(frozen=True)
class Scales:
    """Smooth functions [points, k], orthonormal and in order of their scale, the bands they fall into, and smaller scales.

    `edges` are where the bands of functions begin and end, `passes` the bands of what these leave, None if that is nothing, and
    `degrees` the number of directions in every band.
    """

    functions: np.ndarray
    edges: np.ndarray
    passes: Passes | None
    degrees: np.ndarray

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
            edges = band_edges(size, *BAND)
            return cls(functions.astype(np.float32), edges, None, np.diff(edges))
        start = np.random.default_rng(0).standard_normal(size)
        values, functions = eigsh(laplacian, min(FUNCTIONS, size - 2), sigma=-1e-3, tol=1e-4, v0=start)
        edges = band_edges(functions.shape[1], *BAND)
        functions, passes = functions.astype(np.float32), Passes.of(laplacian, values[-1])
        noise = np.random.default_rng(0).standard_normal((size, PROBES), dtype=np.float32)
        inside = functions.T @ noise
        share = _power(noise, inside, passes(noise - functions @ inside), edges).sum(1)[len(edges) - 1 :]
        return cls(functions, edges, passes, np.append(np.diff(edges), share / share.sum() * (size - functions.shape[1])))

    def parts(self, fields: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Coefficients [k, n] of fields [points, n] in the functions, and their parts [points, n] in bands of smaller scales."""
        inside = self.functions.T @ fields
        return inside, [] if self.passes is None else self.passes(fields - self.functions @ inside)

    def power(self, fields: np.ndarray) -> np.ndarray:
        """The square of fields [points, n] in every band, summed over them."""
        total: np.ndarray = _power(fields, *self.parts(fields), self.edges).sum(1)
        return total

    def balanced(
        self, modes: np.ndarray, variances: np.ndarray, wanted: np.ndarray, tail: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Modes [points, k] whose part in every band has a gain, and what to add to their covariance before it, [k, k].

        With the gains, the addition, 1 - FLOOR times the covariance, and white noise of variance `tail`, the power in every
        band is the one `wanted`. The addition is the share FLOOR of it, the same in all directions of a band: what modes of
        large scales have of small ones is taken away by the gains, and the directions of small scales must not lose theirs.
        """
        inside, rest = self.parts(modes)
        shares, degrees = _power(modes, inside, rest, self.edges), self.degrees.clip(min=1e-9)
        has, spanned = shares @ variances, shares.sum(1)
        left = (wanted - tail * self.degrees).clip(min=0)
        used = (has > 1e-12 * has.sum()) & (left > 0)
        kept = left * (1 - FLOOR * (spanned / degrees).clip(max=1)) / (1 - FLOOR)
        gains = np.sqrt(np.divide(kept, has, out=np.zeros_like(has), where=used))
        floor = np.divide(FLOOR * left / degrees, gains**2, out=np.zeros_like(has), where=used)
        low, widths = len(self.edges) - 1, np.diff(self.edges)
        addition = inside.T @ (np.repeat(floor[:low], widths)[:, None] * inside)
        filtered = self.functions @ (np.repeat(gains[:low], widths)[:, None].astype(modes.dtype) * inside)
        for part, gain, more in zip(rest, gains[low:], floor[low:], strict=True):
            addition += more * (modes.T @ part)
            filtered += modes.dtype.type(gain) * part
        return filtered, (addition + addition.T) / 2

    def most_noise(self, wanted: np.ndarray) -> float:
        """The largest variance of white noise that fields of this power in every band may have."""
        return LEFT * float((wanted / self.degrees.clip(min=1))[self.degrees > 0].min())


def _power(fields: np.ndarray, inside: np.ndarray, rest: Sequence[np.ndarray], edges: np.ndarray) -> np.ndarray:
    """The square of every field of [points, n] in every band, [bands, n], from their parts there."""
    low = np.add.reduceat(np.square(inside, dtype=np.float64), edges[:-1])
    high = [np.einsum("pn,pn->n", fields, part, dtype=np.float64).clip(min=0) for part in rest]
    return np.vstack([low, *high])
