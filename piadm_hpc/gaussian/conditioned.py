"""A Gaussian reference conditioned on observations, and the update of an estimate by them (the Kalman filter's analysis).

    K = C H^T (H C H^T + R)^-1,    m' = m + K (y - H m),    C' = C - K H C

With C the covariance of the reference, m' and C' are the conditioned reference. With C the covariance of x_0 given x_t, the
same gain updates the denoised estimate of a noisy state.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..theory.bases import Basis
from .masked import shell_degrees
from .observed import LinearObservations, conjugate_gradients, projected
from .reference import GaussianReference
from .rotated import Rotated

LARGEST = 1024  # modes of a conditioned reference; all directions of smaller states
DENSE = 2000  # observations above which systems are solved by conjugate gradients instead of a factor
KEPT = 80  # factors in memory at once
LEADING = 256  # directions of a preconditioner
CHUNK_ROWS = 512  # states at once


def covariance(reference: GaussianReference, gains: Tensor, x: Tensor) -> Tensor:
    """Apply the operator with `gains` [num_shells] in the reference's basis to flat states x [n, d]."""
    basis = reference.basis
    return basis.synthesise(basis.expand(gains.to(x)) * basis.analyse(x))


def given_noisy(reference: GaussianReference, ratio: Tensor) -> Tensor:
    """Return the variance of x_0 given x_t per shell, [num_shells] float64, at a ratio of noise to signal (a scalar).

    For the Gaussian it is lambda ratio^2 / (lambda + ratio^2); where a model was probed, its mean gain times ratio^2.
    """
    square = ratio.to(torch.float64) ** 2
    if reference.response is not None:
        return reference.response.at(ratio[None])[0].to(reference.spectrum.device) * square
    spectrum = reference.spectrum.to(torch.float64)
    return spectrum * square / (spectrum + square)


@dataclass
class Update:
    """The gain K of observations at any noise level, for the covariance that a reference has there.

    Up to DENSE observations a level is one Cholesky factor of R + H C H^T, shared by all samples and kept for later calls;
    above, its systems are solved by conjugate gradients, preconditioned with the leading directions of the covariance as mapped
    to the observations. `reference` is in float64.
    """

    reference: GaussianReference
    observations: LinearObservations
    _factors: OrderedDict[float, Tensor] = field(default_factory=OrderedDict, repr=False)

    @property
    def dense(self) -> bool:
        """Whether systems are solved by factors."""
        return len(self.observations) <= DENSE

    def factor_bytes(self, levels: int) -> int:
        """Bytes of the factors of that many noise levels."""
        if self.dense:
            return 8 * len(self.observations) ** 2 * min(levels, KEPT)
        k = min(LEADING, len(self.reference.mean))
        return 8 * k * (k * min(levels, KEPT) + len(self.observations) + len(self.reference.mean))

    def increment(self, ratio: Tensor, innovation: Tensor) -> Tensor:
        """Return K (y - H x), [n, d] float64, at a ratio of noise to signal (a scalar) from innovations y - H x [n, m]."""
        return self._increment(float(ratio), given_noisy(self.reference, ratio), innovation)

    def prior_increment(self, innovation: Tensor) -> Tensor:
        """Return K (y - H x), [n, d] float64, with the covariance of the reference itself."""
        return self._increment(math.inf, self.reference.spectrum.to(torch.float64), innovation)

    def _increment(self, level: float, gains: Tensor, innovation: Tensor) -> Tensor:
        if self.dense:
            weights = torch.cholesky_solve(innovation.T, self._factor(level, gains)).T
        else:
            near = self._nearly_inverse(level, gains)
            weights = conjugate_gradients(lambda u: self._system(gains, u), innovation, precondition=near)
        return covariance(self.reference, gains, self.observations.adjoint(weights))

    def _system(self, gains: Tensor, u: Tensor) -> Tensor:
        observed = self.observations.apply(covariance(self.reference, gains, self.observations.adjoint(u)))
        return observed + self.observations.noise(u)

    def _nearly_inverse(self, level: float, gains: Tensor) -> Callable[[Tensor], Tensor]:
        """Return (W G W^T + diag R)^-1 as a map of rows [n, m], by Woodbury; W are the leading directions at observations."""
        rows, seen, information = self._leading
        inverse = 1 / self.observations.std**2
        if not len(rows):
            return lambda r: r * inverse
        if level not in self._factors:
            variance = _symmetric(covariance(self.reference, gains, rows) @ rows.T)
            variance.diagonal().add_(1e-12 * variance.diagonal().max())
            inner = torch.cholesky_inverse(torch.linalg.cholesky(variance)) + information
            self._keep(level, torch.linalg.cholesky(_symmetric(inner)))
        factor = self._factors[level]

        def near(r: Tensor) -> Tensor:
            scaled = r * inverse
            return scaled - torch.cholesky_solve(seen @ scaled.T, factor).T @ seen * inverse

        return near

    @cached_property
    def _leading(self) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal rows W [k, d] that span the shells of largest variance, W H^T [k, m], and their information [k, k]."""
        rows = leading_directions(self.reference, LEADING)
        observed = self.observations.apply(rows) if len(rows) else rows.new_zeros(0, len(self.observations))
        return rows, observed, observed * (1 / self.observations.std**2) @ observed.T

    def _factor(self, level: float, gains: Tensor) -> Tensor:
        if level not in self._factors:
            seen = projected(self.observations, lambda x: covariance(self.reference, gains, x))
            self._keep(level, torch.linalg.cholesky(seen + self.observations.noise_matrix()))
        return self._factors[level]

    def _keep(self, level: float, factor: Tensor) -> None:
        self._factors[level] = factor
        if len(self._factors) > KEPT:
            self._factors.popitem(last=False)


def condition(reference: GaussianReference, observations: LinearObservations, *, largest: int = LARGEST) -> GaussianReference:
    """Return the reference given the observations, in its own eigenvectors: again an ordinary reference, in float64.

    The mean is exact. Variances are exact for states of at most `largest` entries, and wherever the shells with all their
    directions, and the observations' parts in the others, come to no more than `largest` modes; else the shells of smallest
    variance are left as they are, and count as errors of the observations. The probed response is left out.
    """
    reference = reference.to(reference.mean.device, torch.float64)
    modes = _modes(reference, observations, largest)
    prior = reference.spectrum.to(torch.float64)
    inside = _symmetric(modes.T @ covariance(reference, prior, modes.T).T)
    observed = observations.apply(modes.T).T
    innovation = (observations.values - observations.apply(reference.mean[None])[0])[None]
    if len(observations) <= DENSE:
        everything = projected(observations, lambda x: covariance(reference, prior, x))
        factor = torch.linalg.cholesky(everything + observations.noise_matrix())
        weights = torch.cholesky_solve(innovation.T, factor).T
        moved = covariance(reference, prior, observations.adjoint(weights))[0]
        half = torch.linalg.solve_triangular(factor, observed @ inside, upper=False)
        inside = inside - half.T @ half
    else:
        moved = Update(reference, observations).prior_increment(innovation)[0]
        inside = _by_information(reference, observations, inside, observed)
    mean = reference.mean + moved
    variances, vectors = torch.linalg.eigh(_symmetric(inside))
    basis = Rotated(reference.basis, modes @ vectors.flip(1), shell_degrees(reference.basis))
    return GaussianReference(mean, basis, torch.cat([variances.flip(0).clamp(min=0), prior]))


def _by_information(reference: GaussianReference, observations: LinearObservations, inside: Tensor, observed: Tensor) -> Tensor:
    """Condition the covariance `inside` [k, k] of the modes, H V = `observed` [m, k], without a matrix over observations.

    Errors, and the variance of the reference outside the modes at an observation, count as uncorrelated.
    """
    left = seen_variance(reference, observations) - ((observed @ inside) * observed).sum(-1)
    weight = 1 / (observations.std**2 + left.clamp(min=0))
    unit = torch.eye(len(inside), dtype=inside.dtype, device=inside.device)
    root = torch.linalg.cholesky(inside + 1e-12 * inside.diagonal().max() * unit)
    precision = unit + root.T @ (observed.T * weight @ observed) @ root
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(precision), root.T, upper=False)
    conditioned: Tensor = half.T @ half
    return conditioned


def seen_variance(reference: GaussianReference, observations: LinearObservations) -> Tensor:
    """Return the diagonal of H Lambda H^T, [m]: the variances of exact observations under the reference."""
    basis, parts = reference.basis, []
    root = basis.expand(torch.sqrt(reference.spectrum.to(torch.float64)))
    for start in range(0, len(observations), CHUNK_ROWS):
        keep = torch.arange(start, min(len(observations), start + CHUNK_ROWS), device=observations.std.device)
        part = observations.part(keep)
        rows = part.adjoint(torch.eye(len(part), dtype=torch.float64, device=keep.device))
        parts.append((basis.synthesise(root * basis.analyse(rows)) ** 2).sum(-1))
    return torch.cat(parts)


def _modes(reference: GaussianReference, observations: LinearObservations, largest: int) -> Tensor:
    """Return orthonormal columns [d, k] that span whole shells and, as room allows, the observations' parts in others."""
    basis, d = reference.basis, len(reference.mean)
    if d <= largest:
        return torch.eye(d, dtype=torch.float64, device=reference.mean.device)
    degrees = shell_degrees(basis)
    order = torch.argsort(reference.spectrum.cpu(), descending=True, stable=True).tolist()
    whole: list[int] = []
    rest: list[int] = []
    room = largest
    for shell in order:
        fits = degrees[shell] <= room and not rest
        (whole if fits else rest).append(shell)
        room -= round(float(degrees[shell])) if fits else 0
    columns = [_whole_shells(reference, whole)] if whole else []
    m = len(observations)
    for shell in rest:
        if float(reference.spectrum[shell]) == 0 or min(m, float(degrees[shell])) > room:
            continue
        if float(degrees[shell]) <= m:
            columns.append(_whole_shells(reference, [shell]))
            room -= columns[-1].shape[1]
            continue
        unit = torch.eye(m, dtype=torch.float64, device=reference.mean.device)
        gains = torch.zeros(basis.num_shells, dtype=torch.float64, device=reference.mean.device)
        gains[shell] = 1
        columns.append(orthonormal(covariance(reference, gains, observations.adjoint(unit)), m))
        room -= columns[-1].shape[1]
    if not columns:
        raise ValueError(f"observations: none of the reference's shells fits into {largest} modes; thin the observations out")
    return torch.cat(columns, dim=1)


def leading_directions(reference: GaussianReference, largest: int) -> Tensor:
    """Return at most so many orthonormal rows [k, d] that span the shells of largest variance that fit as a whole."""
    basis, spectrum = reference.basis, reference.spectrum.to(torch.float64)
    degrees, room = shell_degrees(basis).round().long().tolist(), largest
    chosen = torch.zeros_like(spectrum)
    for shell in torch.argsort(spectrum.cpu(), descending=True, stable=True).tolist():
        if float(spectrum[shell]) > 0 and degrees[shell] <= room:
            chosen[shell] = 1
            room -= degrees[shell]
    if room == largest:
        return torch.zeros(0, len(reference.mean), dtype=torch.float64, device=reference.mean.device)
    places = torch.nonzero(chosen[shells_of_coords(basis, spectrum.device)] > 0).flatten()
    # units of a rotated basis reach into its modes until they are projected
    return orthonormal(covariance(reference, chosen, unit_fields(basis, places)), largest - room).T


def _whole_shells(reference: GaussianReference, shells: list[int]) -> Tensor:
    """Return orthonormal columns that span some shells; a shell of one coordinate is a column by itself."""
    basis = reference.basis
    coords = shells_of_coords(basis, reference.mean.device)
    counts = torch.bincount(coords, minlength=basis.num_shells)
    chosen = torch.tensor(shells, device=coords.device)
    single, several = chosen[counts[chosen] == 1], chosen[counts[chosen] > 1]
    columns = []
    if len(single):
        columns.append(unit_fields(basis, torch.nonzero(torch.isin(coords, single)).flatten()).T)
    if len(several):
        count = round(float(shell_degrees(basis)[several.cpu()].sum()))
        columns.append(orthonormal(unit_fields(basis, torch.nonzero(torch.isin(coords, several)).flatten()), count))
    return torch.cat(columns, dim=1)


def shells_of_coords(basis: Basis, device: torch.device) -> Tensor:
    """Return the shell of every coordinate of a basis, [num_coords]."""
    numbers = basis.expand(torch.arange(basis.num_shells, dtype=torch.float64, device=device))
    return numbers.expand(basis.num_coords).round().long()


def unit_fields(basis: Basis, places: Tensor) -> Tensor:
    """Return the states [n, d] of unit coordinates at `places` [n]."""
    fields = []
    for start in range(0, len(places), CHUNK_ROWS):
        part = places[start : start + CHUNK_ROWS]
        unit = torch.zeros(len(part), basis.num_coords, dtype=torch.float64, device=part.device)
        unit[torch.arange(len(part)), part] = 1
        fields.append(basis.synthesise(unit))
    return torch.cat(fields)


def orthonormal(rows: Tensor, most: int) -> Tensor:
    """Return orthonormal columns [d, k], k at most `most`, that span the rows [n, d]."""
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    kept = (values > 1e-10 * values[-1]) & (torch.arange(len(values), device=values.device) >= len(values) - most)
    columns = rows.T @ (vectors[:, kept] / torch.sqrt(values[kept]))
    orthonormal: Tensor = torch.linalg.qr(columns)[0]
    return orthonormal


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
