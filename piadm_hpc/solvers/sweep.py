"""Picard sweeps over a block: all scores in one batch, then one scan of affine maps.

    x_new[j+1] = A[j] x_new[j] + ((P[j]-A[j]) x[j] + Q[j] s(x[j], t[j]) + N[j] xi[j] + M[j] mean)      (sweep)

Each time rank owns slices of the block's points. A sweep costs one batched score call, one exclusive scan and two
maxima. A block costs one more broadcast, and a moving window one more broadcast and one more sum in every sweep. After k sweeps
the states at the points up to k are exact, whatever A is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator, largest
from ..theory.grid import Block
from .distribution import Rows
from .finish import SequentialFinish
from .flight import Flight
from .options import Options
from .problem import Problem
from .solution import BlockSolution, Interrupted, ShouldStop, Status
from .tolerance import SAFETY, SMALL, Motion, Verdict, judge
from .trajectory import Trajectory
from .window import Window


class PicardSolver:
    """Solves a block on one rank: samples enter slots, are swept until they are done, and leave.

    Baselines override single parts: `_update` computes the next path, and `_judge` decides which samples are done.
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
        self.stride = 2 if options.alternate else 1
        self.rows = Rows.of(block, window=self.window.width(block), size=comm.size, rank=comm.rank)
        slots = min(len(samples), options.in_flight or len(samples))
        ahead, kept = self.window.moves, self.keep_scores
        self.trajectory = Trajectory(problem, self.rows, options, comm, slots, first, closed=ahead, keep_scores=kept)
        self.extent = problem.extent(options.scale)[block.start : block.stop + 1]
        self.limit = min(options.sweeps or len(block), len(block))
        self.result = BlockSolution.unsolved(first, len(samples))
        self.finish = SequentialFinish(problem, block, self.samples, comm)
        self.waiting = list(range(len(samples)))
        self.flight = self._start(self.waiting[:slots])
        self._enter(torch.arange(slots))

    def run(self) -> BlockSolution:
        """Sweep until every sample is done; collective.

        Raises ScoreError on every rank when the score fails on any, and Interrupted when `should_stop` ends the work.
        """
        while len(self.flight.index):
            self._check_stop()
            motion = self._evaluate()
            self._update()
            self._share_moves()
            self._move()
            self._retire(self._judge(motion))
        self.finish.run(self.result, self.carried, self._check_stop)
        self.result.end.copy_(self.comm.bcast(self.result.end, self.comm.size - 1))
        return self.result

    def _check_stop(self) -> None:
        """Raise Interrupted, with the samples that are done, if a stop was requested."""
        if self.should_stop is None:
            return
        open_samples = {*self.waiting, *self.flight.index.tolist(), *self.finish.indices}
        done = [index for index in range(len(self.samples)) if index not in open_samples]
        if self.should_stop(len(done)):
            solution = self.result.of(done)
            raise Interrupted(done, replace(solution, end=self.comm.bcast(solution.end, self.comm.size - 1)))

    def _start(self, index: list[int]) -> Flight:
        start, age = torch.full((len(index),), self.block.start), torch.zeros(len(index), dtype=torch.long)
        high = self.window.reach(self.block, start, age)
        return Flight.of(index, self.block.start, high, len(self.block), whole=not self.window.slides)

    def _enter(self, slots: Tensor) -> None:
        index = self.flight.index[slots]
        self.waiting = [i for i in self.waiting if i not in set(index.tolist())]
        self.trajectory.enter(slots, self.first[index], [self.samples[i] for i in index])

    def _evaluate(self) -> Motion:
        """Evaluate the score at the chosen points of all ranks; returns the measurements of the sweep there."""
        flight, evaluator = self.flight, self.problem.evaluator
        samples = [self.samples[i] for i in flight.index]
        parts = torch.zeros(3, len(self.block), len(samples), dtype=torch.float64)
        flight.choose_points(self.block, self.stride)
        before = self.block.points[:, None] < flight.reached
        evaluator.together(self.comm, partial(self.trajectory.evaluate, flight, samples, parts, self.block.start))
        flight.count_sweep(self.stride)
        self.result.calls[flight.index] += flight.now.sum(0)
        self.result.sweeps[flight.index] = flight.age
        low, high = (end - self.block.start for end in flight.span())
        parts[:, low:high] = largest(self.comm, parts[:, low:high])
        flight.size = torch.where(flight.now, parts[2], flight.size)
        inside = flight.open_points(self.block)
        move, size = (torch.where(inside & known, part, 0.0) for known, part in ((before, flight.moved), (inside, flight.size)))
        return Motion(parts[0], parts[1], size, move, flight.now)

    def _update(self) -> None:
        """Propagate the path with the new increments."""
        flight, trajectory = self.flight, self.trajectory
        ahead = self.window.reach(self.block, flight.high, flight.age)
        if trajectory.remainder is not None:
            trajectory.share_remainder(flight.high)
            trajectory.extend(flight.reached, ahead)
        trajectory.propagate(int(ahead.max()), flight.low, flight.left_out(self.block))

    def _share_moves(self) -> None:
        """Share with all ranks how far the path has moved at the open points."""
        low, high = self.flight.span()
        here = slice(low - self.block.start, high - self.block.start)
        self.flight.moved[here] = largest(self.comm, self.trajectory.moves(low, high))

    def _move(self) -> None:
        """Choose the points that the next sweep evaluates: those not exact yet, or those of the window or fixed depth."""
        flight, block = self.flight, self.block
        if self.options.tol is None:
            flight.low = torch.maximum(self.window.settled(block, flight.age, self.limit), flight.exact)
            flight.low = torch.minimum(flight.low, flight.high)
            flight.high = self.window.reach(block, flight.low, flight.age)
            return
        flight.low = torch.where(flight.whole, flight.exact, flight.low)
        if not bool(flight.whole.all()) and self.window.slide(flight, block, SAFETY * min(self.options.tol, SMALL)):
            self.trajectory.rewind()

    def _judge(self, motion: Motion) -> Verdict:
        """Decide which samples are done, by the bound on the error of their end states."""
        own, resolution = torch.finfo(self.first.dtype).eps, self.problem.evaluator.resolution
        share = 1.0 if self.window.moves else 1 / (len(self.problem.chain.edges) - 1)
        carried, windowed = self.carried[self.flight.index], self.window.slides
        return judge(
            motion, self.flight, self.block, self.options, carried, share=share, windowed=windowed,
            precision=max(resolution, own), staircase=max(resolution - own, 0.0), extent=self.extent,
        )  # fmt: skip

    def _retire(self, verdict: Verdict) -> None:
        """Record the samples that are done, and queue those that are given up for the sequential finish."""
        self.result.residual[self.flight.index] = verdict.bound
        given_up = verdict.done & (verdict.status == int(Status.FINISHED_SEQUENTIALLY))
        for slot in given_up.nonzero()[:, 0].tolist():
            point = self._exact(slot)
            self.finish.add(int(self.flight.index[slot]), point, self.trajectory.state(point, slot))
        self._leave(verdict.done, verdict.status)

    def _exact(self, slot: int) -> int:
        """The last point whose state equals the chain's own."""
        return int(self.flight.exact[slot])

    def _leave(self, done: Tensor, status: Tensor) -> None:
        """Free the slots of samples that are done; waiting samples enter them, and the remaining free slots are removed."""
        if not bool(done.any()):
            return
        flight = self.flight
        self.result.end[flight.index[done]] = self.trajectory.end[done]
        self.result.status[flight.index[done]] = status[done]
        free = done.nonzero()[:, 0]
        refilled = free[: len(self.waiting)]
        if len(refilled):
            flight.put(refilled, self._start(self.waiting[: len(refilled)]))
            self._enter(refilled)
        if len(refilled) < len(free):
            kept = torch.ones(len(flight.index), dtype=torch.bool)
            kept[free[len(refilled) :]] = False
            flight.keep(kept)
            self._keep(kept)

    def _keep(self, kept: Tensor) -> None:
        """Keep only the slots of the mask `kept`; baselines add their own arrays."""
        self.trajectory.keep(kept)
