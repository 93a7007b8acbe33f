"""`solve`: any chain, any score, any number of ranks. The commands use nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..comm.communicator import Communicator, SerialCommunicator
from ..gaussian.reference import GaussianReference
from ..theory.bases import Identity
from ..theory.chain import Chain
from ..theory.grid import Block
from ..theory.noise import CHAIN, CORRECTOR, GivenNoise, NoiseSource
from .arguments import Corrector, Linear, SolverName, check_arguments, check_moving
from .baselines.dispatch import BASELINES, BaselineSettings, solve_with
from .collocate import collocate
from .collocation import Collocation, Scheme
from .evaluate import Evaluator, Score, ScoreError
from .linear import LinearPart, denoised_part, identity_part, process_part, reference_part, response_part
from .problem import Problem
from .sequential import run_steps
from .solution import Solution, Stopped, Unfinished, costs_of
from .sweep import solve_block
from .tolerance import BlockSolution, Interrupted, ShouldStop, Status, Tolerance, unsolved
from .trajectory import Method, Operator
from .window import Schedule

Projection = Callable[[Tensor], Tensor]
Start = Literal["auto", "constant", "reference"]
BlockCallback = Callable[[Block, BlockSolution, Unfinished], None]


@torch.no_grad()
def solve(
    chain: Scheme,
    score: Score,
    x0: Tensor,
    *,
    noise: NoiseSource | Tensor | None = None,
    tol: float | None = 1e-2,
    sweeps: int | None = None,
    reference: GaussianReference | None = None,
    linear: Linear = "auto",
    start: Start = "auto",
    solver: SolverName = "picard",
    baseline: BaselineSettings | None = None,
    window: int | None = None,
    pipelined: bool = False,
    in_flight: int | None = None,
    operator: Operator | None = None,
    comm: Communicator | None = None,
    samples: Sequence[int] | None = None,
    scale: float | Tensor = 1.0,
    project: Projection | None = None,
    model_batch: int | None = None,
    momentum: Tensor | None = None,
    corrector: Corrector | None = None,
    callback: BlockCallback | None = None,
    resume: Unfinished | None = None,
    should_stop: ShouldStop | None = None,
) -> Solution:
    """Run a chain from x0 [samples, *event] (float32 or float64) to its last point; collective over `comm`.

    `score(x [rows, *event], t [rows])` is called with at most `model_batch` rows. `noise` is a Noise, or the draws
    themselves [steps, samples, *event]. `tol` bounds the change of the denoised estimate in units of `scale` (the
    data's standard deviation); `sweeps` fixes the depth instead (tol None) or limits it. `linear` is the part of a
    step that sweeps treat exactly: the Gaussian `reference` (default when there is one; its probed `response` where it
    has one), the denoised estimate held
    (default for one-channel chains that know their levels), the process, or the identity; it changes the number of
    sweeps, never the result. `window` limits the points open to a sweep; `pipelined` opens one block more a sweep;
    either treats the chain as a whole. `solver` names another scheme (`solvers.baselines`, set by `baseline`), or "sequential".
    `in_flight` limits the samples worked on at once: one that is done makes room.
    `operator(states [samples, c, d], points)` foretells [points, samples, c, d], a first path instead of `start`.
    `project` maps states [rows, *event] to the subspace all of them must lie in (a mask, a fixed centre of mass); it
    must be linear. `momentum` holds the other channels of chains that have them, [samples, *event] or [samples, c-1,
    *event] (default zero). `corrector(t)` gives a chain of position and velocity that follows every block. Samples that
    fail to converge are finished sequentially and marked. `callback` sees every block's end; from what it is given there
    `resume` goes on. `should_stop` is told between sweeps how many samples are finished; it ends the work by returning true.

    Raises ValueError for arguments that do not fit, all at once, ScoreError when the score fails, and Stopped.
    """
    comm = comm or SerialCommunicator()
    names = list(range(len(x0))) if samples is None else list(samples)
    stop = Tolerance(tol, sweeps, scale.to(x0).reshape(-1) if isinstance(scale, Tensor) else scale)
    check_arguments(chain, x0, names, reference, linear, start, solver, momentum, comm)
    check_moving(chain, window, pipelined, in_flight, stop, corrector)
    event_shape = tuple(x0.shape[1:])
    evaluator = Evaluator(score, event_shape, project, model_batch, comm.world_rank, chain.reads)
    source = GivenNoise(noise, names, chain.channels) if isinstance(noise, Tensor) else noise
    if isinstance(chain, Collocation):
        return _collocated(chain, evaluator, x0, names, stop, in_flight, comm, should_stop)
    schedule = Schedule(window, chain.edges if pipelined else ())
    blocks = [Block(0, 0, chain.num_steps)] if schedule.moves else list(chain.grid.blocks())
    # with one block, and nothing after it, what leaves the block is finished
    alone = len(blocks) == 1 and corrector is None
    should_stop = should_stop if should_stop is None or alone else _unfinished(should_stop)
    moved = None if reference is None else reference.to(x0.device, x0.dtype)
    chain = _in_basis(chain, moved)
    baseline = baseline or BaselineSettings()
    method = _Method(solver, stop, linear, start, moved, comm, schedule, in_flight, operator, should_stop, baseline)
    problem = _problem(chain, evaluator, source, moved, x0)
    sweep = method.sweeps(chain)
    state = evaluator.project(_state(x0, momentum, chain.channels))
    results, extra = [], torch.zeros(2, len(names), dtype=torch.long)
    if resume is not None:
        state, results, extra = resume.state.to(state), resume.blocks, resume.extra.clone()
    try:
        for block in blocks[len(results) :]:
            state, result = method.solve(problem, block, state, names, sweep)
            if corrector is not None:
                state[:, 0], corrected = _correct(corrector, block, problem, state[:, 0], names, method)
                extra += torch.stack([corrected.sweeps + corrected.sequential_steps, corrected.calls])
                result = replace(result, status=torch.maximum(result.status, corrected.status))
            results.append(result)
            if callback is not None:
                callback(block, result, Unfinished(state, costs_of(results), extra))
    except Interrupted as early:
        raise _stopped(early.done if alone else [], early.found, problem.state, event_shape) from None
    return Solution.of(state, event_shape, results, extra)


def _unfinished(should_stop: ShouldStop) -> ShouldStop:
    """A watch on a block that is not the last: nothing that leaves it is finished."""
    return lambda _: should_stop(0)


def _collocated(
    scheme: Collocation, evaluator: Evaluator, x0: Tensor, names: list[int], stop: Tolerance, in_flight: int | None,
    comm: Communicator, should_stop: ShouldStop | None,
) -> Solution:  # fmt: skip
    first, event_shape = evaluator.project(x0.flatten(1)), tuple(x0.shape[1:])
    try:
        found = collocate(scheme, evaluator, first, names, stop=stop, in_flight=in_flight, comm=comm, should_stop=should_stop)
    except Interrupted as early:
        raise _stopped(early.done, early.found, lambda end: end, event_shape) from None
    return Solution.of(found.end, event_shape, [found], torch.zeros(2, len(names), dtype=torch.long))


def _stopped(done: list[int], found: BlockSolution, finish: Callable[[Tensor], Tensor], event_shape: tuple[int, ...]) -> Stopped:
    """The samples that left the only block there is; `finish` maps their ends to states."""
    if not done:
        return Stopped([], None)
    return Stopped(done, Solution.of(finish(found.end), event_shape, [found], torch.zeros(2, len(done), dtype=torch.long)))


def _in_basis(chain: Chain, reference: GaussianReference | None) -> Chain:
    """A chain about a reference, on that reference's device and precision."""
    if chain.basis is None or reference is None or isinstance(chain.basis, Identity):
        return chain
    return replace(chain, basis=reference.basis)


@dataclass(frozen=True)
class _Method:
    """How blocks are solved: step by step, or in sweeps over the ranks of `comm` with a linear part and a first guess."""

    solver: str
    stop: Tolerance
    linear: str
    start: str
    reference: GaussianReference | None
    comm: Communicator
    schedule: Schedule
    in_flight: int | None
    operator: Operator | None
    should_stop: ShouldStop | None
    baseline: BaselineSettings

    def sweeps(self, chain: Chain) -> Method:
        """The linear part of the sweeps, what stands in for the score where it was not called, and the rest."""
        knows_levels = chain.sigma is not None and chain.channels == 1
        guess: LinearPart | None = denoised_part(chain) if knows_levels else None
        if self.reference is not None:
            guess = reference_part(chain, self.reference)
        parts = {"identity": identity_part, "process": process_part, "denoised": denoised_part}
        probed = self.reference is not None and self.reference.response is not None
        if self.linear in parts:
            linear = parts[self.linear](chain)
        elif self.reference is not None and (self.linear == "response" or (self.linear == "auto" and probed)):
            linear = response_part(chain, self.reference)
        else:
            linear = guess or identity_part(chain)
        follows = self.reference is not None and self.start != "constant"
        return Method(
            self.stop, linear, guess, follows, self.schedule, self.in_flight, self.operator, should_stop=self.should_stop
        )

    def solve(
        self, problem: Problem, block: Block, state: Tensor, names: list[int], sweeps: Method
    ) -> tuple[Tensor, BlockSolution]:
        """States [samples, c, d] at the block's end, and what they cost."""
        z = problem.basis.analyse(state)
        if self.solver == "sequential":
            result = _sequential_block(problem, block, z, names, self.should_stop)
        elif self.solver in BASELINES:
            result = solve_with(
                self.solver,
                problem,
                block,
                z,
                names,
                method=sweeps,
                reference=self.reference,
                settings=self.baseline,
                comm=self.comm,
            )
        else:
            result = solve_block(problem, block, z, names, method=sweeps, comm=self.comm)
        return problem.state(result.end), result


def _problem(
    chain: Chain, evaluator: Evaluator, noise: NoiseSource | None, reference: GaussianReference | None, like: Tensor
) -> Problem:
    basis = chain.working_basis(math.prod(evaluator.event_shape), None if reference is None else reference.basis)
    mean = None
    if reference is not None and bool((reference.mean != 0).any()):
        mean = basis.analyse(reference.mean.to(like))
    return Problem(chain, evaluator, noise, basis, mean)


def _state(x0: Tensor, momentum: Tensor | None, channels: int) -> Tensor:
    """Channels [samples, c, d]: position, then the others or zeros."""
    position = x0.flatten(1)[:, None]
    if momentum is None:
        return torch.cat([position, torch.zeros_like(position).expand(-1, channels - 1, -1)], dim=1)
    return torch.cat([position, momentum.reshape(len(x0), channels - 1, position.shape[-1]).to(position)], dim=1)


def _sequential_block(
    problem: Problem, block: Block, z: Tensor, names: list[int], should_stop: ShouldStop | None
) -> BlockSolution:
    end = run_steps(problem, z, block.start, block.stop, names, should_stop=should_stop)
    steps = torch.full((len(names),), len(block))
    nothing = torch.zeros_like(steps)
    return BlockSolution(end, nothing, torch.zeros(len(names), dtype=torch.float64), nothing, steps, steps)


def _correct(
    corrector: Corrector, block: Block, problem: Problem, position: Tensor, names: list[int], method: _Method
) -> tuple[Tensor, BlockSolution]:
    """Kinetic Langevin steps at the block's last time, velocity drawn afresh: new positions, and costs of all sub-blocks."""
    if problem.noise is None:
        raise ValueError("the corrector is stochastic: give `noise`, a Noise(seed, size)")
    chain = corrector(float(problem.chain.t[block.stop]))
    offset = block.index * (chain.num_steps + 1)
    inner = replace(problem, chain=chain, stream=CORRECTOR, step_offset=offset + 1)
    velocity = problem.noise.at([offset], names, 1, CORRECTOR)[0, :, 0].to(position)
    state = problem.evaluator.project(torch.stack([position, velocity], dim=1))
    sweeps = replace(method.sweeps(chain), schedule=Schedule(), operator=None)
    total = unsolved(state, len(names))
    for sub in chain.grid.blocks():
        state, result = method.solve(inner, sub, state, names, sweeps)
        for name in ("sweeps", "calls", "sequential_steps"):
            getattr(total, name).add_(getattr(result, name))
        total.status.copy_(torch.maximum(total.status, result.status))
    return state[:, 0], total


__all__ = ["CHAIN", "ScoreError", "Solution", "Status", "Stopped", "Unfinished", "solve"]
