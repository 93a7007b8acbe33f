"""The points that a sweep evaluates: all points of a block, a sliding window, or a front that opens block after block."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..theory.grid import Block
from .flight import Flight
from .options import Options


@dataclass(frozen=True)
class Window:
    """The points that are open to a sweep. Points before them have been passed; points beyond them are predicted.

    `size` is the largest number of open points (Shih et al. 2023). `edges` are the block edges of a front, which opens one more
    block at every sweep (the diagonal schedule of Zhou and Sugiyama, 2412.07435): after k sweeps the first k+1 blocks are
    open. With `slides`, points are passed as their states settle; otherwise they are passed block by block.
    """

    size: int | None = None
    edges: tuple[int, ...] = ()
    slides: bool = False

    @classmethod
    def of(cls, options: Options, edges: tuple[int, ...]) -> Window:
        """Build the window that the options describe; it slides if there is a tolerance."""
        fronts = edges if options.pipelined else ()
        moves = options.window is not None or len(fronts) > 2
        return cls(options.window, fronts, slides=moves and options.tol is not None)

    @property
    def moves(self) -> bool:
        """Whether some points are closed at first."""
        return self.size is not None or len(self.edges) > 2

    def width(self, block: Block) -> int | None:
        """Return the size of the window or of the front's widest block; points are distributed over ranks accordingly."""
        if self.size is not None:
            return self.size
        return max(b - a for a, b in pairwise(self.edges)) if len(self.edges) > 2 else None

    def reach(self, block: Block, low: Tensor, age: Tensor) -> Tensor:
        """Return the end of the open points [samples] of samples whose first open point is `low`, after `age` sweeps."""
        high = torch.full_like(low, block.stop)
        if self.size is not None:
            high = torch.minimum(high, low + self.size)
        if self.edges:
            fronts = torch.tensor(self.edges[1:])
            high = torch.minimum(high, fronts[age.clamp(max=len(fronts) - 1)])
        return torch.maximum(high, torch.minimum(low + 1, torch.full_like(low, block.stop)))

    def settled(self, block: Block, age: Tensor, depth: int) -> Tensor:
        """Return the first open point [samples] after `age` sweeps when every block gets exactly `depth` sweeps."""
        edges = torch.tensor(self.edges or (block.start, block.stop))
        return edges[(age - depth + 1).clamp(min=0, max=len(edges) - 1)]

    def slide(self, flight: Flight, block: Block, settled: float) -> bool:
        """Move windows over the points whose states moved by at most `settled`; return whether one passed the last point.

        All points of such a sample are open again.
        """
        unsettled = flight.open_points(block) & (flight.moved > settled)
        passed = torch.where(unsettled, block.points[:, None], flight.high).min(0).values
        through = ~flight.whole & (passed >= block.stop)
        flight.low = torch.where(flight.whole, flight.low, torch.where(through, flight.exact, passed))
        flight.whole |= through
        flight.high = torch.where(flight.whole, block.stop, self.reach(block, flight.low, flight.age))
        return bool(through.any())
