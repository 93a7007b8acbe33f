"""The mean of states given a condition: damped persistence of its maps, and a ridge regression on their modes and on numbers.

Fitted to fields from the fields before them, this is the linear inverse model of seasonal prediction (Penland and Sardeshmukh
1995) on top of damped persistence at every point, each as strong as held-out data support.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

F64 = torch.float64
FOLDS = 8  # consecutive parts of the training states, each predicted by a fit to the others
SHRINKAGES = (0.1, 1.0, 10.0)
MODES = (0, 2, 4, 6, 8, 12)
PENALTIES = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
LEADING = 24  # modes of the states in which held-out likelihoods are compared


@dataclass(frozen=True)
class Regression:
    """m(c) = mean + gains maps + (features(c) - centre) coefficients, of maps [rows, k, *grid] and numbers [rows, q].

    Attributes:
        gains: change of each variable at a point for a map of one at the same point, [k, variables, size of the grid].
        modes: what each map is projected on, [k, modes, size of the grid]; its projections are the first features.
        centre: mean features of the training states, [features].
        coefficients: change of a state for a feature of one, [features, d].
        mean: mean training state where all maps are zero, [d].
    """

    gains: Tensor
    modes: Tensor
    centre: Tensor
    coefficients: Tensor
    mean: Tensor

    def __call__(self, maps: Tensor, numbers: Tensor) -> Tensor:
        """Return the mean states [rows, d], float64."""
        elsewhere = (features(self.modes, maps, numbers) - self.centre) @ self.coefficients
        return self.mean + persisted(self.gains, maps) + elsewhere


@dataclass(frozen=True)
class Fit:
    """A regression, and its residuals at the training states.

    Attributes:
        regression: the fit to all training states.
        residuals: every training state less its mean by the fit to the other folds, [n, d]; residuals of the fit itself are
            too small.
        shrinkage: how far the gains of single points are drawn towards those of all points, in units of the maps' variance.
        num_modes: number of modes of every map.
        penalty: the ridge, in units of the features' variance.
        explained: share of the variance of the training states that the residuals lack.
    """

    regression: Regression
    residuals: Tensor
    shrinkage: float
    num_modes: int
    penalty: float
    explained: float


def features(modes: Tensor, maps: Tensor, numbers: Tensor) -> Tensor:
    """Return projections of maps on their modes, then the numbers: [rows, features], float64."""
    projected = torch.einsum("rks,kms->rkm", maps.flatten(2).to(F64), modes.to(F64))
    return torch.cat([projected.flatten(1), numbers.to(F64)], dim=1)


def persisted(gains: Tensor, maps: Tensor) -> Tensor:
    """Return the sum of the maps times their gains, [rows, d], float64."""
    return torch.einsum("rks,kvs->rvs", maps.flatten(2).to(F64), gains.to(F64)).flatten(1)


def fit_regression(states: Tensor, maps: Tensor, numbers: Tensor) -> Fit:
    """Fit the mean of states [n, d] given maps [n, k, *grid] and numbers [n, q]; all rows in the order of time.

    Shrinkage, number of modes and ridge are those whose cross-validated residuals have the highest Gaussian likelihood, with
    one variance for each of the leading modes of the states. Raises ValueError for fewer than two states a fold.
    """
    x, count = states.flatten(1).to(F64), len(states)
    if count < 2 * FOLDS:
        raise ValueError(f"{count} training states have a whole condition; fitting their mean takes at least {2 * FOLDS}")
    fields = maps.flatten(2).to(F64)
    modes = _leading_modes(fields, min(MODES[-1], count // 4))
    _, _, right = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    judged = right[: min(LEADING, count // 4)]
    shrinkages = SHRINKAGES if maps.shape[1] else (0.0,)
    sizes = [size for size in MODES if size <= modes.shape[1]]
    best = (math.inf, 0.0, 0, 0.0)
    for shrinkage in shrinkages:
        local = [_less_persisted(x, fields, shrinkage, kept) @ judged.T for kept in _folds(count)]
        for size, penalty in product(sizes, PENALTIES):
            residuals = _held_out(local, features(modes[:, :size], fields, numbers), penalty)
            surprise = float(torch.log(residuals.square().mean(0) + 1e-300).sum())
            best = min(best, (surprise, shrinkage, size, penalty))
    _, shrinkage, size, penalty = best
    phi = features(modes[:, :size], fields, numbers)
    everything = torch.ones(count, dtype=torch.bool)
    gains = _gains(x, fields, shrinkage, everything)
    regression = Regression(gains, modes[:, :size], *_ridge(phi, x - persisted(gains, fields), penalty))
    local = [_less_persisted(x, fields, shrinkage, kept) for kept in _folds(count)]
    residuals = _held_out(local, phi, penalty)
    explained = 1 - float(residuals.square().sum() / (x - x.mean(0)).square().sum())
    return Fit(regression, residuals, shrinkage, size, penalty, explained)


def without_mean(states: Tensor, maps: Tensor, numbers: Tensor) -> Fit:
    """Return the fit of a mean that is zero whatever the condition, as that of states is which are as likely turned around."""
    x, (num_maps, points), num_numbers = states.flatten(1).to(F64), maps.flatten(2).shape[1:], numbers.shape[1]
    zero = Regression(
        gains=x.new_zeros(num_maps, x.shape[1] // points, points),
        modes=x.new_zeros(num_maps, 0, points),
        centre=x.new_zeros(num_numbers),
        coefficients=x.new_zeros(num_numbers, x.shape[1]),
        mean=x.new_zeros(x.shape[1]),
    )
    return Fit(zero, x, 0.0, 0, 0.0, 0.0)


def _folds(count: int) -> list[Tensor]:
    """Which states are fitted [n] for each fold, which are all others."""
    masks = []
    for start, stop in pairwise(round(k * count / FOLDS) for k in range(FOLDS + 1)):
        kept = torch.ones(count, dtype=torch.bool)
        kept[start:stop] = False
        masks.append(kept)
    return masks


def _less_persisted(x: Tensor, fields: Tensor, shrinkage: float, kept: Tensor) -> Tensor:
    if not fields.shape[1]:
        return x  # the same one for all folds: there may be hundreds of thousands of conformers
    return x - persisted(_gains(x, fields, shrinkage, kept), fields)


def _gains(x: Tensor, fields: Tensor, shrinkage: float, kept: Tensor) -> Tensor:
    """Least squares at every point [k, v, size] of the kept states x [n, v size], drawn to that over all points."""
    size, num_maps = fields.shape[-1], fields.shape[1]
    if not num_maps:
        return x.new_zeros(0, x.shape[1] // size, size)
    maps, values = fields[kept], x[kept].reshape(-1, x.shape[1] // size, size)
    gram = torch.einsum("nks,nls->skl", maps, maps) / len(maps)
    right = torch.einsum("nks,nvs->skv", maps, values) / len(maps)
    ridge = torch.diag(gram.mean(0).diagonal() + 1e-12)
    common = torch.linalg.solve(gram.mean(0) + 1e-6 * ridge, right.mean(0))
    # a point where all maps are constant keeps the common gain, which multiplies nothing
    gains: Tensor = torch.linalg.solve(gram + shrinkage * ridge, right + shrinkage * ridge @ common)
    return gains.permute(1, 2, 0).contiguous()


def _leading_modes(fields: Tensor, most: int) -> Tensor:
    """Principal components of every map [n, k, size], scaled so that projections have unit variance: [k, modes, size]."""
    found = []
    for values in fields.unbind(1):
        _, singular, modes = torch.linalg.svd(values - values.mean(0), full_matrices=False)
        deviation = singular[:most] / math.sqrt(len(values) - 1)
        found.append(modes[:most] / deviation.clamp(min=1e-9 * float(deviation[0]) + 1e-30)[:, None])
    return torch.stack(found) if found else fields.new_zeros(0, 0, fields.shape[-1])


def _ridge(phi: Tensor, x: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centre [f], coefficients [f, d] and mean [d] of the ridge regression of x [n, d] on features phi [n, f]."""
    centre, mean = phi.mean(0), x.mean(0)
    apart = phi - centre
    gram = apart.T @ apart + penalty * len(phi) * torch.eye(phi.shape[1], dtype=phi.dtype)
    return centre, torch.linalg.solve(gram, apart.T @ (x - mean)), mean


def _held_out(local: list[Tensor], phi: Tensor, penalty: float) -> Tensor:
    """Residuals [n, d] of every fold by the fit to the others, of what persistence leaves in each fold's fit [n, d]."""
    residuals = torch.empty_like(local[0])
    for kept, x in zip(_folds(len(phi)), local, strict=True):
        centre, coefficients, mean = _ridge(phi[kept], x[kept], penalty)
        residuals[~kept] = x[~kept] - mean - (phi[~kept] - centre) @ coefficients
    return residuals
