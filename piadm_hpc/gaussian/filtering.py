"""The Kalman filter of a linear Gaussian sequence, its covariances as products of few rows.

Fields follow each other as f[l+1] = M z[l] + r with r ~ N(m, Lambda), where z[l] are the last fields. With P = F^T F the
covariance of z given all observations so far, and y = H f[l+1] + e, e ~ N(0, R),

    z | y  has  gain K = P M^T H^T S^-1,    S = H M P M^T H^T + H Lambda H^T + R

(the lag-one smoother; Evensen and van Leeuwen 2000 for ensembles), and then f[l+1] is a draw given z and y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .conditioned import covariance, leading_directions
from .observed import LinearObservations
from .reference import GaussianReference

LARGEST = 512  # rows of a factor


@dataclass(frozen=True)
class Smoother:
    """The update of last fields z by observations of the field that follows them.

    Attributes:
        factor: rows F [r, n] with P = F^T F the covariance of z.
        seen: H M of every row, [r, m].
        root: Cholesky factor of S, [m, m].
    """

    factor: Tensor
    seen: Tensor
    root: Tensor

    @classmethod
    def of(cls, factor: Tensor, forecast: Tensor, observations: LinearObservations, covariance: Tensor) -> Smoother:
        """Build the update from `factor`, the rows M F `forecast` [r, d], and H Lambda H^T + R `covariance` [m, m]."""
        seen = observations.apply(forecast)
        return cls(factor, seen, torch.linalg.cholesky(covariance + seen.T @ seen))

    def increment(self, innovation: Tensor) -> Tensor:
        """Return K (y - H f), [rows, n], for innovations [rows, m]."""
        return torch.cholesky_solve(innovation.T, self.root).T @ self.seen.T @ self.factor

    def reduced(self, rows: Tensor) -> Tensor:
        """Return rows [r, k] that correspond to those of the factor, reduced by the observations."""
        half = torch.linalg.solve_triangular(self.root, self.seen.T, upper=False)
        left = torch.eye(len(rows), dtype=rows.dtype, device=rows.device) - half.T @ half
        values, vectors = torch.linalg.eigh((left + left.T) / 2)
        kept: Tensor = (vectors * torch.sqrt(values.clamp(min=0))).T @ rows
        return kept


def leading_rows(reference: GaussianReference, largest: int = LARGEST) -> Tensor:
    """Return rows [k, d] whose products add up to the reference's covariance, in the shells of largest variance that fit."""
    rows = leading_directions(reference, largest)
    return covariance(reference, torch.sqrt(reference.spectrum.to(torch.float64)), rows)


def joined_rows(*parts: Tensor, largest: int = LARGEST) -> Tensor:
    """Return at most so many rows [k, n] whose products add up to nearly those of all parts [k_i, n]."""
    rows = torch.cat(parts)
    if len(rows) <= min(largest, rows.shape[1]):
        return rows
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    kept: Tensor = vectors[:, -largest:][:, values[-largest:] > 1e-14 * values[-1]].T @ rows
    return kept
