"""`solve`: the one entry to all solvers, for any chain, any score and any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..comm.communicator import Communicator, SerialCommunicator
from ..gaussian.reference import GaussianReference
from ..schema.conditions import Condition, matched
from ..theory.grid import Block
from ..theory.noise import GivenNoise, NoiseSource
from .arguments import check_arguments
from .blocks import block_solver
from .evaluate import Conditions, Evaluator, Score
from .options import Options
from .scheme import BlockSolver, Scheme
from .solution import BlockSolution, Interrupted, ShouldStop, Solution, Status, Stopped, Unfinished, costs_of
from .steady import checked

Projection = Callable[[Tensor], Tensor]


class Callback(Protocol):
    """Hooks that `solve` calls while it works; they are collective over the ranks that share the samples."""

    def block_ended(self, block: Block, result: BlockSolution, unfinished: Unfinished) -> None:
        """Receive the result of a block that has just ended; `solve` can continue from `unfinished` later."""
        ...

    def should_stop(self, done: int) -> bool:
        """Return whether to end the work here, between two network calls; `done` samples are finished."""
        ...


@torch.no_grad()
def solve(
    chain: Scheme,
    score: Score,
    x0: Tensor | tuple[Tensor, Tensor],
    options: Options | None = None,
    *,
    noise: NoiseSource | Tensor | None = None,
    reference: GaussianReference | None = None,
    condition: Condition | None = None,
    comm: Communicator | None = None,
    samples: Sequence[int] | None = None,
    project: Projection | None = None,
    resume: Unfinished | None = None,
    callback: Callback | None = None,
) -> Solution:
    """Solve a chain from its first point to its last; collective over `comm`, whose ranks share the points.

    Args:
        chain: the steps, or the points of the flow.
        score: called as score(x [rows, *event], t [rows]), and as score(x, t, c) with a condition, with at most
            `options.model_batch` rows.
        x0: first states [samples, *event], float32 or float64; or a pair of these and the other channels of a chain that has
            them, [samples, *event] or [samples, c-1, *event]. Channels that are not given are zero.
        options: how to solve; the default sweeps until errors are below 1e-2.
        noise: a Noise, or the draws themselves [steps, samples, *event].
        reference: the Gaussian that preconditions sweeps and gives their first path.
        condition: a further argument of the score beside states and times: a tensor, or a dictionary of tensors, whose first
            dimension counts the samples. Every row of a call receives the entries of its own sample, real numbers in the
            precision of x0.
        comm: the ranks that share the time axis; default: this process alone.
        samples: ids of the samples, which select their noise; default 0, 1, ...
        project: maps states [rows, *event] to the linear subspace that all of them lie in (a mask, a fixed centre of mass).
        resume: states at the end of a block to continue from, as `callback.block_ended` received them.
        callback: receives the result of every block, and decides whether to stop.

    Raises:
        ValueError: for arguments that do not fit together; all mistakes at once, before any call of the score.
        ScoreError: on every rank, when the score fails on any, and if `options.check_score` finds that its result for a state
            depends on chance or on the other states of a call.
        Stopped: when the callback ends the work.
    """
    comm, options = comm or SerialCommunicator(), options or Options()
    x0, momentum = (x0, None) if isinstance(x0, Tensor) else x0
    names = list(range(len(x0))) if samples is None else list(samples)
    check_arguments(
        chain, x0, names, options, momentum=momentum, condition=condition, noise=noise, reference=reference, comm=comm
    )
    event_shape = tuple(x0.shape[1:])
    conditions = None if condition is None else Conditions(matched(condition, x0), {name: k for k, name in enumerate(names)})
    score = checked(score, options)
    evaluator = Evaluator(score, event_shape, project, options.model_batch, comm.world_rank, chain.reads, conditions)
    if isinstance(noise, Tensor):
        noise = GivenNoise(noise, names, chain.drawn)
    if isinstance(options.scale, Tensor):
        options = replace(options, scale=options.scale.to(x0).reshape(-1))
    solver = block_solver(chain, evaluator, noise, reference, options, comm, like=x0.flatten(1))
    blocks = solver.blocks()
    # samples that leave a block are finished only if it is the last one
    alone = len(blocks) == 1 and options.corrector is None
    should_stop = None if callback is None else callback.should_stop if alone else _of_blocks(callback)
    state = evaluator.project(_state(x0, momentum, chain.channels))
    results: list[BlockSolution] = []
    extra = torch.zeros(2, len(names), dtype=torch.long)
    if resume is not None:
        state, results, extra = resume.state.to(state), resume.blocks, resume.extra.clone()
    try:
        for block in blocks[len(results) :]:
            carried = results[-1].residual if results else torch.zeros(len(names), dtype=torch.float64)
            state, result = solver.solve(block, state, names, carried, should_stop)
            extra[0] += result.log_det is not None
            if options.corrector is not None:
                state, corrected = solver.correct(options.corrector, block, state, names, result.residual, should_stop)
                extra += torch.stack([corrected.sweeps + corrected.sequential_steps, corrected.calls])
                result = replace(result, status=torch.maximum(result.status, corrected.status), residual=corrected.residual)
            results.append(result)
            if callback is not None:
                callback.block_ended(block, result, Unfinished(state, costs_of(results), extra))
    except Interrupted as early:
        raise _stopped(early.done if alone else [], early.solution, solver, event_shape) from None
    return Solution.of(state, event_shape, results, extra)


def _of_blocks(callback: Callback) -> ShouldStop:
    """Report no finished samples for blocks that others follow, because a sample that leaves such a block is not finished."""
    return lambda _: callback.should_stop(0)


def _stopped(done: list[int], solution: BlockSolution, solver: BlockSolver, event_shape: tuple[int, ...]) -> Stopped:
    """Build the exception with the samples that left the only block."""
    if not done:
        return Stopped([], None)
    extra = torch.zeros(2, len(done), dtype=torch.long)
    extra[0] += solution.log_det is not None
    return Stopped(done, Solution.of(solver.state(solution.end), event_shape, [solution], extra))


def _state(x0: Tensor, momentum: Tensor | None, channels: int) -> Tensor:
    """Join position and momentum to states [samples, c, d]; channels that are not given are zero."""
    position = x0.flatten(1)[:, None]
    if momentum is None:
        return torch.cat([position, torch.zeros_like(position).expand(-1, channels - 1, -1)], dim=1)
    return torch.cat([position, momentum.reshape(len(x0), channels - 1, position.shape[-1]).to(position)], dim=1)


__all__ = ["Callback", "Solution", "Status", "Stopped", "Unfinished", "solve"]
