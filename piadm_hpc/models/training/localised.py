"""Many empirical orthogonal functions from few fields on any grid, with gaps or of several variables.

They are those of a covariance that is localised by distance (`tapered`), so there are as many modes as wanted. A taper moves
power from large scales to small ones, and leading modes are fitted to their sample. So the variances of modes are those of
fields that these were not fitted to, the power in bands of smooth functions (`scales`) is that of the fields, and so is the
variance of every point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.geometry import nearest
from ...gaussian.masked import MaskedEOF
from ...gaussian.reference import GaussianReference
from ...gaussian.shared import SharedEOF
from ...theory.bases import EOF
from .scales import FLOOR, Scales, band_edges
from .tapered import Channels, Covariance, reach_of

NUMBERS = 2**25
"""The most numbers in modes of all variables together, 128 MB in single precision; beyond, variables share their modes."""

FOLDS = 2
"""Parts of the training fields whose energy in the modes of all others becomes the variance of these."""

BAND = 0.1, 1
"""Modes of a band, whose variances are corrected together: a share of all before it, and the fewest."""

LINKS = 4
"""Neighbours of a point where no pairs are given."""


def fit_localised_eof(
    train: Tensor,
    validation: Tensor,
    places: np.ndarray,
    mask: Tensor | None = None,
    count: int = 1000,
    neighbours: np.ndarray | None = None,
) -> GaussianReference:
    """Fit a reference of at most `count` modes to fields [n, *event] float64, variables before points.

    `places` [points, k] are the positions of points; only distances count, so a periodic direction is mapped to a circle. `mask`
    [*event] is true where there are data. `neighbours` [pairs, 2] are points next to each other, by default the nearest four of
    each. Held-out fields choose the share of the localised covariance; without any the last part of the training fields does.
    Where `count` modes of all variables together have more than NUMBERS numbers, and all variables have data at the same
    points, the basis is a `SharedEOF`. Raises ValueError for fields that are not on the grid of `places`, and for fewer than
    five.
    """
    size, points = math.prod(train.shape[1:]), len(places)
    if size % points or len(train) < 5:
        raise ValueError(f"basis 'smooth' needs 5 or more fields on a grid of {points} points, got {len(train)} of {size} values")
    there = np.ones(size, dtype=bool) if mask is None else mask.numpy().ravel()
    present, event = there.reshape(-1, points), tuple(train.shape[1:])
    flat = train.flatten(1).numpy()[:, there]
    unseen = validation.flatten(1).numpy()[:, there] - flat.mean(0)
    mean, flat = train.flatten(1).mean(0), flat - flat.mean(0)
    channels, links = Channels.of(flat, present), nearest(places, LINKS) if neighbours is None else neighbours
    if size * count > NUMBERS and len(present) > 1 and (present == present[0]).all():
        return _shared(mean, (flat, unseen), channels, present, (places, links), count, event, mask)
    root, tail = _fit((flat, unseen), channels, present, (places, links), max(1, min(count, NUMBERS // size)))
    variances, vectors = _of_variance(flat.var(0, ddof=1), channels.back(root), tail)
    spectrum = torch.cat([torch.from_numpy(variances), torch.full((1,), tail, dtype=torch.float64)])
    columns = torch.zeros(size, len(variances), dtype=torch.float64)
    columns[torch.from_numpy(there)] = torch.from_numpy(vectors).to(torch.float64)
    if mask is None:
        return GaussianReference(mean, EOF(columns, event), spectrum)
    basis = MaskedEOF(columns, event, mask.flatten())
    return GaussianReference(mean, basis, torch.cat([spectrum, torch.zeros(1, dtype=torch.float64)]))


def _shared(
    mean: Tensor,
    fields: tuple[np.ndarray, np.ndarray],
    channels: Channels,
    present: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray],
    count: int,
    event: Sequence[int],
    mask: Tensor | None,
) -> GaussianReference:
    """The reference of many variables: modes of all their fields taken together, and a covariance of variables per band."""
    variables, there = len(present), torch.from_numpy(present[0])
    size = int(present[0].sum())
    first, second = (channels.rotated(part).reshape(-1, size).astype(np.float32) for part in fields)
    pooled = first, second
    root, noise = _fit(pooled, Channels.of(pooled[0], present[:1]), present[:1], grid, count, together=variables)
    unit, modes = _of_variance(np.square(pooled[0]).sum(0) / (len(pooled[0]) - 1), root, noise)
    unit, modes = unit[unit > 1e-12 * unit[0]], modes[:, unit > 1e-12 * unit[0]]
    found = (pooled[0] @ modes).T.reshape(len(unit), -1, variables)
    edges = band_edges(len(unit), *BAND)
    between = np.add.reduceat(np.einsum("knu,knv->kuv", found, found), edges[:-1]) / (len(fields[0]) - 1)
    values, vectors = np.linalg.eigh(between / np.add.reduceat(unit, edges[:-1])[:, None, None])
    bands = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    tail = max(0.0, float(np.square(fields[0]).sum()) / (len(fields[0]) - 1) - float((unit[:, None] * values[bands]).sum()))
    degrees = variables * (len(modes) - len(unit))
    columns = torch.zeros(present.shape[1], len(unit), dtype=torch.float64)
    columns[there] = torch.from_numpy(modes).to(torch.float64)
    turns = torch.from_numpy(channels.rotation @ vectors)
    basis = SharedEOF(columns, turns, torch.from_numpy(bands), event, None if mask is None else there)
    spectrum = np.append((unit[:, None] * values[bands].clip(min=0)).ravel(), tail / max(1, degrees))
    rest = [] if mask is None else [torch.zeros(1, dtype=torch.float64)]
    return GaussianReference(mean, basis, torch.cat([torch.from_numpy(spectrum), *rest]))


@dataclass(frozen=True)
class _Modes:
    """Variances [k], orthonormal modes [d, k] of rotated variables, and the variance of every other direction."""

    variances: np.ndarray
    vectors: np.ndarray
    tail: float


def _fit(
    fields: tuple[np.ndarray, np.ndarray],
    channels: Channels,
    present: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray],
    count: int,
    together: int = 1,
) -> tuple[np.ndarray, float]:
    """A root [d, k] of the covariance of fields [n, d], with calibrated variances and their power in every band; and a tail.

    So many consecutive fields are kept `together` when they are divided.
    """
    modes = _calibrated(*fields, channels, grid[0], count, together)
    apart = (channels.rotated(fields[0]) / math.sqrt(len(fields[0]) - 1)).T
    scales: dict[bytes, Scales] = {}
    powers = []
    for variable, there in enumerate(present):
        if there.tobytes() not in scales:
            scales[there.tobytes()] = Scales.of(grid[1], there)
        entries, scale = channels.variable == variable, scales[there.tobytes()]
        powers.append((entries, scale, scale.power(apart[entries])))
    tail = min(modes.tail, *(scale.most_noise(power) for _, scale, power in powers))
    covariance, vectors = np.diag((1 - FLOOR) * modes.variances), np.empty_like(modes.vectors)
    for entries, scale, power in powers:
        vectors[entries], more = scale.balanced(modes.vectors[entries], modes.variances, power, tail)
        covariance += more
    values, turn = np.linalg.eigh(covariance)
    return vectors @ (turn * np.sqrt(values.clip(min=0))).astype(np.float32), tail


def _calibrated(
    flat: np.ndarray, unseen: np.ndarray, channels: Channels, places: np.ndarray, count: int, together: int
) -> _Modes:
    """Modes of the localised covariance, with the variances of fields that they were not fitted to.

    The energy of each part of the fields in the modes of all others says by how much variances are wrong. Bands of modes are
    corrected together.
    """
    reach = reach_of(channels, places)
    covariance = Covariance.of(flat, channels, reach)
    folds = np.array_split(np.arange(len(flat)).reshape(-1, together), FOLDS)

    def without(fold: np.ndarray) -> Covariance:
        return Covariance.of(np.delete(flat, fold.ravel(), axis=0), channels, reach)

    share = covariance.best_share(unseen) if len(unseen) else without(folds[-1]).best_share(flat[folds[-1].ravel()])
    variances, vectors = covariance.modes(share, count)
    count = int((variances > 1e-9 * variances[0]).sum())
    variances, vectors = variances[:count], vectors[:, :count]
    own, energy, whole = np.zeros(count), np.zeros(count), 0.0
    for fold in folds:
        part = without(fold)
        fitted, modes = part.modes(share, count, vectors)
        apart = channels.rotated(flat[fold.ravel()] - part.mean)
        weight = fold.size / len(flat) / (1 + 1 / (len(flat) - fold.size))
        energy += weight * np.square(apart @ modes).mean(0)
        whole += weight * float(np.square(apart).sum(1).mean())
        own += fold.size / len(flat) * fitted
    tail = max(0.0, whole - float(energy.sum())) / max(1, flat.shape[1] - count)
    edges = band_edges(count, *BAND)
    sums = [np.add.reduceat(values, edges[:-1]) for values in (energy, own)]
    ratio = np.repeat(sums[0] / sums[1], np.diff(edges))
    return _Modes(variances * ratio, vectors, tail)


def _of_variance(wanted: np.ndarray, roots: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Variances and modes of a covariance with the root [d, k], scaled so that every point has the variance `wanted` [d]."""
    # columns of unit length, so that modes of little variance keep their precision
    length = np.sqrt(np.square(roots).sum(0, dtype=np.float64)).clip(min=1e-30)
    has = np.square(roots).sum(1, dtype=np.float64)
    scale = np.sqrt(np.divide((wanted - tail).clip(min=0), has, out=np.zeros_like(has), where=has > 0))
    q, r = np.linalg.qr(roots / length.astype(roots.dtype) * scale[:, None].astype(roots.dtype))
    vectors, values, _ = np.linalg.svd(r.astype(np.float64) * length)
    return values**2, q @ vectors.astype(roots.dtype)
