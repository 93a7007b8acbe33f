"""What `solve` gives back: samples that are done, what they cost, and what is kept of those that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .tolerance import BlockSolution, Status

BLOCK_COSTS = ("sweeps", "residual", "status", "calls", "sequential_steps")


@dataclass(frozen=True)
class Solution:
    """End states x [samples, *event] and what they cost, per sample and block.

    `sweeps`, `residual`, `status`, `sequential_steps` [samples, blocks] describe the blocks; the corrector after a block
    adds to `rounds` and `calls` [samples], and the worse of both is the block's `status`. A round is one sequential
    network call. `converged` [samples]: every block met its tolerance by itself (a fixed depth has none to meet).
    `state` holds all channels, [samples, c, *event].
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
    """A watch ended `solve`. The samples at the positions `done` of those given are finished; `solution` is None without any."""

    def __init__(self, done: Sequence[int], solution: Solution | None):
        super().__init__(f"stopped with {len(done)} samples done")
        self.done, self.solution = list(done), solution


def costs_of(blocks: Sequence[BlockSolution]) -> dict[str, Tensor]:
    """BLOCK_COSTS [samples, blocks]."""
    return {name: torch.stack([getattr(block, name) for block in blocks], dim=1) for name in BLOCK_COSTS}
