"""Picard sweeps over a block: all scores in one batch, then one scan of affine maps.

    x_new[j+1] = A[j] x_new[j] + ((P[j]-A[j]) x[j] + Q[j] s(x[j], t[j]) + N[j] xi[j] + M[j] mean)      (sweep)

Each time rank owns slices of the block's points. A sweep costs one batched score call, one exclusive scan and one
maximum; a block one broadcast more, a moving window one broadcast and one sum a sweep. After k sweeps the points up to
k are exact whatever A is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.grid import Block
from .distribution import Rows
from .errors import ScoreError
from .evaluate import described
from .flight import Front
from .problem import Problem
from .sequential import run_steps
from .tolerance import BlockSolution, Interrupted, Status, remaining_error, unsolved
from .trajectory import Method, Points

FLOOR_PATIENCE = 3  # sweeps without a smaller change after which rounding is suspected, if changes are that small
PATIENCE = 12  # and after which a sample near a boundary between modes is given up
MOVING = 2  # points passed in a sweep by which a sample gets ahead, though its changes do not shrink
# share of the tolerance by which an estimate may still change at a point that is not called again: what is left behind grows
# where a sample decides between modes, a hundredfold and more in some of them
LEFT_BEHIND = 0.1


@torch.no_grad()
def solve_block(
    problem: Problem, block: Block, first: Tensor, samples: Sequence[int], *, method: Method, comm: Communicator
) -> BlockSolution:
    """Solve one block from coordinates `first` [samples, c, n] of its first point; collective over `comm`.

    Raises ScoreError on every rank when the score fails on any, and Interrupted when the watch ends it.
    """
    return Sweeps(problem, block, first, list(samples), method, comm).run()


class Sweeps:
    """The iteration on one rank: samples enter slots, are swept until they are done, and leave.

    Accelerated iterations and those with a rule of their own for stopping replace single parts of it: `_update`, `_judge`,
    `_keep`. Changes of a `vigilant` one grow near a boundary between modes only; those of other iterations do by themselves.
    """

    vigilant = True

    def __init__(self, problem: Problem, block: Block, first: Tensor, samples: list[int], method: Method, comm: Communicator):
        if len(block) < comm.size:
            raise ValueError(
                f"block {block.index} has {len(block)} steps for {comm.size} time ranks; use fewer ranks or fewer blocks"
            )
        self.problem, self.block, self.samples, self.method, self.comm = problem, block, samples, method, comm
        self.all_first = first
        self.rows = Rows.of(block, window=_width(method, block), size=comm.size, rank=comm.rank)
        slots = min(len(samples), method.in_flight or len(samples))
        self.points = Points(problem, self.rows, method, comm, slots, first)
        self.waiting = list(range(len(samples)))
        self.front = self._new(self.waiting[:slots])
        self._enter(torch.arange(slots))
        # a moving window passes points when their states stay where they were evaluated
        self.by_shift = method.schedule.moves and method.stop.tol is not None
        self.limit = min(method.stop.sweeps or len(block), len(block))
        self.result = unsolved(first, len(samples))
        self.given_up: list[tuple[int, int, Tensor]] = []

    def run(self) -> BlockSolution:
        while len(self.front.index):
            self._look()
            change = self._evaluate()
            self._advance(change)
            self._update()
            self._retire()
        self._finish_sequentially()
        self.result.end.copy_(self.comm.bcast(self.result.end, self.comm.size - 1))
        return self.result

    def _look(self) -> None:
        """End here if the watch says so, with the samples that are done by themselves."""
        if self.method.should_stop is None:
            return
        at_work = {*self.waiting, *self.front.index.tolist(), *(index for index, _, _ in self.given_up)}
        done = [index for index in range(len(self.samples)) if index not in at_work]
        if self.method.should_stop(len(done)):
            found = self.result.of(done)
            raise Interrupted(done, replace(found, end=self.comm.bcast(found.end, self.comm.size - 1)))

    def _new(self, index: list[int]) -> Front:
        start, age = torch.full((len(index),), self.block.start), torch.zeros(len(index), dtype=torch.long)
        return Front.new(
            torch.tensor(index), self.block.start, self.method.schedule.reach(self.block, start, age), len(self.block)
        )

    def _enter(self, slots: Tensor) -> None:
        index = self.front.index[slots]
        self.waiting = [i for i in self.waiting if i not in set(index.tolist())]
        self.points.enter(slots, self.all_first[index], [self.samples[i] for i in index])

    def _evaluate(self) -> Tensor:
        """Scores at the open points and the largest change of a denoised estimate: [points of the block, slots]."""
        front, start = self.front, self.block.start
        names = [self.samples[i] for i in front.index]
        change = torch.zeros(len(self.block) + 1, len(names), dtype=torch.float64)
        message = ""
        try:
            self.points.evaluate(front, names, change)
        except Exception as error:  # any failure of a user's score must reach every rank, or the others wait for ever
            change[-1], message = 1.0, described(error, self.problem.evaluator.rank)
        self.result.calls[front.index] += front.high - front.low
        span = slice(int(front.low.min()) - start, int(front.high.max()) - start)
        told = torch.cat([change[span], change[-1:]])
        told = self.comm.max(torch.nan_to_num(told, nan=float("inf"), posinf=float("inf")))
        if bool((told[-1] > 0).any()):
            messages = [text for text in self.comm.gather_objects(message) if text]
            raise ScoreError(messages[0])
        change[span] = told[:-1]
        if self.points.held is not None:
            self._share_held()
        return change[:-1]

    def _share_held(self) -> None:
        """The remainder at the last open point, from the rank that owns it."""
        held, front = self.points.held, self.front
        assert held is not None
        mine = torch.tensor([self.rows.owner(int(j) - 1) == self.comm.rank for j in front.high])
        held[~mine] = 0
        held.copy_(self.comm.sum(held))

    def _advance(self, change: Tensor) -> None:
        """Move the open points of every sample over those that are settled; increments at those that may open next."""
        front, block, schedule = self.front, self.block, self.method.schedule
        front.age = front.age + 1
        points = torch.arange(block.start, block.stop)[:, None]
        is_open = (points >= front.low) & (points < front.high)
        front.before, front.change = front.change, torch.where(is_open, change, 0.0).max(0).values
        front.reached = torch.maximum(front.reached, front.high)
        if self.by_shift:
            self._watch_gain(change, is_open)
            self.points.extend(front, schedule.reach(block, front.high, front.age))
            return
        if self.method.stop.tol is None:
            low = schedule.settled(block, front.age, self.limit)
        else:
            moving = is_open & (change > LEFT_BEHIND * self.method.stop.limit(front.wary))
            low = torch.where(moving, points, block.stop).min(0).values
            low = torch.where(self._grow_wary(), block.start, low)
        self._open(torch.minimum(low, front.high))
        self.points.extend(front, front.high)

    def _grow_wary(self) -> Tensor:
        """Samples whose changes, once small, have just grown again; the first measures the guess, and may be the smaller one."""
        front = self.front
        relapsed = ~front.wary & (front.age > 2) & self.method.stop.relapsed(front.change, front.before) & self.vigilant
        front.wary |= relapsed
        return relapsed

    def _open(self, low: Tensor) -> None:
        """Open points from `low` on; after k sweeps the first k points are exact."""
        front = self.front
        front.low = torch.maximum(low, torch.minimum(self.block.start + front.age, front.high))
        front.high = self.method.schedule.reach(self.block, front.low, front.age)

    def _watch_gain(self, change: Tensor, is_open: Tensor) -> None:
        """How much of the last moves of states the denoised estimates at the same points followed."""
        front = self.front
        seen = is_open & (front.shift.T > 0)
        follows = torch.where(seen, change / front.shift.T, 0.0).max(0).values
        front.gain = torch.where(seen.any(0), follows, front.gain)

    def _update(self) -> None:
        front, block = self.front, self.block
        if not self.by_shift:
            self.points.update(int(front.high.max()), min(int(front.low.min()), block.stop - 1))
            return
        ahead = self.method.schedule.reach(block, front.high, front.age)
        low, high = int(front.low.min()), int(front.high.max())
        local, before = self.points.states(low, high)
        self.points.update(int(ahead.max()), min(low, block.stop - 1))
        told = torch.zeros(2, high - low, len(front.index), dtype=torch.float64)
        told[:, [self.rows.points[index] - low for index in local]] = self.points.shifts(local, before)
        told = self.comm.max(torch.nan_to_num(told, nan=float("inf"), posinf=float("inf")))
        points = torch.arange(low, high)[:, None]
        shift, presumed = torch.where((points >= front.low) & (points < front.high), told, 0.0)
        front.shift.zero_()
        front.shift[:, low - block.start : high - block.start] = shift.T
        follows = presumed + front.gain * shift
        # noise lets a chain forget where its states were, a flow carries every error to its end
        foretold = follows if self.problem.chain.stochastic else torch.maximum(shift, follows)
        # where estimates move further than states, so will the states after them
        foretold = foretold * torch.where(shift > 0, follows / shift, 0.0).clamp(min=1.0)
        unsettled = foretold > LEFT_BEHIND * float(self.method.stop.tol or 0.0)
        self._open(torch.where(unsettled, points, front.high).min(0).values)

    def _retire(self) -> None:
        """Record the samples that are done: converged, at the round-off floor, at the fixed depth, or given up."""
        front, stop = self.front, self.method.stop
        left = remaining_error(front.change, front.before)
        self.result.sweeps[front.index] = front.age
        self.result.residual[front.index] = left
        # new points keep changes large while a window moves
        whole = front.reached == self.block.stop
        # changes stay large while a front moves through the points, and that is no reason to give up
        improved = (front.change < 0.95 * front.best) | (front.low > front.passed + MOVING)
        front.passed = front.low.clone()
        front.stuck = torch.where(improved | ~whole, 0, front.stuck + 1)
        front.best = torch.where(whole, torch.minimum(front.best, front.change), front.best)
        if stop.tol is None:
            exact = front.low == self.block.stop
            self._leave(exact, torch.where(front.age >= len(self.block), Status.CONVERGED, Status.DEPTH_REACHED))
            return
        met = self._judge(whole)
        floor = whole & (front.stuck >= FLOOR_PATIENCE) & (front.best <= 100 * self._floor())
        # without the score's slope in the linear part, changes grow for long before they shrink
        stalled = whole & (front.stuck >= PATIENCE) & (self.method.linear.slope is not None)
        hopeless = ~(met | floor) & ((front.age >= self.limit) | stalled)
        status = torch.where(met, Status.CONVERGED, torch.where(floor, Status.ROUND_OFF_FLOOR, Status.FINISHED_SEQUENTIALLY))
        for slot in hopeless.nonzero()[:, 0].tolist():
            self._give_up(slot)
        self._leave(met | floor | hopeless, status)

    def _judge(self, whole: Tensor) -> Tensor:
        """Whether samples, of which all points were evaluated if `whole`, are converged: [slots] booleans."""
        front = self.front
        return (front.low == self.block.stop) | (whole & self.method.stop.met(front.change, front.before, front.wary))

    def _give_up(self, slot: int) -> None:
        """Keep a sample's furthest settled point, to be finished step by step from there."""
        point = int(self.front.low[slot])
        owner = self.rows.owner(point)
        state = self.points.first[slot].clone()
        if owner == self.comm.rank:
            state = self.points.z[self.rows.points.index(point), slot].clone()
        self.given_up.append((int(self.front.index[slot]), point, self.comm.bcast(state, owner)))

    def _leave(self, done: Tensor, status: Tensor) -> None:
        """Samples leave their slots; waiting ones take them, and slots nobody waits for are closed."""
        if not bool(done.any()):
            return
        front = self.front
        self.result.end[front.index[done]] = self.points.end[done]
        self.result.status[front.index[done]] = status[done].to(torch.long)
        free = done.nonzero()[:, 0]
        taken = free[: len(self.waiting)]
        if len(taken):
            front.put(taken, self._new(self.waiting[: len(taken)]))
            self._enter(taken)
        closed = free[len(taken) :]
        if len(closed):
            kept = torch.ones(len(front.index), dtype=torch.bool)
            kept[closed] = False
            front.keep(kept)
            self._keep(kept)

    def _keep(self, kept: Tensor) -> None:
        """Only some of the slots."""
        self.points.keep(kept)

    def _floor(self) -> float:
        """Change of a denoised estimate that rounding of states or scores alone can cause."""
        chain = self.problem.chain
        ratio = 1.0 if chain.alpha is None else float(chain.ratio[:-1].max())
        resolution = max(self.problem.evaluator.resolution, torch.finfo(self.all_first.dtype).eps)
        return 4 * resolution * max(1.0, ratio)

    def _finish_sequentially(self) -> None:
        """The rest of the chain step by step for samples that were given up, on the rank that broadcasts the ends."""
        message = ""
        try:
            for index, point, state in self.given_up:
                steps = self.block.stop - point
                self.result.sequential_steps[index] = steps
                self.result.calls[index] += steps
                if self.comm.rank == self.comm.size - 1:
                    end = run_steps(self.problem, state[None], point, self.block.stop, [self.samples[index]])
                    self.result.end[index] = end[0]
        except Exception as error:
            message = described(error, self.problem.evaluator.rank)
        if self.given_up:
            messages = [text for text in self.comm.gather_objects(message) if text]
            if messages:
                raise ScoreError(messages[0])


def _width(method: Method, block: Block) -> int | None:
    """The size of the window, or of the front's widest block, by which points are dealt out to ranks."""
    if method.schedule.window is not None:
        return method.schedule.window
    edges = method.schedule.edges
    return max(b - a for a, b in pairwise(edges)) if len(edges) > 2 else None
