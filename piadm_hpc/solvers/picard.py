"""Picard sweeps over a block: all scores in one batch, then one scan of affine maps.

    x_new[j+1] = A[j] x_new[j] + ((P[j]-A[j]) x[j] + Q[j] s(x[j], t[j]) + N[j] xi[j] + M[j] mean)      (sweep)

Each time rank owns a slice of the block's points. A sweep costs one batched score call, one exclusive scan and one
maximum; a block one broadcast more. After k sweeps the points up to k are exact whatever A is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..chain import LinearPart, add_lifted, affine, apply, expand
from ..comm import Communicator, Linear
from ..grid import Block, Partition
from .evaluate import ScoreError
from .problem import Problem
from .sequential import run_steps
from .stopping import BlockSolution, Picard, Status, unsolved


@torch.no_grad()
def solve_block(
    problem: Problem,
    block: Block,
    first: Tensor,
    samples: Sequence[int],
    *,
    stop: Picard,
    linear: LinearPart,
    start: LinearPart | None,
    comm: Communicator,
) -> BlockSolution:
    """Solve one block from coordinates `first` [samples, c, n] of its first point; collective over `comm`.

    `start` is the linear part of a reference whose own path, with the same noise, is the first guess; None starts
    from copies of the first state. Raises ScoreError on every rank when the score fails on any.
    """
    if len(block) < comm.size:
        raise ValueError(
            f"block {block.index} has {len(block)} steps for {comm.size} time ranks; use fewer ranks or fewer blocks"
        )
    return _Sweeps(problem, block, first, list(samples), stop, linear, start, comm).run()


class _Sweeps:
    """The iteration's state on one rank: coordinates z, increments b, draws and last estimates of the rank's points."""

    def __init__(
        self,
        problem: Problem,
        block: Block,
        first: Tensor,
        samples: list[int],
        stop: Picard,
        linear: LinearPart,
        start: LinearPart | None,
        comm: Communicator,
    ):
        self.problem, self.block, self.samples, self.stop, self.comm = problem, block, samples, stop, comm
        self.cut = Partition(len(block), comm.size)
        own = self.cut.slice(comm.rank)
        self.points = range(block.start + own.start, block.start + own.stop)
        self.linear = linear
        self.first = first
        self.times = problem.chain.t.to(device=first.device, dtype=first.dtype)
        self.z = first.expand(len(self.points), *first.shape).clone()
        self.b = torch.empty_like(self.z)
        self.draws = torch.empty_like(self.z) if problem.has_draws else None
        if self.draws is not None:
            for local, j in enumerate(self.points):
                self.draws[local] = problem.draws(j, samples, first)
        self.end = torch.empty_like(first)
        size = problem.frame.synthesise(first[:1, 0]).shape[-1]
        self.seen = first.new_zeros(len(self.points), len(samples), size)
        self.watched = start is not None
        self.maps = self._slice_maps(linear)
        if start is not None:
            self._reference_path(start)
        self.active = torch.arange(len(samples))
        self.best = torch.full((len(samples),), float("inf"), dtype=torch.float64)
        self.stuck = torch.zeros(len(samples), dtype=torch.long)
        self.result = unsolved(first, len(samples))

    def run(self) -> BlockSolution:
        limit = min(self.stop.sweeps or len(self.block), len(self.block))
        for sweep in range(1, limit + 1):
            residual = self._evaluate(sweep)
            self._update(self.linear, self.maps)
            self._retire(sweep, residual, last=sweep == limit)
            if len(self.active) == 0:
                break
        if len(self.active):
            self._finish_sequentially(limit)
        self.result.end.copy_(self.comm.bcast(self.result.end, self.comm.size - 1))
        return self.result

    def _reference_path(self, start: LinearPart) -> None:
        """The path of the chain with the reference's score and the same noise, and its denoised estimates: no score call."""
        chain, frame = self.problem.chain, self.problem.frame
        assert chain.alpha is not None and start.slope is not None
        mean = self.problem.mean
        for local, j in enumerate(self.points):
            self.b[local] = 0 if self.draws is None else self.draws[local]
            if mean is not None:
                # the reference's score is J (x - alpha m); its constant part is not in A
                pull = -float(chain.alpha[j]) * chain.Q[j] * start.slope[j][:, None]
                add_lifted(self.b[local], expand(frame, pull, self.first), mean)
        self._update(start, self.maps if start is self.linear else self._slice_maps(start))
        for local, j in enumerate(self.points):
            deviation = self.z[local, :, 0] if mean is None else self.z[local, :, 0] - float(chain.alpha[j]) * mean
            score = frame.synthesise(expand(frame, start.slope[j], self.first) * deviation)
            torch.add(frame.synthesise(self.z[local, :, 0]), score, alpha=self.problem.noise_level(j)[1], out=self.seen[local])

    def _evaluate(self, sweep: int) -> Tensor:
        """Scores at the points that can still change, increments, and the largest change of a denoised estimate.

        After k sweeps points 0 .. k are exact, so sweep k+1 needs no new score before point k.
        """
        low = max(0, self.block.start + sweep - 1 - self.points.start)
        residual = torch.zeros(len(self.active) + 1, dtype=torch.float64)
        message = ""
        try:
            if low < len(self.points):
                residual[:-1] = self._scores(low)
        except Exception as error:  # any failure of a user's score must reach every rank, or the others wait for ever
            residual[-1], message = 1.0, _describe(error, self.problem.evaluator.rank)
        residual = self.comm.max(torch.nan_to_num(residual, nan=float("inf"), posinf=float("inf")))
        if residual[-1] > 0:
            messages = [text for text in self.comm.gather_objects(message) if text]
            raise ScoreError(messages[0])
        still = len(self.block) - (sweep - 1)
        self.result.calls[self.active] += still
        return residual[:-1]

    def _scores(self, low: int) -> Tensor:
        """Evaluate this rank's points from `low` on, at most `max_rows` rows a call."""
        evaluator, num_samples = self.problem.evaluator, len(self.active)
        num_rows = (len(self.points) - low) * num_samples
        flat = self.z[low:, :, 0].reshape(num_rows, -1)
        times = self.times[self.points.start + low : self.points.stop].repeat_interleave(num_samples)
        residual = torch.zeros(num_samples, dtype=torch.float64)
        rows = evaluator.max_rows or num_rows
        for start in range(0, num_rows, rows):
            part = slice(start, min(num_rows, start + rows))
            x = evaluator.project(self.problem.frame.synthesise(flat[part]))
            score = evaluator(x, times[part])
            self._take(low, part, x, score, residual)
            if not bool(torch.isfinite(residual).all()):
                names = [self.samples[self.active[row % num_samples]] for row in range(part.start, part.stop)]
                evaluator.check(score, times[part], names)
        if not self.watched:
            residual.fill_(float("inf"))
        self.watched = True
        return residual

    def _take(self, low: int, part: slice, x: Tensor, score: Tensor, residual: Tensor) -> None:
        """From some rows' scores: how far their denoised estimates moved, and the increments of their steps."""
        num_samples = len(self.active)
        kicks = self.problem.frame.analyse(score)
        for local in range(low + part.start // num_samples, low + (part.stop - 1) // num_samples + 1):
            first_row = (local - low) * num_samples
            own = slice(max(part.start - first_row, 0), min(part.stop - first_row, num_samples))
            rows = slice(first_row + own.start - part.start, first_row + own.stop - part.start)
            moved = self._moved(local, own, x[rows], score[rows])
            residual[own] = torch.maximum(residual[own], moved.nan_to_num(nan=float("inf")))
            draws = None if self.draws is None else self.draws[local, own]
            j, z = self.points[local], self.z[local, own]
            self.problem.increment(self.b[local, own], draws, j, z, kicks[rows], self.linear)

    def _moved(self, local: int, own: slice, x: Tensor, score: Tensor) -> Tensor:
        """Change of the denoised estimates of some samples at a point, root mean square in units of the scale.

        What is remembered is alpha D = x + sigma^2 s, in place.
        """
        alpha, variance = self.problem.noise_level(self.points[local])
        seen = self.seen[local, own]
        change = seen.sub_(x).sub_(score, alpha=variance)
        if isinstance(self.stop.scale, Tensor):
            change.div_(self.stop.scale)
        norm: Tensor = torch.linalg.vector_norm(change, dim=-1).to("cpu", torch.float64)
        torch.add(x, score, alpha=variance, out=seen)
        unit = 1.0 if isinstance(self.stop.scale, Tensor) else self.stop.scale
        return norm.div_(x.shape[-1] ** 0.5 * alpha * unit)

    def _update(self, linear: LinearPart, maps: Linear) -> None:
        """The recurrence in x_new: local total, one exclusive scan over ranks, then the local points."""

        def step(out: Tensor, local: int, z: Tensor) -> Tensor:
            return affine(out, self.b[local], expand(self.problem.frame, linear.A[self.points[local]], z), z)

        total = self.b[0]
        # the scan is exclusive: nobody asks what the last rank's slice adds
        for local in range(1, len(self.points) if self.comm.rank + 1 < self.comm.size else 0):
            total = step(torch.empty_like(total), local, total)
        self.z[0] = self.comm.exscan(self.first, total, maps)
        for local in range(1, len(self.points)):
            step(self.z[local], local - 1, self.z[local - 1])
        step(self.end, len(self.points) - 1, self.z[-1])

    def _slice_maps(self, linear: LinearPart) -> Linear:
        """What the slices of several ranks in a row do to a state, from the tables alone."""
        tables: dict[tuple[int, int], Tensor] = {}

        def act(low: int, high: int, z: Tensor) -> Tensor:
            if (low, high) not in tables:
                first, last = self.cut.slice(low), self.cut.slice(high - 1)
                product = linear.product(self.block.start + first.start, self.block.start + last.stop)
                tables[low, high] = expand(self.problem.frame, product, self.first)
            return apply(tables[low, high].to(z.device), z)

        return act

    def _retire(self, sweep: int, residual: Tensor, *, last: bool) -> None:
        """Record and drop the samples that are done: converged, at the round-off floor, exact, or at the fixed depth."""
        self.result.sweeps[self.active] = sweep
        self.result.residual[self.active] = residual
        improved = residual < 0.95 * self.best
        self.stuck = torch.where(improved, torch.zeros_like(self.stuck), self.stuck + 1)
        self.best = torch.minimum(self.best, residual)
        exact = sweep == len(self.block)
        met = residual <= self.stop.tol if self.stop.tol is not None else torch.zeros_like(improved)
        floor = (self.stuck >= 3) & (self.best <= 100 * self._floor()) & (self.stop.tol is not None)
        depth = torch.full_like(met, last and self.stop.tol is None)
        status = torch.full((len(self.active),), int(Status.CONVERGED))
        status[depth] = int(Status.DEPTH_REACHED)
        status[floor] = int(Status.ROUND_OFF_FLOOR)
        status[met | exact] = int(Status.CONVERGED)
        self._drop(met | floor | depth | exact, status)

    def _drop(self, done: Tensor, status: Tensor) -> None:
        if not bool(done.any()):
            return
        self.result.end[self.active[done]] = self.end[done]
        self.result.status[self.active[done]] = status[done]
        keep = ~done
        self.active, self.best, self.stuck = self.active[keep], self.best[keep], self.stuck[keep]
        self.first, self.end = self.first[keep], self.end[keep]
        # one by one, so that each old array is gone before the next copy is made
        self.z = self.z[:, keep]
        self.b = self.b[:, keep]
        self.seen = self.seen[:, keep]
        self.draws = None if self.draws is None else self.draws[:, keep]

    def _floor(self) -> float:
        """Change of a denoised estimate that rounding of states or scores alone can cause."""
        chain = self.problem.chain
        ratio = 1.0 if chain.alpha is None or chain.sigma is None else float((chain.sigma / chain.alpha).max())
        resolution = max(self.problem.evaluator.resolution, torch.finfo(self.first.dtype).eps)
        return 4 * resolution * max(1.0, ratio)

    def _finish_sequentially(self, sweeps: int) -> None:
        """From the furthest exact point, `sweeps` steps into the block, the rest of the chain step by step."""
        point = self.block.start + sweeps
        owner = self.cut.owner(sweeps)
        z = self.first.clone()
        if owner == self.comm.rank:
            z = self.z[point - self.points.start].clone()
        z = self.comm.bcast(z, owner)
        names = [self.samples[i] for i in self.active]
        self.result.end[self.active] = run_steps(self.problem, z, point, self.block.stop, names)
        self.result.status[self.active] = int(Status.FINISHED_SEQUENTIALLY)
        self.result.sequential_steps[self.active] = self.block.stop - point
        self.result.calls[self.active] += self.block.stop - point


def _describe(error: Exception, rank: int) -> str:
    if isinstance(error, ScoreError):
        return str(error)
    return f"the score failed on rank {rank}: {type(error).__name__}: {error}"
