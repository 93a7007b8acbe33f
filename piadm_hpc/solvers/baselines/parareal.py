"""Parareal, as in SRDS (Selvam et al. 2024, 2412.08292): fine solvers run in parallel and correct a coarse one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...theory.grid import Partition
from ..options import Options
from ..problem import Problem
from ..sequential import run_steps
from ..solution import BlockSolution, Interrupted, Status
from .stepping import BlockStepper, scores_together, step_together


@dataclass
class Parareal(BlockStepper):
    """Iterates x[i+1] <- F(x[i]) + G(x_new[i]) - G(x[i]) over the parts of a block; F is the chain step by step, G is coarse.

    G is one step over the whole part that keeps the denoised estimate of one network call constant (DDIM, as published). With
    `coarse` "reference" it follows the reference and costs no call. The parts are divided among the ranks, and all ranks
    compute the coarse sweep. After p iterations the first p parts are exact. The iteration ends when the last state changes by
    at most `tol` (root mean square, in units of the data's scale). `sweeps` counts iterations, `sequential_steps` the other
    rounds.
    """

    def __post_init__(self) -> None:
        block, options, comm = self.block, self.options, self.comm
        count = min(len(block), options.parts or round(math.sqrt(len(block))))
        if count < comm.size:
            raise ValueError(f"parareal: {count} parts of a block for {comm.size} time ranks; use fewer ranks or more parts")
        cut = Partition(len(block), count)
        self.edges = [block.start + cut.start(part) for part in range(count + 1)]
        own = Partition(count, comm.size).slice(comm.rank)
        self.own = range(own.start, own.stop)

    @property
    def parts(self) -> int:
        return len(self.edges) - 1

    def solve(self, first: Tensor, samples: Sequence[int]) -> BlockSolution:
        self.names, self.index = list(samples), torch.arange(len(samples))
        self.result = BlockSolution.unsolved(first, len(samples))
        starts, jumps = self._coarse_path(first)
        ends, last = torch.zeros_like(jumps), starts[-1]
        change = torch.full((len(samples),), math.inf, dtype=torch.float64)
        for done in range(1, self.parts + 1):
            ends = self._fine(starts, ends, done - 1)
            before, (starts, jumps) = change, self._corrected(starts, jumps, ends, done)
            change, last = self._change(starts[-1], last), starts[-1]
            kept = self._retire(starts, change, before, done)
            if not bool(kept.any()):
                break
            self._keep(kept)
            starts, jumps, ends, change, last = starts[:, kept], jumps[:, kept], ends[:, kept], change[kept], last[kept]
        return self.result

    def _together(self, work: Callable[[], Tensor]) -> Tensor:
        """Run one step of work on all ranks, which share failures; raises Interrupted if a stop was requested before it."""
        if self.should_stop is not None and self.should_stop(0):
            raise Interrupted([], self.result.of([]))
        return self.problem.evaluator.together(self.comm, work)

    def _keep(self, kept: Tensor) -> None:
        self.index = self.index[kept]
        self.names = [name for name, stays in zip(self.names, kept.tolist(), strict=True) if stays]

    def _coarse_path(self, first: Tensor) -> tuple[Tensor, Tensor]:
        states = [first]
        for part in range(self.parts):
            states.append(self._coarse(part, states[-1]))
        starts = torch.stack(states)
        return starts, starts[1:].clone()

    def _coarse(self, part: int, z: Tensor) -> Tensor:
        """Compute G over one part; this is a round of its own if it calls the network."""
        start, stop, remainder = self.edges[part], self.edges[part + 1], None
        if self.options.coarse == "network":
            score = self._together(lambda: scores_together(self.problem, [start], z[None], self.names)[0])
            remainder = self.predictor.remainder(start, z, score)
            self.result.sequential_steps[self.index] += 1
            self.result.calls[self.index] += 1
        return self.predictor.jump(z, start, stop, self.names, remainder)

    def _fine(self, starts: Tensor, ends: Tensor, exact: int) -> Tensor:
        """Compute F over the parts from `exact` on, and sum the ends of all ranks: [parts, samples, c, n]."""
        lengths = [stop - start for start, stop in zip(self.edges, self.edges[1:], strict=False)]
        mine = [part for part in self.own if part >= exact]
        new_ends = torch.zeros_like(ends)
        if self.comm.rank == 0:
            new_ends[:exact] = ends[:exact]
        z = starts[mine]
        for step in range(max(lengths[exact:])):
            going = [i for i, part in enumerate(mine) if step < lengths[part]]
            points = [self.edges[mine[i]] + step for i in going]

            def stepped(going: list[int] = going, points: list[int] = points, z: Tensor = z) -> Tensor:
                return step_together(self.problem, points, z[going], self.names)[0]

            z[going] = self._together(stepped)
        new_ends[mine] = z
        self.result.calls[self.index] += sum(lengths[exact:])
        self.result.sequential_steps[self.index] += max(lengths[exact:]) - 1
        self.result.sweeps[self.index] += 1
        return self.comm.sum(new_ends)

    def _corrected(self, starts: Tensor, jumps: Tensor, ends: Tensor, done: int) -> tuple[Tensor, Tensor]:
        """Repeat the coarse sweep with the fine corrections; part `done` - 1 began from an exact state, so its end is exact."""
        starts, jumps = starts.clone(), jumps.clone()
        starts[done] = ends[done - 1]
        for part in range(done, self.parts):
            jump = self._coarse(part, starts[part])
            starts[part + 1] = ends[part] + jump - jumps[part]
            jumps[part] = jump
        return starts, jumps

    def _change(self, end: Tensor, before: Tensor) -> Tensor:
        return state_change(self.problem, self.options, self.edges[-1], end, before)

    def _retire(self, starts: Tensor, change: Tensor, before: Tensor, done: int) -> Tensor:
        """Record the samples that are done; returns the mask of those that are not."""
        result, options = self.result, self.options
        whole, limit = done == self.parts, options.sweeps or self.parts
        met = (change <= (0.0 if options.tol is None else options.tol)) | whole
        over = ~met & (done >= limit)
        ends = starts[-1].clone()
        if bool(over.any()) and options.tol is not None:
            names = [name for name, late in zip(self.names, over.tolist(), strict=True) if late]
            point, late = self.edges[done], starts[done][over]
            ends[over] = self._together(lambda: run_steps(self.problem, late, point, self.edges[-1], names))
            result.sequential_steps[self.index[over]] += self.edges[-1] - point
            result.calls[self.index[over]] += self.edges[-1] - point
        late_status = Status.DEPTH_REACHED if options.tol is None else Status.FINISHED_SEQUENTIALLY
        leaving = met | over
        result.end[self.index[leaving]] = ends[leaving]
        result.residual[self.index[leaving]] = torch.where(torch.isfinite(change), change, 0.0)[leaving]
        result.status[self.index[leaving]] = torch.where(met, int(Status.CONVERGED), int(late_status))[leaving]
        return ~leaving


def state_change(problem: Problem, options: Options, point: int, z: Tensor, before: Tensor) -> Tensor:
    """Return the root mean square difference [samples] of two states at a point, in units of the data's scale there."""
    moved = problem.basis.synthesise((z - before)[:, 0])
    signal = 1.0 if problem.chain.alpha is None else float(problem.chain.alpha.reshape(len(problem.chain.t), -1)[point, 0])
    norm: Tensor = torch.linalg.vector_norm(moved / options.scale, dim=-1).to("cpu", torch.float64)
    return norm.div_(moved.shape[-1] ** 0.5 * signal)
