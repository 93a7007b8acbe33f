"""Which points of a block a sweep evaluates: all of them, a sliding window, or a front that moves block by block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..theory.grid import Block


@dataclass(frozen=True)
class Schedule:
    """The points open to a sweep; those beyond hold the last denoised estimate, those before are settled.

    `window` is the largest number of open points (Shih et al. 2023). `edges` are points at which a front halts for one
    sweep each, the diagonal schedule of Zhou and Sugiyama (2412.07435): after k sweeps the first k+1 blocks are open.
    """

    window: int | None = None
    edges: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 point, got {self.window}")

    @property
    def moves(self) -> bool:
        """Whether some points are still closed at first."""
        return self.window is not None or len(self.edges) > 2

    def reach(self, block: Block, low: Tensor, age: Tensor) -> Tensor:
        """The end of the open points of samples whose first open point is `low`, after `age` sweeps: [samples]."""
        high = torch.full_like(low, block.stop)
        if self.window is not None:
            high = torch.minimum(high, low + self.window)
        if self.edges:
            fronts = torch.tensor(self.edges[1:])
            high = torch.minimum(high, fronts[age.clamp(max=len(fronts) - 1)])
        return torch.maximum(high, torch.minimum(low + 1, torch.full_like(low, block.stop)))

    def settled(self, block: Block, age: Tensor, depth: int) -> Tensor:
        """The first open point after `age` sweeps when every block is given exactly `depth` of them: [samples]."""
        edges = torch.tensor(self.edges or (block.start, block.stop))
        return edges[(age - depth + 1).clamp(min=0, max=len(edges) - 1)]
