"""The sequential finish of samples that sweeps did not solve: step by step, from the last state that is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.grid import Block
from .problem import Problem
from .sequential import run_steps
from .solution import BlockSolution


@dataclass(frozen=True)
class GivenUp:
    """A sample that sweeps gave up: its position in the batch, its last exact point, and the state [c, n] there."""

    index: int
    point: int
    state: Tensor


class SequentialFinish:
    """Collects the samples of a block that sweeps gave up, and takes them to the end of the block step by step.

    All ranks keep the same queue and divide its samples among them. A rank takes its samples through the steps together.
    """

    def __init__(self, problem: Problem, block: Block, samples: Sequence[int], comm: Communicator):
        self.problem, self.block, self.samples, self.comm = problem, block, samples, comm
        self.queue: list[GivenUp] = []

    @property
    def indices(self) -> list[int]:
        """Positions in the batch of the samples that are still waiting."""
        return [sample.index for sample in self.queue]

    def add(self, index: int, point: int, state: Tensor) -> None:
        """Queue a sample whose `state` [c, n] at `point` is exact."""
        self.queue.append(GivenUp(index, point, state))

    def run(self, result: BlockSolution, carried: Tensor, check_stop: Callable[[], None]) -> None:
        """Finish all queued samples and write their ends and costs into `result`; collective.

        `carried` [samples] bounds the errors of the block's first states. `check_stop` is called before every
        step. Raises ScoreError on every rank when the score fails.
        """
        if not self.queue:
            return
        own = self.queue[self.comm.rank :: self.comm.size]
        states = torch.stack([sample.state for sample in self.queue])[self.comm.rank :: self.comm.size]
        for j in range(min(sample.point for sample in self.queue), self.block.stop):
            check_stop()
            states = self.problem.evaluator.together(self.comm, partial(self._step, own, states, j))
        ends = torch.zeros(len(self.queue), *states.shape[1:], dtype=states.dtype, device=states.device)
        ends[self.comm.rank :: self.comm.size] = states
        for sample, end in zip(self.queue, self.comm.sum(ends), strict=True):
            steps = self.block.stop - sample.point
            result.sequential_steps[sample.index] = steps
            result.calls[sample.index] += steps
            # the growth of earlier errors in exact steps is unknown
            result.residual[sample.index] = 0.0 if carried[sample.index] == 0 else torch.inf
            result.end[sample.index] = end
        self.queue.clear()

    def _step(self, own: Sequence[GivenUp], states: Tensor, j: int) -> Tensor:
        """Take step j with the states [samples, c, n] of those samples that were given up before it."""
        begun = [k for k, sample in enumerate(own) if sample.point <= j]
        if begun:
            ids = [self.samples[own[k].index] for k in begun]
            states[begun] = run_steps(self.problem, states[begun], j, j + 1, ids)
        return states
