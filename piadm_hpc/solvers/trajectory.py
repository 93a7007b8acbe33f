"""One rank's points of a block: states, draws, increments and last denoised estimates, for the samples in flight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.chain import apply, expand
from .distribution import Rows
from .flight import Front
from .guess import Guess
from .linear import LinearPart
from .problem import Problem
from .recurrence import Recurrence
from .tolerance import ShouldStop, Tolerance
from .window import Schedule

Slots = slice | Tensor
Operator = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Method:
    """How sweeps are made.

    `linear` is what they treat exactly. `guess`, whose score with the last remainder held stands in for the network at
    closed points, also gives the first path if `start` is true; otherwise that is copies of the first state.
    `in_flight` limits the samples worked on at once: one that is done makes room for the next. `operator`, from states
    [samples, c, d] of a first point and later points to states [points, samples, c, d] there, gives the first path instead.
    `keep_scores`: whether the scores of the last sweep are kept for those who linearise steps.
    `should_stop` may end the work between sweeps.
    """

    stop: Tolerance
    linear: LinearPart
    guess: LinearPart | None
    start: bool
    schedule: Schedule
    in_flight: int | None
    operator: Operator | None = None
    keep_scores: bool = False
    should_stop: ShouldStop | None = None


class Points:
    """States z, increments b [points, slots, c, n], draws like them, and estimates `seen` [points, slots, d]."""

    def __init__(self, problem: Problem, rows: Rows, method: Method, comm: Communicator, slots: int, like: Tensor):
        self.problem, self.rows, self.method = problem, rows, method
        shape = (len(rows.points), slots, *like.shape[1:])
        self.z, self.b = like.new_zeros(shape), like.new_zeros(shape)
        self.draws = like.new_zeros(shape) if problem.has_draws else None
        size = problem.basis.synthesise(like[:1, 0]).shape[-1]
        self.seen = like.new_zeros(len(rows.points), slots, size)
        self.guess = None if method.guess is None else Guess(problem, method.guess)
        self.held = like.new_zeros(slots, like.shape[-1]) if method.schedule.moves and method.guess is not None else None
        self.kicks = like.new_zeros(*shape[:2], problem.chain.reads, shape[-1]) if method.keep_scores else None
        self.first, self.end = like.new_zeros(shape[1:]), like.new_zeros(shape[1:])
        self.times = problem.chain.t.to(device=like.device, dtype=like.dtype)
        self.scan = Recurrence(method.linear, problem.basis, rows, comm)
        guess = method.guess if method.start and method.operator is None else None
        self.first_scan = None if guess is None else self.scan
        if guess is not None and guess is not method.linear:
            self.first_scan = Recurrence(guess, problem.basis, rows, comm)
        self.base: tuple[int, Tensor] = (0, self.first)

    def enter(self, slots: Tensor, first: Tensor, samples: list[int]) -> None:
        """Samples take slots: their draws, and their first path, which costs no score call; collective."""
        own = contiguous(slots)
        self.first[own] = self.end[own] = first
        self.base = (0, self.first)
        if self.held is not None:
            self.held[own] = 0
        for local, j in enumerate(self.rows.points):
            if self.draws is not None:
                self.draws[local, own] = self.problem.draws(j, samples, first)
            if self.first_scan is None:
                self.z[local, own] = first
        if self.first_scan is not None:
            self._first_path(own, first, self.first_scan)
        elif self.method.operator is not None:
            self._foretold_path(own, first, self.method.operator)

    def _foretold_path(self, own: Slots, first: Tensor, operator: Operator) -> None:
        """The operator's states at this rank's points but the first of the block, which is known."""
        basis, later = self.problem.basis, [j for j in self.rows.points if j > self.rows.start]
        path = operator(basis.synthesise(first), later)
        wanted = (len(later), *first.shape[:2], self.seen.shape[-1])
        if path.shape != wanted:
            raise ValueError(f"the operator gave a path of shape {tuple(path.shape)}; it must be {wanted}")
        for j, states in zip(later, path, strict=True):
            self.z[self.rows.points.index(j), own] = basis.analyse(self.problem.evaluator.project(states.to(first)))

    def _first_path(self, own: Slots, first: Tensor, scan: Recurrence) -> None:
        assert self.method.guess is not None
        z, b, end = self.z[:, own], self.b[:, own], self.end[own]
        z.zero_()
        for local in range(len(self.rows.points)):
            self._guess(local, own, z[local], b[local], self.method.guess)
        scan(first, b, z, end, range(self.rows.count))
        if isinstance(own, Tensor):
            self.z[:, own], self.end[own] = z, end

    def _guess(self, local: int, own: Slots, z: Tensor, out: Tensor, linear: LinearPart) -> None:
        """Increments at a point where the guess's score, with the remainder held, stands in for the network's."""
        draws = None if self.draws is None else self.draws[local, own]
        self.problem.increment(out, draws, self.rows.points[local], z, self._guessed(local, own, z), linear)

    def _guessed(self, local: int, own: Slots, z: Tensor) -> Tensor:
        """The guess's score with the remainder held, in coordinates [slots, k, n]."""
        assert self.guess is not None
        return self.guess.score(self.rows.points[local], z, None if self.held is None else self.held[own])

    def evaluate(self, front: Front, samples: list[int], change: Tensor) -> None:
        """Scores at the open points, at most `max_rows` rows a call; increments, and changes [points of the block, slots].

        `samples` are the names of the slots' samples. Raises ScoreError for scores that are not finite.
        """
        evaluator, problem = self.problem.evaluator, self.problem
        points = torch.tensor(self.rows.points, dtype=torch.long)[:, None]
        pairs = ((points >= front.low) & (points < front.high)).nonzero()
        num_rows = evaluator.max_rows or max(1, len(pairs))
        for start in range(0, len(pairs), num_rows):
            local, slot = pairs[start : start + num_rows].T
            x = evaluator.project(problem.basis.synthesise(self._readings(local, slot)))
            t = self.times[points[local, 0]]
            score = evaluator(x, t)
            kick = problem.basis.analyse(score)
            bounds = [0, *((local.diff() != 0).nonzero()[:, 0] + 1).tolist(), len(local)]
            sound = [
                self._take(int(local[low]), slot[low:high], x[low:high], score[low:high], kick[low:high], front, change)
                for low, high in pairwise(bounds)
            ]
            if not all(sound):
                evaluator.check(score, t, [samples[int(s)] for s in slot])

    def _readings(self, local: Tensor, slot: Tensor) -> Tensor:
        """What the score reads of the states of some points and slots: coordinates [rows, k, n]."""
        chain = self.problem.chain
        if chain.plain:
            return self.z[local, slot, : chain.reads]
        return torch.stack([chain.reading(self.rows.points[a], self.z[a, b]) for a, b in zip(local, slot, strict=True)])

    def _take(self, local: int, slots: Tensor, x: Tensor, score: Tensor, kick: Tensor, front: Front, change: Tensor) -> bool:
        """From some samples' scores at a point: how far their denoised estimates moved, and the increments of its step.

        Returns whether all these changes are finite.
        """
        j, own = self.rows.points[local], contiguous(slots)
        fresh = slots[front.reached[slots] <= j]
        if len(fresh):
            self._foresee(local, contiguous(fresh))
        moved = self._moved(local, own, x, score)
        change[j - self.rows.start, slots] = moved
        z, out = self.z[local, own], self.b[local, own]
        draws = None if self.draws is None else self.draws[local, own]
        self.problem.increment(out, draws, j, z, kick, self.method.linear)
        if isinstance(own, Tensor):
            self.b[local, own] = out
        if self.held is not None and self.guess is not None:
            last = front.high[slots] == j + 1
            self.held[slots[last]] = self.guess.remainder(j, z[last], kick[last])
        if self.kicks is not None:
            self.kicks[local, own] = kick
        return bool(torch.isfinite(moved).all())

    def _foresee(self, local: int, own: Slots) -> None:
        """The estimate alpha D that stood in for the network at a point not yet evaluated; inf where nothing did."""
        z = self.z[local, own]
        foreseen = self.first_scan is not None or self.held is not None
        if self.method.guess is None or not foreseen:
            self.seen[local, own] = float("inf")
            return
        j, basis = self.rows.points[local], self.problem.basis
        x, score = basis.synthesise(self.problem.chain.reading(j, z)), basis.synthesise(self._guessed(local, own, z))
        self.seen[local, own] = self.problem.add_estimate(torch.zeros_like(self.seen[local, own]), j, x, score)

    def _moved(self, local: int, own: Slots, x: Tensor, score: Tensor) -> Tensor:
        """Change of the denoised estimates of some samples at a point, root mean square in units of the scale.

        What is remembered is the estimate times `unit`, in place: x + sigma^2 s where the score reads one field.
        """
        stop, problem, j, seen = self.method.stop, self.problem, self.rows.points[local], self.seen[local, own]
        moved = problem.add_estimate(seen, j, x, score, -1.0)
        if isinstance(stop.scale, Tensor):
            moved.div_(stop.scale)
        norm: Tensor = torch.linalg.vector_norm(moved, dim=-1).to("cpu", torch.float64)
        problem.add_estimate(seen.zero_(), j, x, score)
        if isinstance(own, Tensor):
            self.seen[local, own] = seen
        unit = 1.0 if isinstance(stop.scale, Tensor) else stop.scale
        return norm.div_(x.shape[-1] ** 0.5 * problem.unit(j) * unit)

    def extend(self, front: Front, high: Tensor) -> None:
        """Increments at points that were never evaluated, up to the new ends `high` of the open points."""
        if self.held is None:
            return
        for local, j in enumerate(self.rows.points):
            slots = ((front.reached <= j) & (high > j)).nonzero()[:, 0]
            if len(slots):
                own = contiguous(slots)
                out = self.b[local, own]
                self._guess(local, own, self.z[local, own], out, self.method.linear)
                if isinstance(own, Tensor):
                    self.b[local, own] = out

    def states(self, low: int, high: int) -> tuple[list[int], Tensor]:
        """This rank's points from low on and before high, by local index, and a copy of their states."""
        local = [index for index, j in enumerate(self.rows.points) if low <= j < high]
        return local, self.z[local]

    def shifts(self, local: list[int], before: Tensor) -> Tensor:
        """How far states of some points are from what they were, and how far their denoised estimates should have gone.

        Root mean squares in units of the scale, [2, len, slots]. The estimates remembered there follow as the linear part
        presumes, so that the next change is what it did not know.
        """
        moved = torch.zeros(2, len(local), before.shape[1], dtype=torch.float64)
        slope, basis, scale = self.method.linear.slope, self.problem.basis, self.method.stop.scale
        for row, index in enumerate(local):
            j = self.rows.points[index]
            away = self.problem.chain.reading(j, self.z[index] - before[row])
            x = basis.synthesise(away)
            sizes = [(x[:, 0], float(self.problem.chain.levels[0][j, 0]))]
            if slope is not None:
                follows = basis.synthesise(apply(expand(basis, slope[j], away), away))
                estimate = self.problem.add_estimate(torch.zeros_like(self.seen[index]), j, x, follows)
                self.seen[index] += estimate
                sizes.append((estimate, self.problem.unit(j)))
            for kind, (field, unit) in enumerate(sizes):
                norm = torch.linalg.vector_norm(field / scale, dim=-1).to("cpu", torch.float64)
                moved[kind, row] = norm / (unit * field.shape[-1] ** 0.5)
        return moved

    def update(self, high: int, next_low: int) -> None:
        """The recurrence up to point `high`; the next one has nothing new before `next_low`. Collective."""
        row, state = self.base
        span = range(row, self.rows.spanning(next_low, high).stop)
        starts = self.scan(state, self.b, self.z, self.end, span)
        ahead = min((next_low - self.rows.start) // self.rows.length - row, len(starts) - 1)
        self.base = (row + ahead, starts[ahead])

    def keep(self, kept: Tensor) -> None:
        """Only some of the slots, one array after another, so that each old array is gone before the next copy is made."""
        self.first, self.end = self.first[kept], self.end[kept]
        self.base = (self.base[0], self.base[1][kept])
        self.z = self.z[:, kept]
        self.b = self.b[:, kept]
        self.seen = self.seen[:, kept]
        self.draws = None if self.draws is None else self.draws[:, kept]
        self.held = None if self.held is None else self.held[kept]
        self.kicks = None if self.kicks is None else self.kicks[:, kept]


def contiguous(slots: Tensor) -> Slots:
    """The same slots as a slice where they are consecutive, so that arrays are viewed instead of copied."""
    low, high = int(slots[0]), int(slots[-1]) + 1
    return slice(low, high) if high - low == len(slots) else slots
