"""Many empirical orthogonal functions from few fields on any grid, with gaps or of several variables.

They are those of a covariance that is localised by distance (`tapered`), so there are as many modes as wanted. A taper moves
power from large scales to small ones, and leading modes are fitted to their sample. So the variances of modes are those of
fields that these were not fitted to, the power in bands of smooth functions (`scales`) is that of the fields, and so is the
variance of every point. What modes leave is white noise, with another variance where fields are rougher.
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
from ...gaussian.regional import RegionalEOF
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

ROUGHER = 0.05
"""The gain in log-likelihood of every direction for which noise has one variance in a rougher region and another elsewhere."""

EVEN = 0.4
"""The share of noise that is the same everywhere: months unlike those of the fit have small scales where these have none."""

LEAST = 1e-2
"""The least variance that modes leave at a point, over the mean: at some points, under ice, fields never change."""

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
    points, the basis is a `SharedEOF`; where twice as many modes have no more, and some region is ROUGHER, a `RegionalEOF`.
    Raises ValueError for fields that are not on the grid of `places`, and for fewer than five.
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
    count = max(1, min(count, NUMBERS // size))
    root, tail, left = _fit((flat, unseen), channels, present, (places, links), count)
    region, noise = _regions(left, tail) if 2 * count * size <= NUMBERS else (np.zeros(len(left), dtype=int), np.array([tail]))
    variances, vectors = _of_variance(flat.var(0, ddof=1), channels.back(root), noise, region)
    return _reference(mean, variances, vectors, noise, region, mask, event)


def _reference(
    mean: Tensor,
    variances: np.ndarray,
    vectors: np.ndarray,
    noise: np.ndarray,
    region: np.ndarray,
    mask: Tensor | None,
    event: Sequence[int],
) -> GaussianReference:
    """The reference of modes of the entries with data, and of noise in regions of these."""
    there = torch.ones(len(mean), dtype=torch.bool) if mask is None else mask.flatten()
    columns = torch.zeros(len(mean), len(variances), dtype=torch.float64)
    columns[there] = torch.from_numpy(vectors).to(torch.float64)
    spectrum = torch.from_numpy(np.concatenate([variances, noise, [] if mask is None else [0.0]]))
    if len(noise) > 1:
        regions = torch.full((len(mean),), len(noise))
        regions[there] = torch.from_numpy(region)
        return GaussianReference(mean, RegionalEOF(columns, event, regions), spectrum)
    basis = EOF(columns, event) if mask is None else MaskedEOF(columns, event, there)
    return GaussianReference(mean, basis, spectrum)


def _regions(left: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The region [d] of every entry, by the variance `left` there, and the variance of each: one, or a smooth and a rougher one.

    Two regions are those under which fields are likeliest. The mean of the variances is `noise`.
    """
    left = left.clip(LEAST * left.mean())
    inside, count = np.cumsum(np.sort(left)), np.arange(1, len(left))
    rest = len(left) - count
    surprise = count * np.log(inside[:-1] / count) + rest * np.log((inside[-1] - inside[:-1]) / rest)
    best = int(surprise.argmin())
    if len(left) * (np.log(left.mean()) - 2 * ROUGHER) < surprise[best]:
        return np.zeros(len(left), dtype=int), np.array([noise])
    region = (left > np.sort(left)[best]).astype(int)
    return region, noise * (EVEN + (1 - EVEN) * np.array([left[region == k].mean() for k in (0, 1)]) / left.mean())


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
    root, noise, _ = _fit(pooled, Channels.of(pooled[0], present[:1]), present[:1], grid, count, together=variables)
    wanted = np.square(pooled[0]).sum(0) / (len(pooled[0]) - 1)
    unit, modes = _of_variance(wanted, root, np.array([noise]), np.zeros(size, dtype=int))
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
    """Variances [k], orthonormal modes [d, k] of rotated variables, the variance of other directions, and its part by entry."""

    variances: np.ndarray
    vectors: np.ndarray
    tail: float
    left: np.ndarray


def _fit(
    fields: tuple[np.ndarray, np.ndarray],
    channels: Channels,
    present: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray],
    count: int,
    together: int = 1,
) -> tuple[np.ndarray, float, np.ndarray]:
    """A root [d, k] of the covariance of fields [n, d], with calibrated variances and their power in every band; and a tail.

    The variance that modes leave at every entry [d] of the fields themselves comes last. So many consecutive fields are kept
    `together` when they are divided.
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
    return vectors @ (turn * np.sqrt(values.clip(min=0))).astype(np.float32), tail, modes.left


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
    own, energy, whole, left = np.zeros(count), np.zeros(count), 0.0, np.zeros(flat.shape[1])
    for fold in folds:
        part = without(fold)
        fitted, modes = part.modes(share, count, vectors)
        apart = channels.rotated(flat[fold.ravel()] - part.mean)
        weight = fold.size / len(flat) / (1 + 1 / (len(flat) - fold.size))
        inside = apart @ modes
        energy += weight * np.square(inside).mean(0)
        left += weight * np.square(channels.back((apart - inside @ modes.T).T)).mean(1)
        whole += weight * float(np.square(apart).sum(1).mean())
        own += fold.size / len(flat) * fitted
    tail = max(0.0, whole - float(energy.sum())) / max(1, flat.shape[1] - count)
    edges = band_edges(count, *BAND)
    sums = [np.add.reduceat(values, edges[:-1]) for values in (energy, own)]
    ratio = np.repeat(sums[0] / sums[1], np.diff(edges))
    return _Modes(variances * ratio, vectors, tail, left)


def _of_variance(wanted: np.ndarray, roots: np.ndarray, noise: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances and modes of a covariance with the root [d, k] and noise, scaled so that every point has the variance `wanted`.

    `noise` are its variances in regions, and `region` [d] the region of every entry. Modes are those of the span of the root's
    parts in all regions, which leaves regions apart; noise is added where the root has no variance.
    """
    # columns of unit length, so that modes of little variance keep their precision
    length = np.sqrt(np.square(roots).sum(0, dtype=np.float64)).clip(min=1e-30)
    has = np.square(roots).sum(1, dtype=np.float64)
    scale = np.sqrt(np.divide((wanted - noise[region]).clip(min=0), has, out=np.zeros_like(has), where=has > 0))
    scaled = roots / length.astype(roots.dtype) * scale[:, None].astype(roots.dtype)
    parts = [np.linalg.qr(scaled[region == k]) for k in range(len(noise))]
    rows = np.vstack([r.astype(np.float64) * length for _, r in parts])
    own = np.repeat(noise, [len(r) for _, r in parts])
    spanned = np.linalg.qr(rows)[0]
    rest = np.eye(len(rows)) - spanned @ spanned.T
    values, turn = np.linalg.eigh(rows @ rows.T + (rest * own) @ rest)
    values, turn = values[::-1].clip(min=0), turn[:, ::-1].astype(roots.dtype)
    modes, begin = np.empty((len(roots), len(values)), dtype=roots.dtype), 0
    for k, (q, r) in enumerate(parts):
        modes[region == k] = q @ turn[begin : begin + len(r)]
        begin += len(r)
    return values, modes
