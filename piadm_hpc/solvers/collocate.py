"""Sweeps over the nodes of a collocation: one batch of scores, one gather of remainders, one small solve per shell.

Every slot holds a sample and the piece of the range that is being solved. A piece is halved when its sweeps do not converge, or
twice its nodes do not resolve the remainder. Errors are bounded from node to node as `solvers.tolerance` does from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..comm.communicator import Communicator, largest
from ..theory.grid import Partition
from .collocation import Collocation
from .evaluate import Evaluator
from .options import Options
from .pieces import PieceTables
from .remainders import follow_student, remainders
from .slot import Slot, Task, Visited
from .solution import BlockSolution, Interrupted, ShouldStop, Status
from .tolerance import ROUNDING, SAFETY, SMALL, Motion, error_bounds, inherited, shortfall
from .whitening import Whitening

SMALLEST = 2.0**-6  # share of the range below which pieces are not halved
PATIENCE = 3  # sweeps without a clearly smaller bound after which a piece is halved
LONGEST = 30  # sweeps after which a piece is halved in any case
OUTSIDE = 3.0  # deviations of the reference, root mean square over all coordinates, that no state of the data has
GROWN = 2  # times the points of the scheme, to which they grow before a piece is halved
RESOLVED = 1 / 4  # share of the tolerance allowed for the interpolation error
LEFT = 1 / 16  # share of the bound's limit allowed for all nodes that a sweep leaves out


class CollocationSolver:
    """Solves a flow on one rank. All ranks take the same decisions, because they base them on numbers that they have shared."""

    def __init__(
        self, scheme: Collocation, evaluator: Evaluator, first: Tensor, samples: Sequence[int], options: Options,
        comm: Communicator, should_stop: ShouldStop | None,
    ):  # fmt: skip
        self.scheme, self.evaluator, self.samples, self.options = scheme, evaluator, list(samples), options
        self.comm, self.should_stop = comm, should_stop
        self.whitening = Whitening.of(scheme, first)
        self.reference, self.first = self.whitening.reference, first
        self.tables: dict[tuple[float, float, int], PieceTables] = {}
        self.fewest = scheme.point_counts[0] if options.tol is not None and options.student is None else scheme.points
        self.result = BlockSolution.unsolved(first[:, None], len(samples))
        self.result.residual.zero_()
        self.length = scheme.span[1] - scheme.span[0]
        self.visited: list[list[Visited]] = [[] for _ in samples]
        self.waiting, self.slots = list(range(len(samples))), list[Slot]()

    def run(self) -> BlockSolution:
        """Sweep until every sample is done; the ends are flat states [samples, 1, d]. Collective.

        Raises ScoreError on every rank when the score fails on any, and Interrupted when `should_stop` ends the work.
        """
        self._fill()
        while self.slots:
            self._check_stop()
            entered = [slot for slot in self.slots if slot.age == 0 and slot.share(self.length) == 1]
            if (score := self.options.student) is not None:
                follow_student(self.whitening, score, self.evaluator, entered, self.samples, self.comm)
            self._evaluate()
            self._advance()
            self.slots = [kept for slot in self.slots if (kept := self._next(slot)) is not None]
            self._fill()
        return self.result

    def _fill(self) -> None:
        """Give free slots to waiting samples."""
        free = (self.options.in_flight or len(self.samples)) - len(self.slots)
        entering, self.waiting = self.waiting[:free], self.waiting[free:]
        self.slots += [self._enter(index) for index in entering]

    @property
    def precision(self) -> float:
        """Relative rounding of states and of the scores so far."""
        return max(self.evaluator.resolution, torch.finfo(self.first.dtype).eps)

    def _check_stop(self) -> None:
        """Raise Interrupted, with the samples that are done, if a stop was requested."""
        unsolved = {*self.waiting, *(slot.index for slot in self.slots)}
        done = [index for index in range(len(self.samples)) if index not in unsolved]
        if self.should_stop is not None and self.should_stop(len(done)):
            raise Interrupted(done, self.result.of(done))

    def _enter(self, index: int) -> Slot:
        """Put a sample at the start of the whole range."""
        slot = Slot(index, self.whitening.enter(self.first[index]), [Task(*self.scheme.span)])
        self._start(slot)
        return slot

    def _start(self, slot: Slot) -> None:
        """Begin the next piece of a sample: the whole range with few nodes, its parts with all of them."""
        span = slot.todo[-1].low, slot.todo[-1].high
        slot.start(self._tables(*span, self.fewest if span == self.scheme.span else self.scheme.points))

    def _tables(self, low: float, high: float, nodes: int) -> PieceTables:
        """The tables of a piece with so many nodes; samples on the same piece share them."""
        key = low, high, nodes
        if key not in self.tables:
            self.tables[key] = PieceTables.of(replace(self.scheme, points=nodes), self.reference, low, high, self.first)
        return self.tables[key]

    def _evaluate(self) -> None:
        """Evaluate the remainders at all nodes but settled ones, an equal share on every rank, and gather them on all ranks."""
        pairs = [(slot, node) for slot in self.slots for node in range(slot.settled.count, slot.tables.nodes)]
        own = pairs[(cut := Partition(len(pairs), self.comm.size)).slice(self.comm.rank)]
        mine = self.evaluator.together(self.comm, partial(remainders, self.whitening, self.evaluator, own, self.samples))
        everyone = self.comm.allgather(mine, [cut.length(rank) for rank in range(self.comm.size)])
        split = torch.split(everyone, [slot.tables.nodes - slot.settled.count for slot in self.slots])
        for slot, evaluated in zip(self.slots, split, strict=True):
            slot.take(evaluated)
            self.result.calls[slot.index] += len(evaluated)
            self.result.sweeps[slot.index] += 1

    def _advance(self) -> None:
        """Compute the new paths, bound the errors of the evaluated ones, and estimate the interpolation error."""
        most = max(slot.tables.nodes for slot in self.slots)
        measured = [slot.advance(self.whitening, self.options.scale, most) for slot in self.slots]
        # ranks on different processors may round differently, but must take the same decision
        shared = largest(self.comm, torch.stack(measured, dim=-1))
        before = torch.stack([functional.pad(slot.growth, (0, most + 1 - len(slot.growth))) for slot in self.slots], dim=1)
        now = torch.arange(most + 1)[:, None] > torch.tensor([slot.settled.count for slot in self.slots])
        motion = Motion(shared[0], shared[1], shared[2], shared[3], now)
        growth = motion.over_move(motion.grown, before, self.precision)
        limit = SAFETY * min(self.options.tol or SMALL, SMALL)
        carried = torch.tensor([slot.carried for slot in self.slots], dtype=torch.float64)
        path, after = (error_bounds(growth, missed, torch.zeros_like(carried)) for missed in (motion.defect, shared[7]))
        alone = limit * shortfall(path, after, limit, torch.ones(len(path), dtype=torch.float64))
        bounds, rounded = torch.stack([alone, after[-1] + inherited(growth, carried)], 1), motion.is_rounding(self.precision)
        for number, slot in enumerate(self.slots):
            slot.note_bounds(growth[:, number], *bounds[number].tolist(), rounded=bool(rounded[number]))
            slot.note(shared[:, :, number], self.precision, SMALL)
            if self.options.tol is not None and self.options.traces == "none":
                slot.settle(shared[11, :, number], LEFT * limit * slot.share(self.length) ** 2)

    def _next(self, slot: Slot) -> Slot | None:
        """Decide what the slot does next: another sweep, another piece, or None when its sample is done."""
        tol = self.options.tol
        if tol is None:
            return self._piece_done(slot, Status.DEPTH_REACHED) if slot.age >= (self.options.sweeps or 1) else slot
        share = slot.share(self.length)
        # the error of a short piece may still grow in all the pieces that follow it
        met = slot.best <= SAFETY * min(tol, SMALL) * share**2 or (slot.rounded and slot.best <= tol * share)
        resolved = slot.doubt <= max(RESOLVED * tol, ROUNDING * self.precision)
        if slot.tables.nodes < self.scheme.points * (GROWN if share == 1 and not resolved else 1):
            return self._grow(slot)
        if met and resolved:
            return self._piece_done(slot, Status.CONVERGED)
        if slot.rounded and slot.idle >= PATIENCE and resolved:
            return self._piece_done(slot, Status.ROUND_OFF_FLOOR)
        unresolved = not resolved and (met or slot.best < slot.doubt)
        if not unresolved and slot.idle < PATIENCE and slot.age < (self.options.sweeps or LONGEST):
            return slot
        if share <= SMALLEST:
            return self._piece_done(slot, Status.NOT_RESOLVED)
        self._halve(slot, keep=unresolved)
        return slot

    def _grow(self, slot: Slot) -> Slot:
        """Sweep over more nodes next, from the polynomials through the present ones."""
        most = self.scheme.points * (1 if slot.tables.nodes < self.scheme.points else GROWN)
        nodes = most if slot.rounded else min(most, slot.tables.nodes + self.scheme.more)
        slot.grow(self._tables(slot.tables.piece.low, slot.tables.piece.high, nodes))
        return slot

    def _halve(self, slot: Slot, *, keep: bool) -> None:
        """Cut the present piece in two; with `keep` the halves start from its remainders, interpolated at their nodes."""
        task, middle = slot.todo.pop(), slot.tables.piece.low + slot.tables.piece.length / 2
        parts = (middle, task.high), (task.low, middle)
        predicted = slot.inherit(self.scheme, parts) if keep else (None, None)
        slot.todo += [Task(*part, start) for part, start in zip(parts, predicted, strict=True)]
        self._start(slot)

    def _piece_done(self, slot: Slot, status: Status) -> Slot | None:
        """Record a finished piece, and continue with the next piece of this sample; None after the last."""
        index, tol, slot.carried = slot.index, self.options.tol, slot.bound
        self.result.residual[index] = max(float(self.result.residual[index]), slot.bound + slot.doubt + slot.jump)
        # a state far outside the reference is not resolved by nodes that were chosen for it; any flow may lie across a jump
        trusted = tol is None or (slot.bound <= tol and slot.spread <= OUTSIDE and slot.jump <= SAFETY * tol)
        if status == Status.CONVERGED and not trusted:
            # an error that an earlier piece left at the floor of rounding does not count against this one
            floor = slot.rounded and slot.spread <= OUTSIDE and self.result.status[index] == Status.ROUND_OFF_FLOOR
            status = Status.ROUND_OFF_FLOOR if floor else Status.NOT_CERTIFIED
        self.result.status[index] = max(int(self.result.status[index]), int(status))
        slot.todo.pop()
        if self.options.traces != "none":
            self.visited[index].append(Visited(slot.tables, slot.path))
        slot.y = slot.path[-1]
        if slot.todo:
            self._start(slot)
            return slot
        self.result.end[index, 0] = self.evaluator.project(self.whitening.leave(slot.y))
        return None
