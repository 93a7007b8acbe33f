"""Solvers of blocks: one for chains of steps and one for collocation, chosen by the type of the scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..gaussian.reference import GaussianReference
from ..theory.chain import Chain
from ..theory.grid import Block
from ..theory.noise import CORRECTOR, NoiseSource
from .baselines.dispatch import BASELINES, SWEEPING, solve_with
from .collocate import CollocationSolver
from .collocation import Collocation
from .evaluate import Evaluator
from .log_det import log_determinants, make_directions
from .memory import collocation_bytes, trajectory_bytes
from .options import Corrector, Options
from .problem import Problem
from .scheme import BlockSolver, Scheme
from .sequential import run_steps
from .solution import BlockSolution, Interrupted, ShouldStop
from .sweep import PicardSolver
from .window import Window


@dataclass(frozen=True)
class ChainBlocks:
    """Solves the blocks of a chain step by step, in sweeps, or with a baseline, as the options say."""

    problem: Problem
    options: Options
    comm: Communicator

    def blocks(self) -> list[Block]:
        """Return one block of all steps where a window moves through the whole chain, else the chain's own blocks."""
        chain = self.problem.chain
        moves = Window.of(self.options, chain.edges).moves
        return [Block(0, 0, chain.num_steps)] if moves else list(chain.grid.blocks())

    def solve(
        self, block: Block, state: Tensor, samples: list[int], carried: Tensor, should_stop: ShouldStop | None
    ) -> tuple[Tensor, BlockSolution]:
        """Return the states [samples, c, d] at a block's end, and the block's solution with its costs."""
        problem, z = self.problem, self.problem.basis.analyse(state)
        if self.options.solver == "sequential":
            result = self._step_by_step(block, z, samples, carried, should_stop)
        elif self.options.solver in BASELINES:
            result = solve_with(problem, block, z, samples, self.options, self.comm, should_stop)
        else:
            result = PicardSolver(
                problem, block, z, samples, self.options, self.comm, carried=carried, should_stop=should_stop
            ).run()
        return self.state(result.end), result

    def bytes_in_memory(self, points: int, slots: int, samples: int, itemsize: int) -> int:
        """Count the bytes that stay in memory on a rank, with `slots` of `samples` samples solved at once."""
        problem, options = self.problem, self.options
        channels, n = problem.chain.channels, problem.basis.num_coords
        state = itemsize * channels * n
        if options.solver == "sequential":
            return 4 * samples * state  # first, last and next states, and the draws
        kind: type[PicardSolver] = SWEEPING.get(options.solver, PicardSolver)
        closed = Window.of(options, problem.chain.edges).moves
        total = trajectory_bytes(problem, points, slots, itemsize, closed=closed, keep_scores=kind.keep_scores)
        if options.solver == "anderson":
            total += (2 * options.memory + 2) * (points + 1) * slots * state
        if options.solver == "newton":
            total += points * slots * channels * state
        return total + 2 * samples * state

    def _step_by_step(
        self, block: Block, z: Tensor, samples: list[int], carried: Tensor, should_stop: ShouldStop | None
    ) -> BlockSolution:
        evaluator = self.problem.evaluator
        for j in range(block.start, block.stop):
            if should_stop is not None and should_stop(0):
                raise Interrupted([], BlockSolution.unsolved(z[:0], 0))
            z = evaluator.together(self.comm, partial(run_steps, self.problem, z, j, j + 1, samples))
        steps = torch.full((len(samples),), len(block))
        zero = torch.zeros_like(steps)
        return BlockSolution(z, zero, carried, zero, steps, steps)

    def state(self, end: Tensor) -> Tensor:
        """Return the states [samples, c, d] of end coordinates [samples, c, n]."""
        return self.problem.state(end)

    def correct(
        self,
        corrector: Corrector,
        block: Block,
        state: Tensor,
        samples: list[int],
        carried: Tensor,
        should_stop: ShouldStop | None,
    ) -> tuple[Tensor, BlockSolution]:
        """Take kinetic Langevin steps at the block's last time, from freshly drawn velocities.

        Returns the new states [samples, 1, d] and the joint solution of all sub-blocks.
        """
        problem = self.problem
        if problem.noise is None:
            raise ValueError("the corrector is stochastic: give `noise`, a Noise(seed, size)")
        chain = corrector(float(problem.chain.t[block.stop]))
        offset = block.index * (chain.num_steps + 1)
        plain = replace(self.options, window=None, pipelined=False, operator=None, student=None)
        inner = ChainBlocks(problem.along(chain, plain, stream=CORRECTOR, step_offset=offset + 1), plain, self.comm)
        velocity = problem.noise.at([offset], samples, 1, CORRECTOR)[0, :, 0].to(state)
        moving = problem.evaluator.project(torch.stack([state[:, 0], velocity], dim=1))
        total: BlockSolution | None = None
        for sub in chain.grid.blocks():
            moving, result = inner.solve(sub, moving, samples, carried, should_stop)
            carried, total = result.residual, result if total is None else result.after(total)
        assert total is not None
        return moving[:, :1], total


@dataclass(frozen=True)
class CollocationBlocks:
    """Solves the one block of a collocation, with its own reference and without noise."""

    scheme: Collocation
    evaluator: Evaluator
    noise: NoiseSource | None
    options: Options
    comm: Communicator

    def blocks(self) -> list[Block]:
        """Return one block of all nodes."""
        return list(self.scheme.grid.blocks())

    def solve(
        self, block: Block, state: Tensor, samples: list[int], carried: Tensor, should_stop: ShouldStop | None
    ) -> tuple[Tensor, BlockSolution]:
        """Return the states [samples, 1, d] at the end of the flow, and the solution with its costs."""
        solver = CollocationSolver(self.scheme, self.evaluator, state[:, 0], samples, self.options, self.comm, should_stop)
        try:
            result = solver.run()
        except Interrupted as early:
            raise Interrupted(early.done, self._with_log_det(early.solution, solver, early.done)) from None
        result = self._with_log_det(result, solver, range(len(samples)))
        return result.end, result

    def _with_log_det(self, result: BlockSolution, solver: CollocationSolver, done: Sequence[int]) -> BlockSolution:
        """Add the log-determinants of the samples at the positions `done` if they are requested, which takes one more round."""
        if self.options.traces == "none":
            return result
        names, visited = [solver.samples[k] for k in done], [solver.visited[k] for k in done]
        made = make_directions(self.options.traces, solver.whitening, self.evaluator, self.noise)
        log_det, calls = log_determinants(solver.whitening, self.evaluator, made, visited, names, result.residual, self.comm)
        return replace(result, log_det=log_det, calls=result.calls + calls)

    def bytes_in_memory(self, points: int, slots: int, samples: int, itemsize: int) -> int:
        """Count the bytes that stay in memory on a rank; every rank keeps all nodes, whatever its share of `points`."""
        states = 2 * samples * itemsize * math.prod(self.scheme.reference.event_shape)
        kept = samples if self.options.traces != "none" else 0
        return states + collocation_bytes(self.scheme, slots, itemsize, kept)

    def state(self, end: Tensor) -> Tensor:
        """Return the ends unchanged: they are states already."""
        return end

    def correct(self, *_: object) -> tuple[Tensor, BlockSolution]:
        """Raise ValueError: no corrector follows a flow that is solved at once."""
        raise ValueError("collocation has no blocks that a corrector could follow; use a chain of steps, for example 'gaussian'")


def block_solver(
    scheme: Scheme, evaluator: Evaluator, noise: NoiseSource | None, reference: GaussianReference | None,
    options: Options, comm: Communicator, *, like: Tensor,
) -> BlockSolver:  # fmt: skip
    """Build the solver for the blocks of a scheme, for states like `like` [samples, d]."""
    if isinstance(scheme, Collocation):
        return CollocationBlocks(scheme, evaluator, noise, options, comm)
    assert isinstance(scheme, Chain)
    return ChainBlocks(Problem.of(scheme, evaluator, noise, reference, options, like), options, comm)
