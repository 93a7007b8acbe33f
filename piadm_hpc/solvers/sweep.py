"""Picard sweeps over a block: all scores in one batch, then one scan of affine maps.

    x_new[j+1] = A[j] x_new[j] + ((P[j]-A[j]) x[j] + Q[j] s(x[j], t[j]) + N[j] xi[j] + M[j] mean)      (sweep)

Each time rank owns slices of the block's points. A sweep costs one batched score call, one exclusive scan and two
maxima; a block one broadcast more, a moving window one broadcast and one sum a sweep. After k sweeps the points up to
k are exact whatever A is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.grid import Block
from .distribution import Rows
from .flight import Flight
from .options import Options
from .problem import Problem
from .sequential import run_steps
from .solution import BlockSolution, Interrupted, ShouldStop, Status
from .tolerance import SAFETY, Motion, Verdict, judge
from .trajectory import Trajectory
from .window import Window


class PicardSolver:
    """The iteration on one rank: samples enter slots, are swept until they are done, and leave.

    Baselines replace single parts of it: `_update` makes the next path, `_judge` says who is done.
    """

    keep_scores = False

    def __init__(
        self,
        problem: Problem,
        block: Block,
        first: Tensor,
        samples: Sequence[int],
        options: Options,
        comm: Communicator,
        *,
        carried: Tensor | None = None,
        should_stop: ShouldStop | None = None,
    ):
        if len(block) < comm.size:
            raise ValueError(
                f"block {block.index} has {len(block)} steps for {comm.size} time ranks; use fewer ranks or fewer blocks"
            )
        self.problem, self.block, self.samples, self.options, self.comm = problem, block, list(samples), options, comm
        self.first, self.should_stop = first, should_stop
        self.carried = torch.zeros(len(samples), dtype=torch.float64) if carried is None else carried
        self.window = Window.of(options, problem.chain.edges)
        self.rows = Rows.of(block, window=self.window.width(block), size=comm.size, rank=comm.rank)
        slots = min(len(samples), options.in_flight or len(samples))
        closed = self.window.moves
        self.trajectory = Trajectory(problem, self.rows, options, comm, slots, first, closed=closed, keep_scores=self.keep_scores)
        self.limit = min(options.sweeps or len(block), len(block))
        self.result = BlockSolution.unsolved(first, len(samples))
        self.given_up: list[tuple[int, int, Tensor]] = []
        self.waiting = list(range(len(samples)))
        self.flight = self._new(self.waiting[:slots])
        self._enter(torch.arange(slots))

    def run(self) -> BlockSolution:
        """Sweep until every sample is done. Raises ScoreError on every rank when the score fails on any, and Interrupted."""
        while len(self.flight.index):
            self._look()
            motion = self._evaluate()
            self._update()
            self._move()
            self._retire(self._judge(motion))
        self._finish_sequentially()
        self.result.end.copy_(self.comm.bcast(self.result.end, self.comm.size - 1))
        return self.result

    def _look(self) -> None:
        """End here if that is asked for, with the samples that are done by themselves."""
        if self.should_stop is None:
            return
        at_work = {*self.waiting, *self.flight.index.tolist(), *(index for index, _, _ in self.given_up)}
        done = [index for index in range(len(self.samples)) if index not in at_work]
        if self.should_stop(len(done)):
            found = self.result.of(done)
            raise Interrupted(done, replace(found, end=self.comm.bcast(found.end, self.comm.size - 1)))

    def _new(self, index: list[int]) -> Flight:
        start, age = torch.full((len(index),), self.block.start), torch.zeros(len(index), dtype=torch.long)
        high = self.window.reach(self.block, start, age)
        return Flight.of(index, self.block.start, high, len(self.block), whole=not self.window.slides)

    def _enter(self, slots: Tensor) -> None:
        index = self.flight.index[slots]
        self.waiting = [i for i in self.waiting if i not in set(index.tolist())]
        self.trajectory.enter(slots, self.first[index], [self.samples[i] for i in index])

    def _evaluate(self) -> Motion:
        """Scores at the open points of all ranks, and what the sweep saw there."""
        flight, evaluator = self.flight, self.problem.evaluator
        names = [self.samples[i] for i in flight.index]
        motion = Motion.empty(len(self.block), len(names))
        evaluator.together(self.comm, partial(self.trajectory.evaluate, flight, names, motion, self.block.start))
        flight.reached = torch.maximum(flight.reached, flight.high)
        flight.age = flight.age + 1
        flight.swept = torch.where(flight.whole, flight.swept + 1, flight.swept)
        flight.exact = torch.where(flight.low <= flight.exact, flight.exact + 1, flight.exact)
        self.result.calls[flight.index] += flight.high - flight.low
        self.result.sweeps[flight.index] = flight.age
        low, high = int(flight.low.min()) - self.block.start, int(flight.high.max()) - self.block.start
        seen = self.comm.max(torch.nan_to_num(motion.stacked()[:, low:high], nan=float("inf"), posinf=float("inf")))
        return motion.filled(low, seen)

    def _update(self) -> None:
        """Pass through the steps with the new increments."""
        flight, block = self.flight, self.block
        if self.trajectory.remainder is not None:
            self._share_remainder()
            self.trajectory.extend(flight.reached, self.window.reach(block, flight.high, flight.age))
        ahead = self.window.reach(block, flight.high, flight.age)
        self.trajectory.propagate(int(ahead.max()), min(int(flight.low.min()), block.stop - 1))

    def _share_remainder(self) -> None:
        """The remainder at the last open point, from the rank that owns it."""
        remainder = self.trajectory.remainder
        assert remainder is not None
        mine = torch.tensor([self.rows.owner(int(j) - 1) == self.comm.rank for j in self.flight.high])
        remainder[~mine] = 0
        remainder.copy_(self.comm.sum(remainder))

    def _move(self) -> None:
        """The points open to the next sweep: all that are not exact, those that a fixed depth leaves, or a window's."""
        flight, block = self.flight, self.block
        if self.options.tol is None:
            flight.low = torch.maximum(self.window.settled(block, flight.age, self.limit), flight.exact)
            flight.low = torch.minimum(flight.low, flight.high)
            flight.high = self.window.reach(block, flight.low, flight.age)
            return
        flight.low = torch.where(flight.whole, flight.exact, flight.low)
        if not bool(flight.whole.all()):
            self._slide()

    def _slide(self) -> None:
        """Windows pass the points whose states the last sweep left where they were; past the last point all open again."""
        flight, block = self.flight, self.block
        low, high = int(flight.low[~flight.whole].min()), int(flight.high[~flight.whole].max())
        moved = self.comm.max(torch.nan_to_num(self.trajectory.moves(low, high), nan=float("inf")))
        points = torch.arange(low, high)[:, None]
        unsettled = (points >= flight.low) & (points < flight.high) & (moved > SAFETY * float(self.options.tol or 0.0))
        passed = torch.where(unsettled, points, flight.high).min(0).values
        through = ~flight.whole & (passed >= block.stop)
        flight.low = torch.where(flight.whole, flight.low, torch.where(through, flight.exact, passed))
        flight.whole |= through
        reach = self.window.reach(block, flight.low, flight.age)
        flight.high = torch.where(flight.whole, block.stop, reach)
        if bool(through.any()):
            self.trajectory.rewind()

    def _judge(self, motion: Motion) -> Verdict:
        """Who is done, by the bound on the error of the end."""
        own = torch.finfo(self.first.dtype).eps
        precision = max(self.problem.evaluator.resolution, own)
        share = 1.0 if self.window.moves else 1 / (len(self.problem.chain.edges) - 1)
        carried = self.carried[self.flight.index]
        return judge(
            motion,
            self.flight,
            self.block,
            self.options,
            carried,
            share=share,
            windowed=self.window.slides,
            precision=precision,
            staircase=precision - own,
        )

    def _retire(self, verdict: Verdict) -> None:
        """Record the samples that are done and keep the exact state of those that are given up; others take their slots."""
        self.result.residual[self.flight.index] = verdict.bound
        for slot in (verdict.status == int(Status.FINISHED_SEQUENTIALLY)).logical_and(verdict.done).nonzero()[:, 0].tolist():
            self._give_up(slot)
        self._leave(verdict.done, verdict.status)

    def _give_up(self, slot: int) -> None:
        """Keep a sample's furthest exact state, to be finished step by step from there."""
        point = self._exact(slot)
        owner = self.rows.owner(point)
        state = self.trajectory.first[slot].clone()
        if owner == self.comm.rank:
            state = self.trajectory.z[self.rows.points.index(point), slot].clone()
        self.given_up.append((int(self.flight.index[slot]), point, self.comm.bcast(state, owner)))

    def _exact(self, slot: int) -> int:
        """The last point whose state is the chain's own."""
        return int(self.flight.exact[slot])

    def _leave(self, done: Tensor, status: Tensor) -> None:
        """Samples leave their slots; waiting ones take them, and slots nobody waits for are closed."""
        if not bool(done.any()):
            return
        flight = self.flight
        self.result.end[flight.index[done]] = self.trajectory.end[done]
        self.result.status[flight.index[done]] = status[done]
        free = done.nonzero()[:, 0]
        taken = free[: len(self.waiting)]
        if len(taken):
            flight.put(taken, self._new(self.waiting[: len(taken)]))
            self._enter(taken)
        closed = free[len(taken) :]
        if len(closed):
            kept = torch.ones(len(flight.index), dtype=torch.bool)
            kept[closed] = False
            flight.keep(kept)
            self._keep(kept)

    def _keep(self, kept: Tensor) -> None:
        """Only some of the slots."""
        self.trajectory.keep(kept)

    def _finish_sequentially(self) -> None:
        """The rest of the chain step by step for samples that were given up, on the rank that broadcasts the ends."""
        while self.given_up:
            index, point, state = self.given_up[0]
            steps = self.block.stop - point
            for j in range(point, self.block.stop):
                self._look()
                state = self.problem.evaluator.together(self.comm, partial(self._step, index, j, state))
            self.given_up.pop(0)
            self.result.sequential_steps[index] = steps
            self.result.calls[index] += steps
            self.result.residual[index] = self.carried[index]
            self.result.end[index] = state

    def _step(self, index: int, j: int, state: Tensor) -> Tensor:
        if self.comm.rank + 1 < self.comm.size:
            return state
        return run_steps(self.problem, state[None], j, j + 1, [self.samples[index]])[0]
