"""One rank's points of a block: states, moves, increments and draws of the samples in flight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from .distribution import Rows, Slots, evenly
from .first_path import operator_path, reference_path, student_path
from .flight import Flight
from .increments import renew
from .options import Options
from .prediction import Predictor
from .problem import Problem
from .recurrence import Recurrence
from .tables import Tables


class Trajectory:
    """States `z`, their last moves, increments `b` and draws, [points, slots, c, n], at this rank's points.

    The path satisfies z[j+1] = A z[j] + b[j], whatever states the increments were evaluated at. Points ahead of a window are
    closed at first: there the predictor replaces the score, with the remainder [slots, n] of the last open point.
    """

    def __init__(
        self, problem: Problem, rows: Rows, options: Options, comm: Communicator, slots: int, like: Tensor, *, closed: bool,
        keep_scores: bool = False,
    ):  # fmt: skip
        self.problem, self.rows, self.options, self.comm = problem, rows, options, comm
        self.points = torch.tensor(rows.points, dtype=torch.long)
        shape = (len(rows.points), slots, *like.shape[1:])
        self.z, self.move, self.b = like.new_zeros(shape), like.new_zeros(shape), like.new_zeros(shape)
        self.draws = like.new_zeros(shape) if problem.has_draws else None
        self.predictor = None if problem.prediction is None else Predictor(problem, problem.prediction)
        self.remainder = like.new_zeros(slots, like.shape[-1]) if closed and self.predictor is not None else None
        self.scores = like.new_zeros(*shape[:2], problem.chain.reads, shape[-1]) if keep_scores else None
        self.first, self.end = like.new_zeros(shape[1:]), like.new_zeros(shape[1:])
        self.times = problem.chain.t.to(device=like.device, dtype=like.dtype)
        self.scan = Recurrence(problem.linear, problem.basis, rows, comm, like)
        self.own = Tables(problem.basis, problem.increments, rows.points, like)
        self.lifting = Tables(problem.basis, problem.chain.Q, rows.points, like)
        self.base: tuple[int, Tensor] = (0, self.first)

    def enter(self, slots: Tensor, first: Tensor, samples: list[int]) -> None:
        """Assign slots to new samples: draw their noise and set their first path, which costs no call; collective."""
        own = evenly(slots)
        self.first[own] = self.end[own] = first
        self.move[:, own] = self.b[:, own] = 0
        self.base = (0, self.first)
        if self.remainder is not None:
            self.remainder[own] = 0
        for local, j in enumerate(self.rows.points):
            self.z[local, own] = first
            if self.draws is not None:
                self.draws[local, own] = self.problem.draws(j, samples, first)
        self._follow(own, first, samples)

    def _follow(self, own: Slots, first: Tensor, samples: list[int]) -> None:
        """Start from the path of the operator or the student, else from the reference's own."""
        problem, options, predictor = self.problem, self.options, self.predictor
        draws = None if self.draws is None else self.draws[:, own]
        z, b, end, same = self.z[:, own], self.b[:, own], self.end[own], True
        if options.operator is not None:
            for local, states in operator_path(problem, options.operator, self.rows, first).items():
                z[local] = states
        elif options.student is not None:
            tables = self.own, self.lifting
            student_path(problem, options.student, self.rows, tables, first, draws, samples, self.comm, z=z, b=b)
        elif predictor is not None and problem.reference is not None and options.start != "constant":
            same = predictor.linear is problem.linear
            scan = self.scan if same else Recurrence(predictor.linear, problem.basis, self.rows, self.comm, first)
            remainder = None if self.remainder is None else self.remainder[own]
            reference_path(predictor, scan, self.rows, first, draws, remainder, z=z, b=b, end=end)
        self.z[:, own], self.end[own] = z, end
        # sweeps can use these increments only if they belong to the same linear part
        self.b[:, own] = b if same else 0

    def evaluate(self, flight: Flight, samples: Sequence[int], parts: Tensor, start: int) -> None:
        """Evaluate the score at the chosen points, at most `max_rows` rows a call, and update the increments there.

        `samples` are the ids of the slots' samples. The defect, the last move after the step, and the size of the step's terms
        are written into `parts` [3, points, slots], whose first point is `start`. Raises ScoreError for scores that
        are not finite.
        """
        evaluator = self.problem.evaluator
        z, move, b = self.z.flatten(0, 1), self.move.flatten(0, 1), self.b.flatten(0, 1)
        draws = None if self.draws is None else self.draws.flatten(0, 1)
        chosen = flight.now[self.points - start].flatten().nonzero()[:, 0]
        num_rows = evaluator.max_rows or max(1, len(chosen))
        for begin in range(0, len(chosen), num_rows):
            rows = chosen[begin : begin + num_rows]
            local, slot = rows // self.z.shape[1], rows % self.z.shape[1]
            points, where = self.points[local], evenly(rows)
            t = self.times[points.to(self.times.device)]
            ids = [samples[s] for s in slot.tolist()]
            x = self.problem.read(points, z[where])
            output = evaluator(x, t, ids)
            state, score = self.problem.as_read(z[where], x), self.problem.basis.analyse(output)
            tables, scale = (self.own, self.lifting, self.scan.blocks), self.options.scale
            measured = renew(b, where, self.problem, tables, local, draws, move, state, score, scale)
            if self.scores is not None:
                self.scores[local, slot] = score
            # a point that was never evaluated has no last move: earlier moves do not count
            measured[1, points >= flight.reached[slot]] = 0
            if not bool(torch.isfinite(measured).all()):
                evaluator.check(output, t, ids)
            parts[:, points - start, slot] = measured
            if self.remainder is not None:
                self._keep_remainder(points == flight.high[slot] - 1, points, slot, state, score)

    def _keep_remainder(self, last: Tensor, points: Tensor, slot: Tensor, z: Tensor, score: Tensor) -> None:
        """Keep the remainder of the network at the last open points, for the closed points behind them."""
        assert self.predictor is not None and self.remainder is not None
        for row in last.nonzero()[:, 0].tolist():
            here = slice(row, row + 1)
            self.remainder[slot[here]] = self.predictor.remainder(int(points[row]), z[here], score[here])

    def share_remainder(self, high: Tensor) -> None:
        """Send the remainder at the last open points, high - 1, from the ranks that own them to all; collective."""
        assert self.remainder is not None
        mine = torch.tensor([self.rows.owner(int(j) - 1) == self.comm.rank for j in high])
        self.remainder[~mine] = 0
        self.remainder.copy_(self.comm.sum(self.remainder))

    def extend(self, reached: Tensor, high: Tensor) -> None:
        """Predict the increments at points reached .. high-1 [slots], which were never evaluated."""
        if self.remainder is None or self.predictor is None:
            return
        for local, j in enumerate(self.rows.points):
            slots = ((reached <= j) & (high > j)).nonzero()[:, 0]
            if len(slots):
                z = self.z[local, slots]
                draws = None if self.draws is None else self.draws[local, slots]
                score = self.predictor.score(j, z, self.remainder[slots])
                self.b[local, slots], _ = self.problem.increment(draws, self.own.at(local), self.lifting.at(local), z, score)

    def propagate(self, high: int, low: Tensor, left_out: Tensor) -> None:
        """Run the recurrence up to point `high`; the next one changes nothing before the least of `low` [slots]. Collective.

        A passed point, before its slot's `low`, keeps its state and the move that it made after its last evaluation. A point of
        the mask `left_out` [points, slots], which the sweep did not evaluate, adds this move to those since then.
        """
        row, state = self.base
        next_low = min(int(low.min()), self.rows.stop - 1)
        span = range(row, self.rows.spanning(next_low, high).stop)
        here = slice(self.rows.local(span[0]).start, self.rows.local(span[-1]).stop)
        passed = (self.points[here, None] < low).nonzero(as_tuple=True)
        skipped = left_out[self.points[here] - self.rows.start].nonzero(as_tuple=True)
        move = self.move[here]
        kept, since = move[passed], move[skipped]
        starts = self.scan(state, self.b, self.z, self.end, span, self.move)
        move[passed] = kept
        move[skipped] += since
        ahead = min((next_low - self.rows.start) // self.rows.length - row, len(starts) - 1)
        self.base = (row + ahead, starts[ahead])

    def rewind(self) -> None:
        """Let the next recurrence begin at the block's first point again."""
        self.base = (0, self.first)

    def moves(self, low: int, high: int) -> Tensor:
        """Sizes [high - low, slots] of the last moves at points low .. high-1; zero at the points of other ranks."""
        sizes = torch.zeros(high - low, self.z.shape[1], dtype=torch.float64)
        local = ((self.points >= low) & (self.points < high)).nonzero()[:, 0]
        if len(local):
            sizes[self.points[local] - low] = self.problem.size(self.move[evenly(local)], self.options.scale)
        return sizes

    def state(self, point: int, slot: int) -> Tensor:
        """The state [c, n] of one slot at a point, from the rank that owns the point; collective."""
        owner = self.rows.owner(point)
        own = self.z[self.rows.points.index(point), slot] if owner == self.comm.rank else self.first[slot]
        return self.comm.bcast(own.clone(), owner)

    def keep(self, kept: Tensor) -> None:
        """Keep only the slots of the mask `kept`. Each old array is freed before the next one is copied."""
        self.first, self.end = self.first[kept], self.end[kept]
        self.base = (self.base[0], self.base[1][kept])
        self.remainder = None if self.remainder is None else self.remainder[kept]
        for name in ("z", "move", "b", "draws", "scores"):
            values = getattr(self, name)
            setattr(self, name, None if values is None else values[:, kept])
