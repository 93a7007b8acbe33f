"""Linear observations y = H x_0 + e of a state, with errors e ~ N(0, R), and the linear algebra that they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 256  # rows of H that are carried to states at once
ITERATIONS = 500
ACCURACY = 1e-8  # relative residual at which conjugate gradients end


@dataclass(frozen=True)
class LinearObservations:
    """Values y [m] of H x_0 with Gaussian errors, in the units of states; everything in float64.

    `rows` is H [m, d], sparse. R has the standard deviations `std` [m]; errors of the same `group` [m] (-1: none) have the
    correlation `correlation` [m] with each other. Raises ValueError for sizes that do not fit, errors that are not positive,
    numbers that are not finite, and correlations outside [0, 1).
    """

    values: Tensor
    rows: Tensor
    std: Tensor
    group: Tensor
    correlation: Tensor

    def __post_init__(self) -> None:
        m = len(self.values)
        sizes = {name: tuple(getattr(self, name).shape) for name in ("std", "group", "correlation")}
        mistakes = [f"{name} must be ({m},), as the values are, got {size}" for name, size in sizes.items() if size != (m,)]
        if self.rows.ndim != 2 or len(self.rows) != m or m == 0:
            mistakes.append(f"rows must be [{max(m, 1)}, d], got {list(self.rows.shape)}")
        numbers = (self.values, self.std, self.correlation, self.rows.coalesce().values())
        if not all(bool(torch.isfinite(part).all()) for part in numbers):
            mistakes.append("values, rows, std and correlation must be finite")
        if not bool((self.std > 0).all()):
            mistakes.append("std must be positive")
        if not bool(((self.correlation >= 0) & (self.correlation < 1)).all()):
            mistakes.append("correlations must be at least 0 and below 1")
        if mistakes:
            raise ValueError("observations: " + "; ".join(mistakes))

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device | str) -> LinearObservations:
        """Return the observations on another device."""
        return LinearObservations(*(part.to(device) for part in (self.values, self.rows, self.std, self.group, self.correlation)))

    def apply(self, x: Tensor) -> Tensor:
        """Return H x, [n, m] float64, for flat states [n, d]."""
        observed: Tensor = torch.sparse.mm(self.rows, x.to(torch.float64).T).T
        return observed

    def adjoint(self, u: Tensor) -> Tensor:
        """Return H^T u, [n, d] float64, for u [n, m]."""
        carried: Tensor = torch.sparse.mm(self.rows.T, u.to(torch.float64).T).T
        return carried

    def noise(self, u: Tensor) -> Tensor:
        """Return R u for u [n, m]."""
        return self.std * self._correlated(self.std * u, self.correlation, 1 - self.correlation)

    def errors(self, white: Tensor, shared: Tensor) -> Tensor:
        """Return draws of N(0, R), [n, m], from white noise [n, m] and white noise per group [n, m]."""
        own = torch.sqrt(1 - self.correlation) * white
        common = torch.where(self.group < 0, white, shared[:, self.group.clamp(min=0)])
        return self.std * (own + torch.sqrt(self.correlation) * common)

    def noise_matrix(self) -> Tensor:
        """Return R, [m, m]."""
        return self.noise(torch.eye(len(self), dtype=torch.float64, device=self.std.device))

    def _correlated(self, u: Tensor, common: Tensor, own: Tensor) -> Tensor:
        """Return own u plus `common` times the sum of u over each group; ungrouped entries are groups of their own."""
        inside = self.group >= 0
        if not bool(inside.any()):
            return u
        sums = u.new_zeros(len(u), int(self.group.max()) + 1).index_add(1, self.group[inside], u[:, inside])
        total = torch.where(inside, sums[:, self.group.clamp(min=0)], u)
        return own * u + common * total

    def noise_inverse(self, u: Tensor, extra: Tensor) -> Tensor:
        """Return (R + extra I)^-1 u for u [n, m] and `extra` [n], by the formula of Sherman and Morrison for every group."""
        own = self.std**2 * (1 - self.correlation) + extra[:, None]
        plain, carried = u / own, self.std / own
        inside = self.group >= 0
        if not bool(inside.any()):
            return u / (self.std**2 + extra[:, None])
        count, group = int(self.group.max()) + 1, self.group[inside]
        lone = u / (self.std**2 + extra[:, None])
        weight = self.correlation[inside]
        zero = u.new_zeros(len(u), count)
        along = zero.index_add(1, group, (self.std * plain)[:, inside])
        size = zero.index_add(1, group, (self.std * carried)[:, inside])
        share = weight * along[:, group] / (1 + weight * size[:, group])
        result = lone.clone()
        result[:, inside] = plain[:, inside] - carried[:, inside] * share
        return result

    def scaled(self, factor: Tensor) -> LinearObservations:
        """Return the observations in other units, values, rows and errors times factors [m]."""
        index = self.rows.indices()
        rows = torch.sparse_coo_tensor(index, self.rows.values() * factor[index[0]], self.rows.shape, check_invariants=True)
        return LinearObservations(self.values * factor, rows.coalesce(), self.std * factor, self.group, self.correlation)

    def part(self, keep: Tensor) -> LinearObservations:
        """Return the observations with the indices `keep`."""
        rows, group = self.rows.index_select(0, keep).coalesce(), self.group[keep]
        # groups are numbered anew, so that there are no more of them than observations
        numbered = group.clone()
        numbered[group >= 0] = torch.unique(group[group >= 0], return_inverse=True)[1]
        return LinearObservations(self.values[keep], rows, self.std[keep], numbered, self.correlation[keep])


def projected(observations: LinearObservations, covariance: Callable[[Tensor], Tensor]) -> Tensor:
    """Return H C H^T, [m, m] symmetric, for a covariance C given as a map of flat states [n, d]."""
    m = len(observations)
    unit, parts = torch.eye(m, dtype=torch.float64, device=observations.std.device), []
    for start in range(0, m, CHUNK):
        parts.append(observations.apply(covariance(observations.adjoint(unit[start : start + CHUNK]))))
    observed = torch.cat(parts)
    return (observed + observed.T) / 2


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    accuracy: float = ACCURACY,
    limit: int = ITERATIONS,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve A u = b for every row of b [n, m] by conjugate gradients (Hestenes and Stiefel 1952); A is symmetric positive.

    `precondition` applies a symmetric positive matrix near the inverse of A. Every row stops by itself, at a residual of
    `accuracy` times its right-hand side or after `limit` iterations, so no row depends on the others.
    """
    near = precondition or (lambda r: r)
    u, r = torch.zeros_like(b), b.clone()
    z = near(r)
    p, product = z, (r * z).sum(-1)
    least = accuracy**2 * (b * b).sum(-1)
    for _ in range(limit):
        open_rows = (r * r).sum(-1) > least
        if not bool(open_rows.any()):
            break
        carried = apply(p)
        curvature = (p * carried).sum(-1)
        step = torch.where(open_rows & (curvature > 0), product / curvature.clamp(min=1e-300), 0.0)[:, None]
        u, r = u + step * p, r - step * carried
        z = near(r)
        new = torch.where(open_rows, (r * z).sum(-1), product)
        p, product = z + (new / product.clamp(min=1e-300))[:, None] * p, new
    return u
