"""Sweeps over the nodes of a collocation: one batch of scores, one gather of remainders, one small solve per shell.

Every slot holds a sample and the piece of the log-SNR range it works on. A sample whose sweeps do not converge on a piece,
or whose remainder its nodes do not resolve to the tolerance, goes on with the two halves of that piece. Errors are bounded
from node to node as `solvers.tolerance` does from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.grid import Partition
from .collocation import Collocation
from .evaluate import Evaluator
from .options import Options
from .pieces import PieceTables
from .solution import BlockSolution, Interrupted, ShouldStop, Status
from .tolerance import ROUNDING, SAFETY, Motion, error_bounds, growth_of

SMALLEST = 2.0**-6  # of the range; pieces are not halved below it
PATIENCE = 3  # sweeps without a clearly smaller bound after which a piece is halved
LONGEST = 30  # and sweeps after which it is in any case
RESOLVED = 1 / 4  # of the tolerance may be left in doubt by the nodes


def bytes_held(scheme: Collocation, slots: int, itemsize: int) -> int:
    """Count the bytes that a CollocationSolver holds on any rank, with the tables of the whole range in one piece.

    Of every slot: its state, two paths of M nodes and an end, and the remainders of two sweeps.
    """
    basis, nodes = scheme.reference.basis, scheme.points
    n, width = basis.num_coords, basis.expand(torch.zeros(1, basis.num_shells)).shape[-1]
    tables = (nodes + 1) * width + 3 * (nodes + 1) * nodes
    if scheme.reference.response is not None:
        tables += (nodes + nodes**2) * width
    return itemsize * (tables + slots * n * (1 + 2 * (nodes + 1) + 2 * nodes))


@dataclass
class _Task:
    """A piece still to do: its ends, and remainders [M, n] predicted at its nodes, None where nothing is known."""

    low: float
    high: float
    predicted: Tensor | None = None


@dataclass
class _Slot:
    """A sample at work: the whitened state y [n] at the start of its piece, its path, and remainders taken at states `at`."""

    index: int
    y: Tensor
    todo: list[_Task]
    tables: PieceTables = field(init=False)
    path: Tensor = field(init=False)
    at: Tensor = field(init=False)
    remainder: Tensor = field(init=False)
    taken: Tensor = field(init=False)
    age: int = 0
    idle: int = 0
    bound: float = float("inf")
    best: float = float("inf")
    doubt: float = float("inf")
    rounded: bool = False
    carried: float = 0.0


class CollocationSolver:
    """The iteration on one rank; decisions are made on what all ranks hold alike."""

    def __init__(
        self, scheme: Collocation, evaluator: Evaluator, first: Tensor, samples: Sequence[int], options: Options,
        comm: Communicator, should_stop: ShouldStop | None,
    ):  # fmt: skip
        self.scheme, self.evaluator, self.samples, self.options, self.comm = scheme, evaluator, list(samples), options, comm
        self.should_stop = should_stop
        self.reference = scheme.reference.to(first.device, first.dtype)
        self.basis, self.first = self.reference.basis, first
        self.first_signal, self.first_root = self._level(scheme.t[:1])
        self.last_signal, self.last_root = self._level(scheme.t[-1:])
        self.tables: dict[tuple[float, float], PieceTables] = {}
        self.result = BlockSolution.unsolved(first[:, None], len(samples))
        self.result.residual.zero_()
        self.waiting = list(range(len(samples)))
        self.slots = [self._enter() for _ in range(min(options.in_flight or len(samples), len(samples)))]

    def run(self) -> BlockSolution:
        """Sweep until every sample is done; `end` is [samples, 1, d], flat states."""
        while self.slots:
            self._look()
            self._evaluate()
            self._advance()
            self.slots = [kept for slot in self.slots if (kept := self._next(slot)) is not None]
        return self.result

    def _look(self) -> None:
        """End here if that is asked for, with the samples that are done."""
        at_work = {*self.waiting, *(slot.index for slot in self.slots)}
        done = [index for index in range(len(self.samples)) if index not in at_work]
        if self.should_stop is not None and self.should_stop(len(done)):
            raise Interrupted(done, self.result.of(done))

    def _enter(self) -> _Slot:
        """The next waiting sample, at the start of the whole range."""
        index = self.waiting.pop(0)
        centred = self.first[index] - self.first_signal * self.reference.mean
        slot = _Slot(index, self.basis.analyse(centred) / self.first_root, [_Task(*self.scheme.span)])
        self._start(slot)
        return slot

    def _start(self, slot: _Slot) -> None:
        """Begin the next piece of a sample, on the reference's flow or with the remainders of a larger piece."""
        task, known = slot.todo[-1], (slot.todo[-1].low, slot.todo[-1].high)
        if known not in self.tables:
            self.tables[known] = PieceTables.of(self.scheme, self.reference, *known, self.first)
        slot.tables = self.tables[known]
        nothing = slot.y.new_zeros(self.scheme.points, len(slot.y))
        slot.remainder = nothing if task.predicted is None else task.predicted
        plain = torch.addmm(slot.y, slot.tables.weights, slot.remainder)
        slot.path, slot.at = plain, plain[:-1]
        slot.age, slot.idle, slot.bound, slot.best = 0, 0, float("inf"), float("inf")

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and root sqrt(v) at a time [1]."""
        alpha, process = self.scheme.process.alpha(t), self.scheme.process
        root = torch.sqrt(self.scheme.reference.variance(alpha, process.sigma(t)).cpu())[0]
        return alpha.to(self.first), self.basis.expand(root.to(self.first))

    def _evaluate(self) -> None:
        """Remainders at all nodes, in equal shares of the ranks, and then everywhere."""
        pairs = [(slot, node) for node in range(self.scheme.points) for slot in self.slots]
        cut = Partition(len(pairs), self.comm.size)
        own = pairs[cut.slice(self.comm.rank)]
        mine = self.evaluator.together(self.comm, partial(self._share, own))
        everyone = self.comm.allgather(mine, [cut.length(rank) for rank in range(self.comm.size)])
        for number, slot in enumerate(self.slots):
            slot.taken = everyone[number :: len(self.slots)]
            slot.age += 1
            self.result.calls[slot.index] += self.scheme.points
            self.result.sweeps[slot.index] += 1

    def _share(self, own: Sequence[tuple[_Slot, int]]) -> Tensor:
        mine = self.first.new_empty(len(own), self.basis.num_coords)
        rows = self.evaluator.max_rows or max(1, len(own))
        for start in range(0, len(own), rows):
            mine[start : start + rows] = self._remainders(own[start : start + rows])
        return mine

    def _remainders(self, pairs: Sequence[tuple[_Slot, int]]) -> Tensor:
        """g = sigma^2 (s / sqrt(v) + y / v) at some (slot, node), [pairs, n]; ScoreError for scores that are not finite."""
        pieces = [slot.tables.piece for slot, _ in pairs]
        signal, sigma, times = (
            torch.stack([table[node] for table, (_, node) in zip(tables, pairs, strict=True)]).to(self.first)
            for tables in ([p.alpha for p in pieces], [p.sigma for p in pieces], [p.t for p in pieces])
        )
        y = torch.stack([slot.path[node] for slot, node in pairs])
        root = torch.stack([slot.tables.root[node] for slot, node in pairs])
        x = self.evaluator.project(self.basis.synthesise(root * y) + signal[:, None] * self.reference.mean)
        score = self.evaluator(x[:, None], times)
        self.evaluator.check(score, times, [self.samples[slot.index] for slot, _ in pairs])
        return self.basis.analyse(score[:, 0]).div_(root).add_(y / root**2).mul_(sigma[:, None] ** 2)

    def _advance(self) -> None:
        """New paths, bounds on the errors of those that were evaluated, and what the nodes leave in doubt; alike on all ranks."""
        seen = []
        for slot in self.slots:
            tables = slot.tables
            defect = tables.steps @ (slot.taken - tables.predicted(slot.remainder, slot.at, slot.path))
            move = torch.cat([torch.zeros_like(slot.path[:1]), slot.path[:-1] - slot.at])
            grown = move + tables.steps @ (slot.taken - slot.remainder)
            doubt = tables.doubt @ slot.taken
            start = torch.cat([slot.y[None], slot.path[:-1]])
            seen.append(torch.stack([self._size(part) for part in (defect, move, grown, start, doubt)]))
            slot.path, slot.at, slot.remainder = tables.path(slot.y, slot.taken, slot.path[:-1]), slot.path[:-1], slot.taken
        # ranks on different processors may round differently, and must not decide differently
        shared = self.comm.max(torch.nan_to_num(torch.stack(seen, dim=-1), nan=float("inf"), posinf=float("inf")))
        motion = Motion(*shared[:4])
        growth = growth_of(motion, torch.zeros_like(motion.move), self._precision())
        carried = torch.tensor([slot.carried for slot in self.slots], dtype=torch.float64)
        found = [error_bounds(growth, motion.defect, first)[-1] for first in (torch.zeros_like(carried), carried)]
        for number, slot in enumerate(self.slots):
            rounded = bool((motion.defect[:, number] <= ROUNDING * self._precision() * motion.size[:, number]).all())
            slot.rounded = rounded
            own, slot.bound = (float(end[number]) if slot.age > 1 or rounded else float("inf") for end in found)
            slot.doubt = float(shared[4, :, number].max())
            slot.idle = 0 if own < 0.7 * slot.best else slot.idle + 1
            slot.best = min(slot.best, own)

    def _size(self, y: Tensor) -> Tensor:
        """Root mean square of whitened states [M + 1, n], carried to the end of the range, in units of the data's scale."""
        moved = y * self.last_root
        scale = self.options.scale
        if isinstance(scale, Tensor):
            moved, scale = self.basis.synthesise(moved) / scale, 1.0
        norm: Tensor = torch.linalg.vector_norm(moved, dim=-1).to("cpu", torch.float64)
        return norm.div_(scale * moved.shape[-1] ** 0.5)

    def _next(self, slot: _Slot) -> _Slot | None:
        """What this slot does next: another sweep, another piece, another sample, or nothing."""
        tol = self.options.tol
        if tol is None:
            return self._piece_done(slot, Status.DEPTH_REACHED) if slot.age >= (self.options.sweeps or 1) else slot
        piece, (first, last) = slot.tables.piece, self.scheme.span
        share = (piece.high - piece.low) / (last - first)
        # what a short piece leaves may grow in all the others that follow it
        met = slot.best <= SAFETY * tol * share**2 or (slot.rounded and slot.best <= tol * share)
        resolved = slot.doubt <= max(RESOLVED * tol, ROUNDING * self._precision())
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

    def _halve(self, slot: _Slot, *, keep: bool) -> None:
        """Two pieces instead of one, which begin with the remainders of the whole if those are worth keeping."""
        task = slot.todo.pop()
        middle = (task.low + task.high) / 2
        for low, high in ((middle, task.high), (task.low, middle)):
            known = self.scheme.inherit(task.low, task.high, (low, high)).to(slot.y) @ slot.remainder if keep else None
            slot.todo.append(_Task(low, high, known))
        self._start(slot)

    def _piece_done(self, slot: _Slot, status: Status) -> _Slot | None:
        """Go on from the end of a piece, with the next one or with another sample."""
        index, tol = slot.index, self.options.tol
        slot.carried = slot.bound
        self.result.residual[index] = max(float(self.result.residual[index]), slot.bound + slot.doubt)
        if status == Status.CONVERGED and tol is not None and slot.bound > tol:
            status = Status.NOT_CERTIFIED
        self.result.status[index] = max(int(self.result.status[index]), int(status))
        slot.todo.pop()
        slot.y = slot.path[-1]
        if slot.todo:
            self._start(slot)
            return slot
        state = self.basis.synthesise(slot.y * self.last_root) + self.last_signal * self.reference.mean
        self.result.end[index, 0] = self.evaluator.project(state)
        return self._enter() if self.waiting else None

    def _precision(self) -> float:
        """Relative rounding of states and scores."""
        return max(self.evaluator.resolution, torch.finfo(self.first.dtype).eps)
