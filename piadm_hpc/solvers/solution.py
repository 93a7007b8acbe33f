"""What solvers give back: blocks and samples that are done, what they cost, and what is kept of those that are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

BLOCK_COSTS = ("sweeps", "residual", "status", "calls", "sequential_steps")


class Status(IntEnum):
    """How a sample's block ended."""

    CONVERGED = 0
    DEPTH_REACHED = 1
    ROUND_OFF_FLOOR = 2
    FINISHED_SEQUENTIALLY = 3
    NOT_RESOLVED = 4
    NOT_CERTIFIED = 5


@dataclass(frozen=True)
class BlockSolution:
    """End states [samples, c, n] in coordinates and, per sample, sweeps, residual, status, calls and sequential steps.

    `residual` bounds the error of the end state against the chain step by step, in units of the data's scale.
    """

    end: Tensor
    sweeps: Tensor
    residual: Tensor
    status: Tensor
    calls: Tensor
    sequential_steps: Tensor

    @classmethod
    def unsolved(cls, first: Tensor, num_samples: int) -> BlockSolution:
        """A solution still to be filled in, for states like `first` [samples, c, n]."""
        counts = [torch.zeros(num_samples, dtype=torch.long) for _ in range(4)]
        residual = torch.full((num_samples,), float("inf"), dtype=torch.float64)
        return cls(torch.empty_like(first), counts[0], residual, counts[1], counts[2], counts[3])

    def of(self, samples: Sequence[int]) -> BlockSolution:
        """The same for some of the samples."""
        return BlockSolution(**{field.name: getattr(self, field.name)[list(samples)] for field in fields(self)})

    def after(self, other: BlockSolution) -> BlockSolution:
        """This block and another one before it as one: costs add up, the worse status and the later bound stay."""
        return BlockSolution(
            self.end,
            self.sweeps + other.sweeps,
            self.residual,
            torch.maximum(self.status, other.status),
            self.calls + other.calls,
            self.sequential_steps + other.sequential_steps,
        )


# asked between two calls of the network with the number of finished samples; true ends the work there; collective
ShouldStop = Callable[[int], bool]


class Interrupted(Exception):
    """The work on a block was ended on request: `solution` describes the samples at the positions `done`, the others are lost."""

    def __init__(self, done: Sequence[int], solution: BlockSolution):
        super().__init__(f"interrupted with {len(done)} samples done")
        self.done, self.solution = list(done), solution


@dataclass(frozen=True)
class Solution:
    """End states x [samples, *event] and what they cost, per sample and block.

    `sweeps`, `residual`, `status`, `sequential_steps` [samples, blocks] describe the blocks; the corrector after a block
    adds to `rounds` and `calls` [samples], and the worse of both is the block's `status`. `calls` are network function
    evaluations (NFE); a round is one of them that has to wait for the one before it, so `rounds` is the sequential NFE.
    `residual` bounds the error of the block's end against the chain step by step. `converged` [samples]: every block met its
    tolerance by itself (a fixed depth has none to meet). `state` holds all channels, [samples, c, *event].
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
        """Whether each sample met its tolerance by itself, [samples]."""
        return (self.status <= int(Status.DEPTH_REACHED)).all(dim=1)

    @classmethod
    def of(cls, state: Tensor, event_shape: tuple[int, ...], blocks: Sequence[BlockSolution], extra: Tensor) -> Solution:
        """From states [samples, c, d], what the blocks said, and the correctors' rounds and calls [2, samples]."""
        costs = costs_of(blocks)
        return cls(
            x=state[:, 0].reshape(-1, *event_shape),
            state=state.reshape(len(state), -1, *event_shape),
            rounds=(costs["sweeps"] + costs["sequential_steps"]).sum(1) + extra[0],
            calls=costs["calls"].sum(1) + extra[1],
            sweeps=costs["sweeps"],
            residual=costs["residual"],
            status=costs["status"],
            sequential_steps=costs["sequential_steps"],
        )


@dataclass(frozen=True)
class Unfinished:
    """Samples at the end of a block, from which `solve` can go on later, on any ranks.

    `state` [samples, c, d]; `costs` hold BLOCK_COSTS [samples, blocks] of the blocks behind; `extra` [2, samples] the rounds
    and calls of correctors.
    """

    state: Tensor
    costs: Mapping[str, Tensor]
    extra: Tensor

    @property
    def blocks(self) -> list[BlockSolution]:
        """What the finished blocks said of themselves."""
        return [
            BlockSolution(end=self.state, **{name: self.costs[name][:, k] for name in BLOCK_COSTS})
            for k in range(self.costs["sweeps"].shape[1])
        ]


class Stopped(Exception):
    """`solve` was ended on request. The samples at the positions `done` are finished; `solution` is None without any."""

    def __init__(self, done: Sequence[int], solution: Solution | None):
        super().__init__(f"stopped with {len(done)} samples done")
        self.done, self.solution = list(done), solution


def costs_of(blocks: Sequence[BlockSolution]) -> dict[str, Tensor]:
    """BLOCK_COSTS [samples, blocks]."""
    return {name: torch.stack([getattr(block, name) for block in blocks], dim=1) for name in BLOCK_COSTS}
