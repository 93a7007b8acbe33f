"""Picard sweeps over the nodes of a collocation: one batch of scores, one gather of remainders, one small matrix product.

Every slot holds a sample and the piece of the log-SNR range it works on. A sample whose sweeps do not converge on a piece,
or whose remainder its nodes do not resolve to the tolerance, goes on with the two halves of that piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.grid import Partition
from .collocation import Collocation, Piece
from .errors import ScoreError
from .evaluate import Evaluator, described
from .tolerance import BlockSolution, Interrupted, ShouldStop, Status, Tolerance, remaining_error, unsolved

SMALLEST = 2.0**-6  # of the range; pieces are not halved below it
PATIENCE = 3  # sweeps without a clearly smaller change after which a piece is halved
LONGEST = 30  # and sweeps after which it is in any case
STALE = 1 / 8  # of the tolerance by which a node may have moved since its score was taken


@torch.no_grad()
def collocate(
    scheme: Collocation,
    evaluator: Evaluator,
    first: Tensor,
    samples: Sequence[int],
    *,
    stop: Tolerance,
    in_flight: int | None,
    comm: Communicator,
    should_stop: ShouldStop | None = None,
) -> BlockSolution:
    """Carry states `first` [samples, d] through the flow; collective over `comm`, whose ranks share the nodes.

    The result's `end` is [samples, 1, d], flat states. `residual` estimates the error of the end state: what later sweeps
    would change and what the nodes do not resolve. Raises ScoreError on every rank when the score fails on any, and
    Interrupted when the watch ends it.
    """
    if comm.size > scheme.points:
        raise ValueError(f"{comm.size} time ranks for {scheme.points} collocation points; use fewer ranks or more points")
    return _Sweeps(scheme, evaluator, first, list(samples), stop, in_flight or len(samples), comm, should_stop).run()


@dataclass
class _Task:
    """A piece still to do: its ends, and remainders [M, n] foreseen at its nodes, None where nothing is known."""

    low: float
    high: float
    foreseen: Tensor | None = None


@dataclass
class _Slot:
    """A sample at work: whitened state y [n] at the start of its piece, path and remainders at the nodes.

    `wary` is true from when its sweeps did not converge on a piece.
    """

    index: int
    y: Tensor
    todo: list[_Task]
    path: Tensor = field(init=False)
    remainder: Tensor = field(init=False)
    moved: Tensor = field(init=False)
    piece: Piece = field(init=False)
    age: int = 0
    stuck: int = 0
    change: float = float("inf")
    before: float = float("inf")
    doubt: float = float("inf")
    wary: bool = False


class _Sweeps:
    def __init__(
        self, scheme: Collocation, evaluator: Evaluator, first: Tensor, samples: list[int], stop: Tolerance, slots: int,
        comm: Communicator, should_stop: ShouldStop | None,
    ):  # fmt: skip
        self.scheme, self.evaluator, self.samples, self.stop, self.comm = scheme, evaluator, samples, stop, comm
        self.should_stop = should_stop
        self.reference = scheme.reference.to(first.device, first.dtype)
        self.basis, self.first = self.reference.basis, first
        self.first_signal, self.first_root = self._level(scheme.t[:1])
        self.last_signal, self.last_root = self._level(scheme.t[-1:])
        self.pieces: dict[tuple[float, float], tuple[Piece, Tensor, Tensor, Tensor]] = {}
        self.result = unsolved(first[:, None], len(samples))
        self.result.residual.zero_()
        self.waiting = list(range(len(samples)))
        self.slots = [self._enter() for _ in range(min(slots, len(samples)))]

    def run(self) -> BlockSolution:
        while self.slots:
            self._look()
            self._evaluate()
            self._advance()
            self.slots = [kept for slot in self.slots if (kept := self._next(slot)) is not None]
        return self.result

    def _look(self) -> None:
        """End here if the watch says so, with the samples that are done."""
        if self.should_stop is None:
            return
        at_work = {*self.waiting, *(slot.index for slot in self.slots)}
        done = [index for index in range(len(self.samples)) if index not in at_work]
        if self.should_stop(len(done)):
            raise Interrupted(done, self.result.of(done))

    def _enter(self) -> _Slot:
        """The next waiting sample, at the start of the whole range."""
        index = self.waiting.pop(0)
        centred = self.first[index] - self.first_signal * self.reference.mean
        slot = _Slot(index, self.basis.analyse(centred) / self.first_root, [_Task(*self.scheme.span)])
        self._start(slot)
        return slot

    def _start(self, slot: _Slot) -> None:
        """Begin the next piece of a sample, on the reference's flow or on what a larger piece foresaw."""
        task = slot.todo[-1]
        slot.piece = self._piece(task.low, task.high)[0]
        nothing = slot.y.new_zeros(self.scheme.points, len(slot.y))
        slot.remainder = nothing if task.foreseen is None else task.foreseen
        slot.path = self._path(slot)
        slot.moved = torch.full((self.scheme.points,), float("inf"), dtype=torch.float64)
        slot.age, slot.stuck, slot.change, slot.before = 0, 0, float("inf"), float("inf")

    def _piece(self, low: float, high: float) -> tuple[Piece, Tensor, Tensor, Tensor]:
        """A piece, and its roots, weights and doubts as the states are."""
        if (low, high) not in self.pieces:
            piece, like = self.scheme.piece(low, high), self.first
            self.pieces[low, high] = piece, self._expanded(piece.root), piece.weights.to(like), piece.doubt.to(like)
        return self.pieces[low, high]

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and root sqrt(v) at a time [1]."""
        alpha, process = self.scheme.process.alpha(t), self.scheme.process
        root = torch.sqrt(self.scheme.reference.variance(alpha, process.sigma(t)).cpu())[0]
        return alpha.to(self.first), self._expanded(root)

    def _expanded(self, gains: Tensor) -> Tensor:
        return self.basis.expand(gains.to(self.first.dtype).to(self.first.device))

    def _path(self, slot: _Slot) -> Tensor:
        weights = self._piece(slot.piece.low, slot.piece.high)[2]
        return torch.addmm(slot.y, weights, slot.remainder)

    def _evaluate(self) -> None:
        """Remainders at the nodes that moved, in equal shares of the ranks, and then everywhere."""
        limits = [STALE * self._limit(slot) for slot in self.slots]
        nodes = range(self.scheme.points)
        pairs = [(s, node) for node in nodes for s, slot in enumerate(self.slots) if slot.moved[node] > limits[s]]
        cut, message = Partition(len(pairs), self.comm.size), ""
        own = pairs[cut.slice(self.comm.rank)]
        mine = self.first.new_empty(len(own), self.basis.num_coords)
        try:
            rows = self.evaluator.max_rows or max(1, len(own))
            for start in range(0, len(own), rows):
                mine[start : start + rows] = self._remainders(own[start : start + rows])
        except Exception as error:  # any failure of a user's score must reach every rank, or the others wait for ever
            message = described(error, self.evaluator.rank)
        if float(self.comm.max(torch.tensor([float(bool(message))]))) > 0:
            raise ScoreError(next(text for text in self.comm.gather_objects(message) if text))
        everyone = self.comm.allgather(mine, [cut.length(rank) for rank in range(self.comm.size)])
        for (s, node), remainder in zip(pairs, everyone, strict=True):
            slot = self.slots[s]
            slot.remainder[node] = remainder
            slot.moved[node] = 0.0
            self.result.calls[slot.index] += 1

    def _remainders(self, pairs: list[tuple[int, int]]) -> Tensor:
        """g = sigma^2 (s / sqrt(v) + y / v) at some (slot, node), [pairs, n]; ScoreError for scores that are not finite."""
        slots = [self.slots[s] for s, _ in pairs]
        nodes = [node for _, node in pairs]
        roots = [self._piece(slot.piece.low, slot.piece.high)[1][node] for slot, node in zip(slots, nodes, strict=True)]
        signal = torch.stack([slot.piece.alpha[node] for slot, node in zip(slots, nodes, strict=True)]).to(self.first)
        times = torch.stack([slot.piece.t[node] for slot, node in zip(slots, nodes, strict=True)]).to(self.first)
        y = torch.stack([slot.path[node] for slot, node in zip(slots, nodes, strict=True)])
        root = torch.stack(roots)
        x = self.evaluator.project(self.basis.synthesise(root * y) + signal[:, None] * self.reference.mean)
        score = self.evaluator(x[:, None], times)
        self.evaluator.check(score, times, [self.samples[slot.index] for slot in slots])
        variance = torch.stack([slot.piece.sigma[node] for slot, node in zip(slots, nodes, strict=True)]).to(self.first) ** 2
        return self.basis.analyse(score[:, 0]).div_(root).add_(y / root**2).mul_(variance[:, None])

    def _advance(self) -> None:
        """New paths from the remainders, how far they moved, and what the nodes leave in doubt; the same on all ranks."""
        told = []
        for slot in self.slots:
            old, slot.path = slot.path, self._path(slot)
            _, _, _, doubt = self._piece(slot.piece.low, slot.piece.high)
            told.append(torch.stack([self._size(slot.path - old), self._size(doubt @ slot.remainder)]))
        # ranks on different processors may round differently, and must not decide differently
        shared = self.comm.max(torch.nan_to_num(torch.stack(told), nan=float("inf"), posinf=float("inf")))
        for slot, (moved, doubts) in zip(self.slots, shared, strict=True):
            slot.age += 1
            self.result.sweeps[slot.index] += 1
            slot.moved += moved[:-1]
            slot.before, slot.change, slot.doubt = slot.change, float(moved.max()), float(doubts.max())
            slot.stuck = 0 if slot.change < 0.7 * slot.before else slot.stuck + 1

    def _size(self, y: Tensor) -> Tensor:
        """Root mean square of whitened states [M + 1, n], carried to the end of the range, in units of the data's scale."""
        moved = self.basis.synthesise(y * self.last_root) / self.stop.scale
        norm: Tensor = torch.linalg.vector_norm(moved, dim=-1).to("cpu", torch.float64)
        return norm.div_(moved.shape[-1] ** 0.5)

    def _next(self, slot: _Slot) -> _Slot | None:
        """What this slot does next: another sweep, another piece, another sample, or nothing."""
        stop = self.stop
        left = float(remaining_error(torch.tensor([slot.change]), torch.tensor([slot.before])))
        if stop.tol is None:
            return self._piece_done(slot, left, Status.DEPTH_REACHED) if slot.age >= (stop.sweeps or 1) else slot
        met = bool(stop.met(torch.tensor([slot.change]), torch.tensor([slot.before]), slot.wary))
        resolved = slot.doubt <= max(self._limit(slot) / 2, 10 * self._floor())
        if slot.stuck >= PATIENCE and slot.change <= 100 * self._floor() and resolved:
            return self._piece_done(slot, slot.change + slot.doubt, Status.ROUND_OFF_FLOOR)
        if met and resolved:
            return self._piece_done(slot, left + slot.doubt, Status.CONVERGED)
        unresolved = not resolved and (met or slot.change < slot.doubt)
        if not unresolved and slot.stuck < PATIENCE and slot.age < (stop.sweeps or LONGEST):
            return slot
        if slot.piece.high - slot.piece.low <= SMALLEST * (self.scheme.span[1] - self.scheme.span[0]):
            return self._piece_done(slot, left + slot.doubt, Status.NOT_RESOLVED)
        self._halve(slot, keep=unresolved)
        return slot

    def _halve(self, slot: _Slot, *, keep: bool) -> None:
        """Two pieces instead of one, which begin with the remainders of the whole if those are worth keeping."""
        # changes that do not shrink show a boundary between modes, where what one piece leaves grows in the next
        slot.wary |= not keep
        task = slot.todo.pop()
        middle = (task.low + task.high) / 2
        for low, high in ((middle, task.high), (task.low, middle)):
            known = None
            if keep:
                known = self.scheme.inherit(task.low, task.high, (low, high)).to(slot.y) @ slot.remainder
            slot.todo.append(_Task(low, high, known))
        self._start(slot)

    def _piece_done(self, slot: _Slot, error: float, status: Status) -> _Slot | None:
        """Go on from the end of a piece, with the next one or with another sample."""
        index = slot.index
        self.result.residual[index] += error
        self.result.status[index] = max(int(self.result.status[index]), int(status))
        slot.todo.pop()
        slot.y = slot.path[-1]
        if slot.todo:
            self._start(slot)
            return slot
        state = self.basis.synthesise(slot.y * self.last_root) + self.last_signal * self.reference.mean
        self.result.end[index, 0] = self.evaluator.project(state)
        return self._enter() if self.waiting else None

    def _limit(self, slot: _Slot) -> float:
        """The tolerance that a sample is held to; zero where there is none."""
        return float(self.stop.limit(torch.tensor(slot.wary)))

    def _floor(self) -> float:
        """Change of a path that rounding of states or scores alone can cause."""
        return 4 * max(self.evaluator.resolution, torch.finfo(self.first.dtype).eps)
