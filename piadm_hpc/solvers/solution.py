"""Results of the solvers: solutions of blocks and of whole chains with their costs, and states from which to continue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
class LogDet:
    """Logarithm of the absolute determinant of the map from the first to the last state of a flow, per sample, float64.

    Attributes:
        value: log |det dx_end / dx_start| over the subspace that states lie in, [samples].
        error: an error bar on it, half the width of an interval that covers the true value in 95 of 100 cases, [samples].
        variance: the part of the error that comes from random probes, as a variance; zero for exact traces, [samples].
    """

    value: Tensor
    error: Tensor
    variance: Tensor

    def of(self, samples: Sequence[int]) -> LogDet:
        """Return those of the samples at the given positions."""
        rows = list(samples)
        return LogDet(self.value[rows], self.error[rows], self.variance[rows])


@dataclass(frozen=True)
class BlockSolution:
    """The solution of one block, per sample.

    Attributes:
        end: end states in coordinates, [samples, c, n].
        sweeps: number of sweeps, [samples].
        residual: bound on the error of the end state relative to the chain solved step by step, in units of the data's
            scale.
        status: how the sample ended, a `Status`.
        calls: number of network calls (NFE).
        sequential_steps: number of steps taken one after the other.
        log_det: the log-determinant of the flow, if it was requested.
    """

    end: Tensor
    sweeps: Tensor
    residual: Tensor
    status: Tensor
    calls: Tensor
    sequential_steps: Tensor
    log_det: LogDet | None = None

    @classmethod
    def unsolved(cls, first: Tensor, num_samples: int) -> BlockSolution:
        """Return a solution that is still to be filled in, for states like `first` [samples, c, n]."""
        counts = [torch.zeros(num_samples, dtype=torch.long) for _ in range(4)]
        residual = torch.full((num_samples,), float("inf"), dtype=torch.float64)
        return cls(torch.empty_like(first), counts[0], residual, counts[1], counts[2], counts[3])

    def of(self, samples: Sequence[int]) -> BlockSolution:
        """Return the solution of the samples at the given positions."""
        kept = {name: getattr(self, name)[list(samples)] for name in ("end", *BLOCK_COSTS)}
        return BlockSolution(**kept, log_det=None if self.log_det is None else self.log_det.of(samples))

    def after(self, other: BlockSolution) -> BlockSolution:
        """Join this block with another one before it: costs add up; the worse status and this block's bound remain."""
        return BlockSolution(
            self.end,
            self.sweeps + other.sweeps,
            self.residual,
            torch.maximum(self.status, other.status),
            self.calls + other.calls,
            self.sequential_steps + other.sequential_steps,
        )


# called between two network calls with the number of finished samples; it returns true to end the work there; collective
ShouldStop = Callable[[int], bool]


class Interrupted(Exception):
    """The work on a block was ended on request; `solution` holds the samples at the positions `done`, and the others are lost."""

    def __init__(self, done: Sequence[int], solution: BlockSolution):
        super().__init__(f"interrupted with {len(done)} samples done")
        self.done, self.solution = list(done), solution


@dataclass(frozen=True)
class Solution:
    """The samples at the end of a chain, and their costs.

    The corrector after a block adds to `rounds` and `calls`, and the worse status of both counts for the block.

    Attributes:
        x: the samples, [samples, *event].
        state: the samples with all channels, [samples, c, *event].
        rounds: sequential NFE, [samples]: the network calls that had to wait for the one before them.
        calls: NFE, the number of network function evaluations, [samples].
        sweeps: number of sweeps, [samples, blocks].
        residual: bound on the error of a block's end relative to the chain solved step by step, in units of the data's
            scale, [samples, blocks].
        status: how each block ended, a `Status`, [samples, blocks].
        sequential_steps: number of steps taken one after the other, [samples, blocks].
        log_det: the log-determinant of the map from first to last state, with `Options.traces`; it takes one more round.
    """

    x: Tensor
    state: Tensor
    rounds: Tensor
    calls: Tensor
    sweeps: Tensor
    residual: Tensor
    status: Tensor
    sequential_steps: Tensor
    log_det: LogDet | None = None

    @property
    def converged(self) -> Tensor:
        """Whether all blocks of a sample converged in sweeps, [samples]; a fixed depth counts as converged."""
        return (self.status <= int(Status.DEPTH_REACHED)).all(dim=1)

    @classmethod
    def of(cls, state: Tensor, event_shape: tuple[int, ...], blocks: Sequence[BlockSolution], extra: Tensor) -> Solution:
        """Join the blocks' solutions, for end states [samples, c, d], and add the correctors' rounds and calls [2, samples]."""
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
            log_det=blocks[-1].log_det,
        )


@dataclass(frozen=True)
class Unfinished:
    """Samples at the end of a block, from which `solve` can continue later, on any number of ranks.

    Attributes:
        state: states at the end of the block, [samples, c, d].
        costs: the arrays BLOCK_COSTS [samples, blocks] of the finished blocks.
        extra: rounds and calls of the correctors, [2, samples].
    """

    state: Tensor
    costs: Mapping[str, Tensor]
    extra: Tensor

    @property
    def blocks(self) -> list[BlockSolution]:
        """The solutions of the finished blocks, with the present state as their end."""
        columns = zip(*(self.costs[name].unbind(1) for name in BLOCK_COSTS), strict=True)
        return [BlockSolution(self.state, *column) for column in columns]


class Stopped(Exception):
    """`solve` was ended on request. The samples at the positions `done` are finished; `solution` is None if there are none."""

    def __init__(self, done: Sequence[int], solution: Solution | None):
        super().__init__(f"stopped with {len(done)} samples done")
        self.done, self.solution = list(done), solution


def costs_of(blocks: Sequence[BlockSolution]) -> dict[str, Tensor]:
    """Stack the arrays BLOCK_COSTS of several blocks, [samples, blocks]."""
    return {name: torch.stack([getattr(block, name) for block in blocks], dim=1) for name in BLOCK_COSTS}
