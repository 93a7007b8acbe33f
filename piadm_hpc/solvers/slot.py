"""Samples that are being solved on pieces of a flow: what is left to do, and what the sweeps over a piece found so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..theory.chebyshev import chebyshev_nodes, folded, interpolation, rest_of_series
from .collocation import Collocation
from .jumps import largest_step
from .pieces import PieceTables
from .settled import Settled
from .tolerance import ONCE, ROUNDING
from .whitening import Whitening

ENOUGH = 16  # nodes, of which a quarter of the coefficients tells whether they still fall


@dataclass(frozen=True)
class Task:
    """A piece that is still to be solved, between two coordinates.

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
        settled: the first nodes that the next sweep leaves out.
        growth: of the errors in the steps from node to node, where it was last measured, [points + 1].
        seen: moves of the nodes in the last sweep and the answers of the denoised estimate to them, [2, M + 1]; None if the
            piece was entered, or given more nodes, since then.
        jump: largest jump of the denoised estimate that the sample has shown.
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
    settled: Settled = field(init=False)
    growth: Tensor = field(init=False)
    seen: Tensor | None = None
    jump: float = 0.0

    def grow(self, tables: PieceTables) -> None:
        """Continue with more nodes, those of other tables of the same piece, from the polynomials through the known values.

        The remainders form one polynomial, and the states at which they were evaluated, with the first state, another.
        """
        old, new = chebyshev_nodes(len(self.at)), chebyshev_nodes(tables.nodes)
        self.remainder = interpolation(old, new).to(self.y) @ self.remainder
        self.at = interpolation(np.append(-1.0, old), new).to(self.y) @ torch.cat([self.y[None], self.at])
        self.tables = tables
        self.path = tables.path(self.y, self.remainder, self.at)
        self._begin()

    def start(self, tables: PieceTables) -> None:
        """Begin the present piece, on the reference's flow or with the remainders predicted from a larger piece."""
        predicted = self.todo[-1].predicted
        self.tables = tables
        self.remainder = self.y.new_zeros(len(tables.weights) - 1, len(self.y)) if predicted is None else predicted
        self.path = torch.addmm(self.y, tables.weights, self.remainder)
        self.at = self.path[:-1]
        self.age = 0
        self._begin()

    def _begin(self) -> None:
        """Forget what was measured with other nodes."""
        self.idle, self.bound, self.best, self.seen = 0, float("inf"), float("inf"), None
        self.settled, self.growth = Settled.none(self.tables.nodes), torch.zeros(0, dtype=torch.float64)

    def take(self, evaluated: Tensor) -> None:
        """Take the remainders of a sweep, [M - settled, n]; those of the nodes that it left out follow from their slopes."""
        known = self.tables.predicted(self.remainder, self.at, self.path)[: self.settled.count]
        self.evaluated, self.age = torch.cat([known, evaluated]), self.age + 1

    def advance(self, whitening: Whitening, scale: float | Tensor, points: int) -> Tensor:
        """Compute the next path from the remainders along the present one; return what the sweep measured, [12, points].

        These are the fields of `Motion` at the nodes, the contributions of the last Chebyshev coefficients and of those before
        them, the root mean square of the whitened states, and the defect to be expected of the next path, zero beyond the
        nodes; the root mean squares of the last quarter of the coefficients and of the quarter before; and at the nodes the
        change of the whitened denoised estimate, without the reference's own, and that of the remainder to be expected next.
        """
        tables, before = self.tables, self.path[:-1]
        missed, moved = self.evaluated - tables.predicted(self.remainder, self.at, self.path), before - self.at
        defect, move = tables.steps @ missed, torch.cat([torch.zeros_like(self.path[:1]), moved])
        grown = move + tables.steps @ (self.evaluated - self.remainder)
        start = torch.cat([self.y[None], self.path[:-1]])
        sizes = [whitening.size(part, scale) for part in (defect, grown, start, move, *(tables.doubt @ self.evaluated))]
        # the remainder follows a state with the slope -own where the denoised estimate does not change
        rate = tables.piece.rate[:-1, None].to(moved)
        change = ((self.evaluated - self.remainder) / rate).addcmul_(tables.own, moved)
        spread = torch.linalg.vector_norm(start, dim=-1) / start.shape[-1] ** 0.5
        self.at, self.remainder = self.path[:-1], self.evaluated
        self.path = tables.path(self.y, self.remainder, self.at)
        ahead = whitening.size(self.path[:-1] - before, scale)
        changes, since = self.settled.completed(whitening.size(missed, scale), whitening.size(moved, scale))
        left_out = torch.where(torch.arange(tables.nodes) < self.settled.count, changes, 0.0)
        sizes[0] += tables.steps.abs().to(left_out) @ left_out
        left = tables.next_defect(sizes[0], changes, since, self.settled.strayed + ahead)
        tails = [whitening.size(part @ self.evaluated, scale).square().mean().sqrt().expand(points + 1) for part in tables.tail]
        measured = functional.pad(torch.stack([*sizes, spread.to(sizes[0]), left]), (0, points - tables.nodes))
        shown = torch.stack([whitening.size(change, scale), self.settled.expected(ahead)])
        return torch.cat([measured, torch.stack(tails), functional.pad(shown, (1, points - tables.nodes))])

    def inherit(self, scheme: Collocation, parts: Sequence[tuple[float, float]]) -> list[Tensor]:
        """Interpolate the remainders of the present piece at the nodes of some of its parts."""
        piece = self.tables.piece
        tables = (scheme.inherit(piece.low, piece.high, part, self.tables.nodes).to(self.y) for part in parts)
        return [table @ self.remainder for table in tables]

    def share(self, length: float) -> float:
        """Return the part that the present piece is of a range of a length."""
        return self.tables.piece.length / length

    def settle(self, expected: Tensor, allowed: float) -> None:
        """Leave out first nodes as long as their changes `expected` [points] together add at most `allowed` to the next bound."""
        self.settled.settle(expected[1 : self.tables.nodes + 1], self.tables.steps, self.growth, allowed)

    def note_bounds(self, growth: Tensor, alone: float, bound: float, *, rounded: bool) -> None:
        """Take the growths [points + 1] in a sweep and its bounds, on the error of this piece alone and on that of all so far."""
        self.growth, self.rounded = growth[: self.tables.nodes + 1], rounded
        known, once = self.age > 1 or rounded, self.age <= 2 and not rounded
        own, self.bound = (end if known else float("inf") for end in (alone, bound))
        own /= ONCE if once else 1.0
        self.idle = 0 if own < 0.7 * self.best else self.idle + 1
        self.best = min(self.best, own)

    def note(self, measured: Tensor, precision: float, small: float) -> None:
        """Take from what ranks share of `advance`, [12, points], the spread of the path, what the nodes leave, and jumps.

        A change of the denoised estimate under a move of at most `small` is a jump if the estimate stands still in the sweep
        before or after.
        """
        measured = measured[:, : self.tables.nodes + 1]
        last, before, self.spread = (float(row.max()) for row in measured[4:7])
        rounding = ROUNDING * precision * measured[2]
        tails = float(measured[8, 0]), float(measured[9, 0])
        unseen = max(0.0, folded(*tails) - float(rounding.max())) if self.tables.nodes >= ENOUGH else 0.0
        self.doubt = max(rest_of_series(last, before), unseen * abs(self.tables.piece.length) / 2)
        move, change = measured[3], measured[10]
        evaluated = torch.arange(len(move)) > self.settled.unmeasured
        now = torch.stack([move, change / move.clamp(min=torch.finfo(move.dtype).tiny)]) * (evaluated & (move > rounding))
        if self.seen is not None:
            self.jump = max(self.jump, largest_step(self.seen, now, small))
        # after an interpolation to more nodes the changes are not those between two evaluations
        self.seen = torch.zeros_like(now) if self.seen is None else now
