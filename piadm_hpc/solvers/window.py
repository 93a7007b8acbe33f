"""Which points of a block a sweep evaluates: all of them, a sliding window, or a front that moves block by block."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..theory.grid import Block
from .options import Options


@dataclass(frozen=True)
class Window:
    """The points open to a sweep; those beyond hold the last denoised estimate, those before are passed.

    `size` is the largest number of open points (Shih et al. 2023). `edges` are points at which a front halts for one
    sweep each, the diagonal schedule of Zhou and Sugiyama (2412.07435): after k sweeps the first k+1 blocks are open.
    """

    size: int | None = None
    edges: tuple[int, ...] = ()
    slides: bool = False

    @classmethod
    def of(cls, options: Options, edges: tuple[int, ...]) -> Window:
        """As the options say; with a tolerance open points are passed as they settle, with a fixed depth block by block."""
        fronts = edges if options.pipelined else ()
        moves = options.window is not None or len(fronts) > 2
        return cls(options.window, fronts, slides=moves and options.tol is not None)

    @property
    def moves(self) -> bool:
        """Whether some points are still closed at first."""
        return self.size is not None or len(self.edges) > 2

    def width(self, block: Block) -> int | None:
        """The size of the window, or of the front's widest block, by which points are dealt out to ranks."""
        if self.size is not None:
            return self.size
        return max(b - a for a, b in pairwise(self.edges)) if len(self.edges) > 2 else None

    def reach(self, block: Block, low: Tensor, age: Tensor) -> Tensor:
        """The end of the open points of samples whose first open point is `low`, after `age` sweeps: [samples]."""
        high = torch.full_like(low, block.stop)
        if self.size is not None:
            high = torch.minimum(high, low + self.size)
        if self.edges:
            fronts = torch.tensor(self.edges[1:])
            high = torch.minimum(high, fronts[age.clamp(max=len(fronts) - 1)])
        return torch.maximum(high, torch.minimum(low + 1, torch.full_like(low, block.stop)))

    def settled(self, block: Block, age: Tensor, depth: int) -> Tensor:
        """The first open point after `age` sweeps when every block is given exactly `depth` of them: [samples]."""
        edges = torch.tensor(self.edges or (block.start, block.stop))
        return edges[(age - depth + 1).clamp(min=0, max=len(edges) - 1)]
