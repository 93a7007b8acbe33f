"""Traces of the Jacobian of a score: exact, one vector-Jacobian product per direction, or estimated with random probes.

At a node with noise level sigma and variances v of the reference, both return sigma^2 dl/du (tr J_s + tr diag(1/v)), the
divergence of the remainder in whitened coordinates. It vanishes for a Gaussian, and the estimate of it has no variance there: a
probe has the same norm in every shell, so that what the Gaussian contributes is known (Hutchinson 1990; Grathwohl et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..gaussian.masked import shell_degrees
from ..gaussian.reference import GaussianReference
from .errors import ScoreError
from .evaluate import Evaluator

PROBES = 3  # the stream of the probes' random numbers
MOST_FLAT = 4096  # entries of a state up to which the basis of its subspace is computed from the whole projection


class Directions(Protocol):
    """Directions along which derivatives are taken, and the estimate of a trace from their quadratic forms.

    Attributes:
        degrees: degrees of freedom of the states in every shell, [num_shells] float64.
    """

    @property
    def degrees(self) -> Tensor: ...

    def of(self, rows: Tensor, keys: Iterable[tuple[int, int]]) -> Iterable[Tensor]:
        """Return directions [rows, d], one after the other, for states like `rows` with keys (sample id, node)."""
        ...

    def summed(self, forms: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trace of J_s + diag(1/v) [rows] and the variance of its estimate, from quadratic forms [K, rows]."""
        ...


@dataclass(frozen=True)
class Exact:
    """All directions `basis` [r, d] of the subspace that states lie in, orthonormal; `degrees` of them in each shell."""

    basis: Tensor
    degrees: Tensor

    def of(self, rows: Tensor, keys: Iterable[tuple[int, int]]) -> Iterable[Tensor]:
        return (direction.expand_as(rows) for direction in self.basis.to(rows))

    def summed(self, forms: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        total = forms.sum(0) + inverse @ self.degrees
        return total, torch.zeros_like(total)


@dataclass(frozen=True)
class Probes:
    """Random probes of every sample and node: white noise, scaled to its expected norm in every shell.

    In a shell of one coordinate this is a random sign (Rademacher); in others it is uniform on a sphere. `draw` returns the white
    noise [probes, d] of a sample id and a node.
    """

    reference: GaussianReference
    project: Callable[[Tensor], Tensor]
    degrees: Tensor
    draw: Callable[[int, int], Tensor]

    def of(self, rows: Tensor, keys: Iterable[tuple[int, int]]) -> Iterable[Tensor]:
        basis = self.reference.basis
        white = torch.stack([self.draw(sample, node) for sample, node in keys], dim=1).to(self.reference.mean)
        z = basis.analyse(self.project(white))
        # a projection may leave fewer degrees of freedom in a shell, or none
        whole = shell_degrees(basis)
        share = torch.where(whole > 0, self.degrees / whole.clamp(min=1e-9), 0).to(z)
        energies = torch.vmap(lambda coords: basis.energy(coords[None]))(z.flatten(0, 1)).reshape(*z.shape[:2], -1)
        gains = torch.sqrt(share / energies.clamp(min=torch.finfo(z.dtype).tiny))
        probes: Tensor = basis.synthesise(basis.expand(torch.where(share > 0, gains, 0)) * z)
        return probes.to(rows).unbind()

    def summed(self, forms: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        mean = forms.mean(0)
        variance = ((forms - mean) ** 2).sum(0) / max(1, len(forms) - 1) / len(forms)
        return mean + inverse @ self.degrees, variance


def subspace(event_size: int, project: Callable[[Tensor], Tensor] | None, like: Tensor) -> Tensor:
    """Return orthonormal directions [r, d] that span the range of a projection of flat states [rows, d].

    Raises ValueError for states of more than MOST_FLAT entries, for which only probes are affordable.
    """
    if event_size > MOST_FLAT:
        raise ValueError(f"exact traces need one product for each of {event_size} entries of a state; use probes, for example 16")
    unit = torch.eye(event_size, dtype=torch.float64, device=like.device)
    if project is None:
        return unit.to(like)
    matrix = project(unit)
    if bool((matrix == torch.diag(matrix.diagonal())).all()):
        return unit[matrix.diagonal() > 0.5].to(like)
    size, axes = torch.linalg.eigh((matrix + matrix.T) / 2)
    kept: Tensor = axes[:, size > 0.5].T
    return kept.to(like).contiguous()


def divergences(
    evaluator: Evaluator,
    directions: Directions,
    x: Tensor,
    t: Tensor,
    factor: Tensor,
    inverse: Tensor,
    keys: list[tuple[int, int]],
) -> Tensor:
    """Return factor (tr J_s + tr diag(1/v)) and the variance of its estimate, [rows, 2] float64 on the host.

    Args:
        evaluator: evaluates the score, with at most its `max_rows` rows at once.
        directions: exact directions or probes.
        x: projected states, [rows, d].
        t: their times, [rows].
        factor: their sigma^2 dl/du, [rows] float64.
        inverse: 1/v per shell, [rows, num_shells] float64.
        keys: sample id and node of every row.
    """
    found, start = torch.zeros(len(x), 2, dtype=torch.float64), 0
    while start < len(x):
        part = slice(start, min(len(x), start + (evaluator.max_rows or len(x))))
        try:
            forms = _forms(evaluator, directions, x[part], t[part], keys[part])
        except torch.OutOfMemoryError:
            evaluator.halve(part.stop - part.start)
            continue
        total, variance = directions.summed(forms, inverse[part])
        found[part, 0], found[part, 1] = factor[part] * total, factor[part] ** 2 * variance
        start = part.stop
    return found


def _forms(evaluator: Evaluator, directions: Directions, x: Tensor, t: Tensor, keys: list[tuple[int, int]]) -> Tensor:
    """Quadratic forms v . J_s v along the directions v, [K, rows] float64 on the host."""
    forms = []
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        score = differentiable_score(evaluator, leaf, t, [sample for sample, _ in keys])
        for direction in directions.of(x, keys):
            (product,) = torch.autograd.grad(score, leaf, direction, retain_graph=True)
            forms.append((product * direction).sum(-1, dtype=torch.float64).cpu())
    return torch.stack(forms)


def differentiable_score(evaluator: Evaluator, x: Tensor, t: Tensor, samples: Sequence[int]) -> Tensor:
    """Return the score [rows, d] at flat states x [rows, d], which require gradients, with the graph of its computation.

    `samples` are the ids of the rows' samples, which select their conditions. Raises ScoreError for a score that torch cannot
    differentiate.
    """
    condition = () if evaluator.conditions is None else (evaluator.conditions.of(samples),)
    score = evaluator.score(x.clone().reshape(len(x), *evaluator.event_shape), t.clone(), *condition)
    if not score.requires_grad:
        raise ScoreError(
            "the score has no gradient with respect to its states, because it was computed under torch.no_grad or detached; "
            "densities and gradients need a score that torch can differentiate"
        )
    return score.reshape(x.shape).to(x.dtype)
