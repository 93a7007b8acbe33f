"""Pieces of a flow: the tables for sweeps over their nodes, and the records of the samples that are solved on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..gaussian.reference import GaussianReference
from ..theory.chebyshev import chebyshev_nodes, interpolation
from .collocation import Collocation, Piece
from .whitening import Whitening


@dataclass(frozen=True)
class PieceTables:
    """The tables of a piece with M nodes, in the precision and on the device of the states; the piece's end comes last.

    Attributes:
        piece: the piece itself.
        root: whitens the states at the nodes and the end, [M + 1, n or 1].
        weights: sum remainders at the nodes to whitened states, [M + 1, M].
        steps: differences of `weights` from node to node.
        doubt: the shares of the last Chebyshev coefficients in those sums, and of those before them, [2, M + 1, M].
        gain: the slope of the remainder that sweeps treat exactly, [M, n or 1]; None where the model was not probed.
        inverse: solves for the states at the nodes with that slope, [n or 1, M, M].
    """

    piece: Piece
    root: Tensor
    weights: Tensor
    steps: Tensor
    doubt: Tensor
    gain: Tensor | None
    inverse: Tensor | None

    @property
    def nodes(self) -> int:
        """The number of nodes M."""
        return len(self.piece.t)

    @classmethod
    def of(cls, scheme: Collocation, reference: GaussianReference, low: float, high: float, like: Tensor) -> PieceTables:
        """Build the tables between log-SNRs low and high for states like `like`."""
        piece, basis = scheme.piece(low, high), reference.basis

        def expanded(table: Tensor) -> Tensor:
            return basis.expand(table.to(like))

        weights = piece.weights.to(like)
        steps = torch.diff(weights, dim=0, prepend=torch.zeros_like(weights[:1]))
        gain = inverse = None
        slope = _slope(scheme, piece)
        if slope is not None:
            eye = torch.eye(len(slope), dtype=torch.float64)
            solved = torch.linalg.inv(eye - piece.weights[:-1] * slope.T[:, None, :])
            gain, inverse = expanded(slope), expanded(solved.movedim(0, -1)).movedim(-1, 0).contiguous()
        return cls(piece, expanded(piece.root), weights, steps, piece.doubt.to(like), gain, inverse)

    def path(self, y: Tensor, remainder: Tensor, at: Tensor) -> Tensor:
        """Compute the states [M + 1, n] at nodes and end from the first state y [n] and the remainders at states `at` [M, n].

        The slope `gain` carries a remainder from the old state to the new one: (I - W G) y_new = y + W (g - G at), per shell.
        """
        if self.gain is None or self.inverse is None:
            return torch.addmm(y, self.weights, remainder)
        right = torch.addmm(y, self.weights, remainder - self.gain * at)
        nodes = torch.einsum("nij,jn->in", self.inverse.expand(right.shape[-1], -1, -1), right[:-1])
        end = right[-1] + self.weights[-1] @ (self.gain * nodes)
        return torch.cat([nodes, end[None]])

    def next_defect(self, defect: Tensor, missed: Tensor, moved: Tensor, move: Tensor) -> Tensor:
        """Predict the defects [M] of the next path, which moves by `move` [M].

        The present path has the defects `defect` [M], which are sums of the changes `missed` [M] of the remainders after moves
        `moved`.
        """
        shares = self.steps.abs().to(missed) * missed
        ratio = torch.where(moved > 0, move / torch.where(moved > 0, moved, 1.0), 1.0)
        # without a change of the remainder there is no defect either
        return defect * (shares @ ratio) / shares.sum(1).clamp(min=torch.finfo(shares.dtype).tiny)

    def predicted(self, remainder: Tensor, at: Tensor, path: Tensor) -> Tensor:
        """Predict the remainders [M, n] along a path from the remainders at the states `at`."""
        return remainder if self.gain is None else remainder + self.gain * (path[:-1] - at)


def _slope(scheme: Collocation, piece: Piece) -> Tensor | None:
    """Mean slope dg/dy of the remainder per shell, from the model's probed Jacobian diagonal: [M, num_shells]."""
    reference = scheme.reference
    if reference.response is None:
        return None
    alpha, sigma = piece.alpha[:-1], piece.sigma[:-1]
    own = alpha[:, None] ** 2 * reference.spectrum.to(torch.float64).cpu() / reference.variance(alpha, sigma).cpu()
    return reference.response.at(sigma / alpha) - own


@dataclass(frozen=True)
class Task:
    """A piece that is still to be solved, between two log-SNRs.

    `predicted` [M, n] are remainders at its nodes to start from; None starts from the reference's own flow.
    """

    low: float
    high: float
    predicted: Tensor | None = None


@dataclass(frozen=True)
class Visited:
    """A solved piece of a sample: its tables, and the whitened states at its nodes and its end, [M + 1, n]."""

    tables: PieceTables
    path: Tensor


@dataclass
class Slot:
    """A sample that is being solved on a piece of the flow.

    Attributes:
        index: position of the sample in the batch.
        y: whitened state [n] at the start of the piece.
        todo: pieces still to be solved; the last one is the present one.
        tables: the tables of the present piece.
        path: states at its nodes and end, [M + 1, n].
        at: states at the nodes where `remainder` was evaluated, [M, n].
        remainder: the last remainders at the nodes, [M, n].
        evaluated: the remainders of the present sweep, along `path`.
        age: number of sweeps over this piece.
        idle: number of sweeps since the bound last became clearly smaller.
        bound: bound on the error at the end of the piece, including the errors of the pieces before it.
        best: the smallest bound for this piece alone.
        doubt: estimate of the interpolation error, because the nodes do not resolve the remainder.
        spread: largest root mean square of a whitened state on the path.
        rounded: whether the path reproduces its own remainders to rounding.
        carried: bound on the error of `y`.
    """

    index: int
    y: Tensor
    todo: list[Task]
    tables: PieceTables = field(init=False)
    path: Tensor = field(init=False)
    at: Tensor = field(init=False)
    remainder: Tensor = field(init=False)
    evaluated: Tensor = field(init=False)
    age: int = 0
    idle: int = 0
    bound: float = float("inf")
    best: float = float("inf")
    doubt: float = float("inf")
    spread: float = 0.0
    rounded: bool = False
    carried: float = 0.0

    def grow(self, tables: PieceTables) -> None:
        """Continue with more nodes, those of other tables of the same piece, from the polynomials through the known values.

        The remainders form one polynomial, and the states at which they were evaluated, with the first state, another.
        """
        old, new = chebyshev_nodes(len(self.at)), chebyshev_nodes(tables.nodes)
        self.remainder = interpolation(old, new).to(self.y) @ self.remainder
        self.at = interpolation(np.append(-1.0, old), new).to(self.y) @ torch.cat([self.y[None], self.at])
        self.tables = tables
        self.path = tables.path(self.y, self.remainder, self.at)
        self.idle, self.bound, self.best = 0, float("inf"), float("inf")

    def start(self, tables: PieceTables) -> None:
        """Begin the present piece, on the reference's flow or with the remainders predicted from a larger piece."""
        predicted = self.todo[-1].predicted
        self.tables = tables
        self.remainder = self.y.new_zeros(len(tables.weights) - 1, len(self.y)) if predicted is None else predicted
        self.path = torch.addmm(self.y, tables.weights, self.remainder)
        self.at = self.path[:-1]
        self.age, self.idle, self.bound, self.best = 0, 0, float("inf"), float("inf")

    def advance(self, whitening: Whitening, scale: float | Tensor, points: int) -> Tensor:
        """Compute the next path from the remainders along the present one; return the sweep's measurements, [8, points].

        These are the fields of `Motion` at the nodes, the contributions of the last Chebyshev coefficients and of those before
        them, the root mean square of the whitened states, and the expected defect of the next path; zero beyond the nodes.
        """
        tables, before = self.tables, self.path[:-1]
        missed, moved = self.evaluated - tables.predicted(self.remainder, self.at, self.path), before - self.at
        defect, move = tables.steps @ missed, torch.cat([torch.zeros_like(self.path[:1]), moved])
        grown = move + tables.steps @ (self.evaluated - self.remainder)
        start = torch.cat([self.y[None], self.path[:-1]])
        sizes = [whitening.size(part, scale) for part in (defect, grown, start, move, *(tables.doubt @ self.evaluated))]
        spread = torch.linalg.vector_norm(start, dim=-1) / start.shape[-1] ** 0.5
        self.at, self.remainder = self.path[:-1], self.evaluated
        self.path = tables.path(self.y, self.remainder, self.at)
        left = tables.next_defect(sizes[0], *(whitening.size(part, scale) for part in (missed, moved, self.path[:-1] - before)))
        return functional.pad(torch.stack([*sizes, spread.to(sizes[0]), left]), (0, points - tables.nodes))
