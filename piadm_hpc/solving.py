"""`solve`: any chain, any score, any number of ranks. The commands use nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .chain import Chain, LinearPart, identity_part, process_part, reference_part
from .comm import Communicator, SerialCommunicator
from .grid import Block
from .noise import CHAIN, CORRECTOR, GivenNoise, NoiseSource
from .reference import GaussianReference
from .solvers.evaluate import Evaluator, Score, ScoreError
from .solvers.picard import solve_block
from .solvers.problem import Problem
from .solvers.sequential import run_steps
from .solvers.stopping import BlockSolution, Picard, Status

Linear = Literal["auto", "identity", "process", "reference"]
Projection = Callable[[Tensor], Tensor]
BlockHook = Callable[[Block, BlockSolution], None]
Corrector = Callable[[float], Chain]


@dataclass(frozen=True)
class Solution:
    """End states x [samples, *event] and what they cost, per sample and block.

    `sweeps`, `residual`, `status`, `sequential_steps` [samples, blocks] describe the blocks; corrector sub-blocks add
    to `rounds` and `calls` [samples] only. A round is one sequential network call. `converged` [samples]: every block
    met its tolerance by itself (a fixed depth has none to meet). `state` holds all channels, [samples, c, *event].
    """

    x: Tensor
    state: Tensor
    rounds: Tensor
    calls: Tensor
    sweeps: Tensor
    residual: Tensor
    status: Tensor
    sequential_steps: Tensor

    @property
    def converged(self) -> Tensor:
        return (self.status <= int(Status.DEPTH_REACHED)).all(dim=1)


@torch.no_grad()
def solve(
    chain: Chain,
    score: Score,
    x0: Tensor,
    *,
    noise: NoiseSource | Tensor | None = None,
    tol: float | None = 1e-2,
    sweeps: int | None = None,
    reference: GaussianReference | None = None,
    linear: Linear = "auto",
    start: Literal["auto", "constant", "reference"] = "auto",
    solver: Literal["picard", "sequential"] = "picard",
    comm: Communicator | None = None,
    samples: Sequence[int] | None = None,
    scale: float | Tensor = 1.0,
    project: Projection | None = None,
    model_batch: int | None = None,
    momentum: Tensor | None = None,
    corrector: Corrector | None = None,
    on_block: BlockHook | None = None,
) -> Solution:
    """Run a chain from x0 [samples, *event] (float32 or float64) to its last point; collective over `comm`.

    `score(x [rows, *event], t [rows])` is called with at most `model_batch` rows. `noise` is a Noise, or the draws
    themselves [steps, samples, *event]. `tol` bounds the change of the denoised estimate in units of `scale` (the
    data's standard deviation); `sweeps` fixes the depth instead (tol None) or limits it. `linear` is the part of a
    step that sweeps treat exactly: the Gaussian `reference` (default when there is one), the process, or the
    identity; it changes the number of sweeps, never the result. `project` maps states [rows, *event] to the subspace
    all of them must lie in (a mask, a fixed centre of mass); it must be linear. `momentum` is the second channel of
    chains that have one (default zero). `corrector(t)` gives a chain of position and velocity that follows every
    block. Samples that fail to converge are finished sequentially and marked.

    Raises ValueError for arguments that do not fit, all at once, and ScoreError when the score fails.
    """
    comm = comm or SerialCommunicator()
    names = list(range(len(x0))) if samples is None else list(samples)
    _check(chain, x0, names, reference, linear, start, solver, momentum, comm)
    event_shape = tuple(x0.shape[1:])
    size = math.prod(event_shape)
    evaluator = Evaluator(score, event_shape, project, model_batch, comm.world_rank)
    source = GivenNoise(noise, names, chain.channels) if isinstance(noise, Tensor) else noise
    moved = None if reference is None else reference.to(x0.device, x0.dtype)
    part, guess = _linear_parts(_in_basis(chain, moved), moved, linear, start)
    problem = _problem(_in_basis(chain, moved), evaluator, source, moved, size, x0)
    stopping = Picard(tol, sweeps, scale.to(x0).reshape(-1) if isinstance(scale, Tensor) else scale)
    state = evaluator.project(_state(x0, momentum, chain.channels))
    results, extra = [], torch.zeros(2, len(names), dtype=torch.long)
    for block in chain.grid.blocks():
        z = problem.frame.analyse(state)
        if solver == "sequential":
            result = _sequential_block(problem, block, z, names)
        else:
            result = solve_block(problem, block, z, names, stop=stopping, linear=part, start=guess, comm=comm)
        state = evaluator.project(problem.frame.synthesise(result.end))
        results.append(result)
        if corrector is not None:
            state[:, 0], cost = _correct(corrector, block, problem, state[:, 0], names, stopping, moved, linear, comm, solver)
            extra += cost
        if on_block is not None:
            on_block(block, result)
    return _solution(state, event_shape, results, extra)


def _check(
    chain: Chain,
    x0: Tensor,
    names: list[int],
    reference: GaussianReference | None,
    linear: str,
    start: str,
    solver: str,
    momentum: Tensor | None,
    comm: Communicator,
) -> None:
    size = math.prod(x0.shape[1:])
    mistakes = [
        message
        for bad, message in [
            (x0.dtype not in (torch.float32, torch.float64), f"x0 is {x0.dtype}; states are float32 or float64"),
            (not bool(torch.isfinite(x0).all()), "x0 contains numbers that are not finite"),
            (len(names) != len(x0), f"{len(names)} sample ids for {len(x0)} states"),
            (len(set(names)) != len(names), "sample ids must differ"),
            (
                linear not in ("auto", "identity", "process", "reference"),
                f"linear = {linear!r}; use auto, identity, process or reference",
            ),
            (start not in ("auto", "constant", "reference"), f"start = {start!r}; use auto, constant or reference"),
            (solver not in ("picard", "sequential"), f"solver = {solver!r}; use picard or sequential"),
            ("reference" in (linear, start) and reference is None, "linear or start = 'reference' needs a reference"),
            (
                reference is not None and len(reference.mean) != size,
                f"the reference has size {0 if reference is None else len(reference.mean)}, states {size}",
            ),
            (chain.basis is not None and chain.basis.num_coords < size, "the chain's basis does not fit the states"),
            (
                chain.basis is not None and (reference is None or chain.basis is not reference.basis),
                "a chain with tables per shell needs the reference it was built from",
            ),
            (
                momentum is not None and (chain.channels == 1 or momentum.shape != x0.shape),
                "momentum must have x0's shape and a chain of two channels",
            ),
            (solver == "sequential" and comm.size > 1, "the sequential solver has nothing to share: use one time rank"),
        ]
        if bad
    ]
    if mistakes:
        raise ValueError("solve: " + "; ".join(mistakes))


def _in_basis(chain: Chain, reference: GaussianReference | None) -> Chain:
    """A chain about a reference, on that reference's device and precision."""
    if chain.basis is None or reference is None:
        return chain
    return replace(chain, basis=reference.basis)


def _linear_parts(
    chain: Chain, reference: GaussianReference | None, linear: str, start: str
) -> tuple[LinearPart, LinearPart | None]:
    """The linear part of the sweeps, and that of the reference's path when it is the first guess."""
    if reference is None:
        return (process_part(chain) if linear == "process" else identity_part(chain)), None
    gaussian = reference_part(chain, reference)
    part = {"identity": identity_part, "process": process_part}.get(linear, lambda _: gaussian)(chain)
    return part, (None if start == "constant" else gaussian)


def _problem(
    chain: Chain, evaluator: Evaluator, noise: NoiseSource | None, reference: GaussianReference | None, size: int, like: Tensor
) -> Problem:
    frame = chain.frame(size, None if reference is None else reference.basis)
    mean = None
    if reference is not None and bool((reference.mean != 0).any()):
        mean = frame.analyse(reference.mean.to(like))
    return Problem(chain, evaluator, noise, frame, mean)


def _state(x0: Tensor, momentum: Tensor | None, channels: int) -> Tensor:
    """Channels [samples, c, d]: position, then momentum or zeros."""
    position = x0.flatten(1)
    rest = [torch.zeros_like(position) if momentum is None else momentum.flatten(1)] * (channels - 1)
    return torch.stack([position, *rest], dim=1)


def _sequential_block(problem: Problem, block: Block, z: Tensor, names: list[int]) -> BlockSolution:
    end = run_steps(problem, z, block.start, block.stop, names)
    steps = torch.full((len(names),), len(block))
    nothing = torch.zeros_like(steps)
    return BlockSolution(end, nothing, torch.zeros(len(names), dtype=torch.float64), nothing, steps, steps)


def _correct(
    corrector: Corrector,
    block: Block,
    problem: Problem,
    position: Tensor,
    names: list[int],
    stopping: Picard,
    reference: GaussianReference | None,
    linear: str,
    comm: Communicator,
    solver: str,
) -> tuple[Tensor, Tensor]:
    """Kinetic Langevin steps at the block's last time, velocity drawn afresh; the new positions, and rounds and calls."""
    chain = corrector(float(problem.chain.t[block.stop]))
    if problem.noise is None:
        raise ValueError("the corrector is stochastic: give `noise`, a Noise(seed, size)")
    part, guess = _linear_parts(chain, reference, linear, "auto")
    offset = block.index * (chain.num_steps + 1)
    inner = replace(problem, chain=chain, stream=CORRECTOR, step_offset=offset + 1)
    velocity = problem.noise.at([offset], names, 1, CORRECTOR)[0, :, 0].to(position)
    state = problem.evaluator.project(torch.stack([position, velocity], dim=1))
    cost = torch.zeros(2, len(names), dtype=torch.long)
    for sub in chain.grid.blocks():
        z = problem.frame.analyse(state)
        if solver == "sequential":
            result = _sequential_block(inner, sub, z, names)
        else:
            result = solve_block(inner, sub, z, names, stop=stopping, linear=part, start=guess, comm=comm)
        state = problem.evaluator.project(problem.frame.synthesise(result.end))
        cost += torch.stack([result.sweeps + result.sequential_steps, result.calls])
    return state[:, 0], cost


def _solution(state: Tensor, event_shape: tuple[int, ...], results: list[BlockSolution], extra: Tensor) -> Solution:
    def table(name: str) -> Tensor:
        return torch.stack([getattr(result, name) for result in results], dim=1)

    sweeps, steps = table("sweeps"), table("sequential_steps")
    return Solution(
        x=state[:, 0].reshape(-1, *event_shape),
        state=state.reshape(len(state), -1, *event_shape),
        rounds=(sweeps + steps).sum(1) + extra[0],
        calls=table("calls").sum(1) + extra[1],
        sweeps=sweeps,
        residual=table("residual"),
        status=table("status"),
        sequential_steps=steps,
    )


__all__ = ["CHAIN", "ScoreError", "Solution", "Status", "solve"]
