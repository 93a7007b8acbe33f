"""One rank's points of a block: states, moves, increments and draws of the samples in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.chain import affine, expand_rows
from .distribution import Rows
from .flight import Flight
from .guess import Guess
from .options import Options
from .problem import Problem
from .recurrence import Recurrence
from .tolerance import Motion

Slots = slice | Tensor


class Trajectory:
    """States `z`, their last moves, increments `b` and draws, [points, slots, c, n], at this rank's points.

    The path follows its increments, z[j+1] = A z[j] + b[j], whatever they were taken at. Window and front leave points
    closed at first: there the guess stands in for the score, with the remainder [slots, n] of the last open point.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        options: Options,
        comm: Communicator,
        slots: int,
        like: Tensor,
        *,
        closed: bool,
        keep_scores: bool = False,
    ):
        self.problem, self.rows, self.options, self.comm = problem, rows, options, comm
        self.points = torch.tensor(rows.points, dtype=torch.long)
        shape = (len(rows.points), slots, *like.shape[1:])
        self.z, self.move, self.b = like.new_zeros(shape), like.new_zeros(shape), like.new_zeros(shape)
        self.draws = like.new_zeros(shape) if problem.has_draws else None
        self.guess = None if problem.guess is None else Guess(problem, problem.guess)
        self.remainder = like.new_zeros(slots, like.shape[-1]) if closed and self.guess is not None else None
        self.scores = like.new_zeros(*shape[:2], problem.chain.reads, shape[-1]) if keep_scores else None
        self.first, self.end = like.new_zeros(shape[1:]), like.new_zeros(shape[1:])
        self.times = problem.chain.t.to(device=like.device, dtype=like.dtype)
        self.scan = Recurrence(problem.linear, problem.basis, rows, comm)
        self.base: tuple[int, Tensor] = (0, self.first)

    def enter(self, slots: Tensor, first: Tensor, samples: list[int]) -> None:
        """Samples take slots: their draws, and a first path, which costs no call of the score; collective."""
        own = contiguous(slots)
        self.first[own] = self.end[own] = first
        self.move[:, own] = self.b[:, own] = 0
        self.base = (0, self.first)
        if self.remainder is not None:
            self.remainder[own] = 0
        for local, j in enumerate(self.rows.points):
            self.z[local, own] = first
            if self.draws is not None:
                self.draws[local, own] = self.problem.draws(j, samples, first)
        if self.options.operator is not None:
            self._predicted_path(own, first)
        elif self.problem.reference is not None and self.options.start != "constant":
            self._guessed_path(own, first)

    def _predicted_path(self, own: Slots, first: Tensor) -> None:
        """The operator's states at this rank's points but the first of the block, which is known."""
        assert self.options.operator is not None
        basis, later = self.problem.basis, [j for j in self.rows.points if j > self.rows.start]
        path = self.options.operator(basis.synthesise(first), later)
        wanted = (len(later), *basis.synthesise(first).shape)
        if path.shape != wanted:
            raise ValueError(f"the operator gave a path of shape {tuple(path.shape)}; it must be {wanted}")
        for j, states in zip(later, path, strict=True):
            self.z[self.rows.points.index(j), own] = basis.analyse(self.problem.evaluator.project(states.to(first)))

    def _guessed_path(self, own: Slots, first: Tensor) -> None:
        """The reference's own path from the first state with the chain's draws."""
        problem, guess = self.problem, self.problem.guess
        assert guess is not None
        scan = self.scan if guess is problem.linear else Recurrence(guess, problem.basis, self.rows, self.comm)
        # what the guess's score adds to its own linear part does not depend on the state
        nothing = torch.zeros_like(first)
        b = self.b[:, own]
        for local, j in enumerate(self.rows.points):
            draws = None if self.draws is None else self.draws[local, own]
            problem.step(b[local], draws, j, nothing, self._guessed(j, own, nothing))
        z, end = self.z[:, own], self.end[own]
        scan(first, b, z, end, range(self.rows.count))
        self.z[:, own], self.end[own] = z, end
        # increments belong to the linear part of the sweeps
        self.b[:, own] = b if guess is problem.linear else 0

    def _guessed(self, j: int, own: Slots, z: Tensor) -> Tensor:
        """The guess's score with the remainder, in coordinates [slots, k, n]."""
        assert self.guess is not None
        return self.guess.score(j, z, None if self.remainder is None else self.remainder[own])

    def evaluate(self, flight: Flight, samples: Sequence[int], motion: Motion, start: int) -> None:
        """Scores at the open points, at most `max_rows` rows a call; increments, and what the sweep saw into `motion`.

        `samples` are the names of the slots' samples. Raises ScoreError for scores that are not finite.
        """
        evaluator = self.problem.evaluator
        open_points = (self.points[:, None] >= flight.low) & (self.points[:, None] < flight.high)
        pairs = open_points.nonzero()
        num_rows = evaluator.max_rows or max(1, len(pairs))
        for begin in range(0, len(pairs), num_rows):
            local, slot = pairs[begin : begin + num_rows].T
            points = self.points[local]
            z, t = self.z[local, slot], self.times[points.to(self.times.device)]
            score = evaluator(self.problem.read(points, z), t)
            kick = self.problem.basis.analyse(score)
            seen = self._increments(local, slot, z, kick)
            # what moved a point before it was evaluated is not its last move
            seen[1:3, points >= flight.reached[slot]] = 0
            if not bool(torch.isfinite(seen).all()):
                evaluator.check(score, t, [samples[int(s)] for s in slot])
            for part, row in zip(fields(motion), seen, strict=True):
                getattr(motion, part.name)[points - start, slot] = row
            if self.remainder is not None:
                self._keep_remainder(points == flight.high[slot] - 1, points, slot, z, kick)

    def _increments(self, local: Tensor, slot: Tensor, z: Tensor, kick: Tensor) -> Tensor:
        """New increments of some steps, and the parts of Motion there: [4, rows]."""
        problem, scale = self.problem, self.options.scale
        points, before, move = self.points[local], self.b[local, slot], self.move[local, slot]
        draws = None if self.draws is None else self.draws[local, slot]
        b, lifted = problem.increment(draws, points, z, kick)
        self.b[local, slot] = b
        if self.scores is not None:
            self.scores[local, slot] = kick
        change = b - before
        carried = affine(torch.empty_like(move), None, expand_rows(problem.basis, problem.linear.A[points], move), move)
        defect, moved, grown = (problem.size(part, scale) for part in (change, move, carried.add_(change)))
        return torch.stack([defect, moved, grown, problem.size(z, scale) + problem.size(lifted, scale)])

    def _keep_remainder(self, last: Tensor, points: Tensor, slot: Tensor, z: Tensor, kick: Tensor) -> None:
        """What the network adds to the guess at the last open points, for those behind them."""
        assert self.guess is not None and self.remainder is not None
        for row in last.nonzero()[:, 0].tolist():
            here = slice(row, row + 1)
            self.remainder[slot[here]] = self.guess.remainder(int(points[row]), z[here], kick[here])

    def extend(self, reached: Tensor, high: Tensor) -> None:
        """Increments at points not yet evaluated, from the ends `reached` of those that were up to `high`, by the guess."""
        if self.remainder is None:
            return
        for local, j in enumerate(self.rows.points):
            slots = ((reached <= j) & (high > j)).nonzero()[:, 0]
            if len(slots):
                z = self.z[local, slots]
                draws = None if self.draws is None else self.draws[local, slots]
                guessed = self._guessed(j, slots, z)
                points = torch.full((len(slots),), j)
                self.b[local, slots], _ = self.problem.increment(draws, points, z, guessed)

    def propagate(self, high: int, next_low: int) -> range:
        """The recurrence up to point `high`; the next one has nothing new before `next_low`. Collective.

        Returns the local indices of the points that it passed.
        """
        row, state = self.base
        span = range(row, self.rows.spanning(next_low, high).stop)
        passed = range(self.rows.local(span[0]).start, self.rows.local(span[-1]).stop)
        here = slice(passed.start, passed.stop)
        torch.neg(self.z[here], out=self.move[here])
        starts = self.scan(state, self.b, self.z, self.end, span)
        self.move[here] += self.z[here]
        ahead = min((next_low - self.rows.start) // self.rows.length - row, len(starts) - 1)
        self.base = (row + ahead, starts[ahead])
        return passed

    def rewind(self) -> None:
        """Begin the next recurrence at the block's first point again."""
        self.base = (0, self.first)

    def moves(self, low: int, high: int) -> Tensor:
        """How far the last recurrence moved the states of points low .. high-1, zero at other ranks': [high - low, slots]."""
        sizes = torch.zeros(high - low, self.z.shape[1], dtype=torch.float64)
        local = ((self.points >= low) & (self.points < high)).nonzero()[:, 0]
        if len(local):
            sizes[self.points[local] - low] = self.problem.size(self.move[contiguous(local)], self.options.scale)
        return sizes

    def keep(self, kept: Tensor) -> None:
        """Only some of the slots, one array after another, so that each old array is gone before the next copy is made."""
        self.first, self.end = self.first[kept], self.end[kept]
        self.base = (self.base[0], self.base[1][kept])
        self.z = self.z[:, kept]
        self.move = self.move[:, kept]
        self.b = self.b[:, kept]
        self.draws = None if self.draws is None else self.draws[:, kept]
        self.remainder = None if self.remainder is None else self.remainder[kept]
        self.scores = None if self.scores is None else self.scores[:, kept]


def bytes_held(problem: Problem, points: int, slots: int, itemsize: int, *, closed: bool, keep_scores: bool) -> int:
    """Count the bytes of a Trajectory's arrays at so many points of a rank, with `itemsize` bytes a number."""
    chain, n = problem.chain, problem.basis.num_coords
    arrays = 4 if problem.has_draws else 3
    numbers = slots * n * chain.channels * (points * arrays + 2)
    if closed and problem.guess is not None:
        numbers += slots * n
    if keep_scores:
        numbers += points * slots * n * chain.reads
    return itemsize * (numbers + len(chain.t)) + 8 * points


def contiguous(slots: Tensor) -> Slots:
    """The same slots as a slice where they are consecutive, so that arrays are viewed instead of copied."""
    low, high = int(slots[0]), int(slots[-1]) + 1
    return slice(low, high) if high - low == len(slots) else slots
