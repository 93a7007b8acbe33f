"""Bookkeeping of the samples in flight: which of their points are open, and how far their errors are bounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..theory.grid import Block


@dataclass
class Flight:
    """State of the iteration for the sample in each slot; all ranks keep the same values.

    Attributes:
        index: position of the sample in the batch, [slots].
        age: number of sweeps so far.
        low: first open point; the open points are low .. high-1.
        high: end of the open points.
        reached: end of the points that were ever open.
        now: whether the last sweep evaluated each point, [points, slots].
        whole: whether all points are swept over: from the start without a window, else once the window has passed the
            last point.
        swept: how often all points were evaluated since the sample became `whole`.
        exact: last point whose state equals the chain's own.
        bound: latest bound on the error of the end state.
        best: smallest `shortfall` of the bounds so far.
        last: the `shortfall` after the last sweep.
        front: point up to which the bounds are within the limit.
        idle: number of sweeps since `best` or the front last improved.
        moved: how far the state at each point has moved since its last evaluation, [points, slots], in units of the data's scale.
        size: size of the terms of each step at its last evaluation, [points, slots].
        growth: the last factor by which each step was measured to grow an error, and the largest that counts, [2, points, slots].
        answer: the same of the factors between a move of the state and the change of the increment, [2, points, slots].
        seen: the last move at each point, the answer to it, and this answer over the one before, [3, points, slots].
        jump: the last change of each step's increment that moves of its size do not explain, [points, slots].
    """

    index: Tensor
    age: Tensor
    low: Tensor
    high: Tensor
    reached: Tensor
    now: Tensor
    whole: Tensor
    swept: Tensor
    exact: Tensor
    bound: Tensor
    best: Tensor
    last: Tensor
    front: Tensor
    idle: Tensor
    moved: Tensor
    size: Tensor
    growth: Tensor
    answer: Tensor
    seen: Tensor
    jump: Tensor

    @classmethod
    def of(cls, index: list[int], start: int, high: Tensor, num_points: int, *, whole: bool) -> Flight:
        """Put samples at the start of a block, with open points up to `high` [samples]."""
        zero = torch.zeros(len(index), dtype=torch.long)
        unknown = torch.full((len(index),), float("inf"), dtype=torch.float64)
        return cls(
            index=torch.tensor(index, dtype=torch.long),
            age=zero,
            low=torch.full_like(zero, start),
            high=high,
            reached=torch.full_like(zero, start),
            now=torch.zeros(num_points, len(index), dtype=torch.bool),
            whole=torch.full_like(zero, whole, dtype=torch.bool),
            swept=torch.zeros(len(index), dtype=torch.float64),
            exact=torch.full_like(zero, start),
            bound=unknown,
            best=unknown.clone(),
            last=unknown.clone(),
            front=torch.full_like(zero, start),
            idle=zero.clone(),
            moved=torch.zeros(num_points, len(index), dtype=torch.float64),
            size=torch.zeros(num_points, len(index), dtype=torch.float64),
            growth=torch.zeros(2, num_points, len(index), dtype=torch.float64),
            answer=torch.zeros(2, num_points, len(index), dtype=torch.float64),
            seen=torch.zeros(3, num_points, len(index), dtype=torch.float64),
            jump=torch.zeros(num_points, len(index), dtype=torch.float64),
        )

    def put(self, slots: Tensor, other: Flight) -> None:
        """Replace the samples in some slots by those of another flight."""
        for name, values in vars(self).items():
            values[..., slots] = getattr(other, name)

    def keep(self, kept: Tensor) -> None:
        """Keep only the slots of the mask `kept`."""
        for name, values in vars(self).items():
            setattr(self, name, values[..., kept])

    def span(self) -> tuple[int, int]:
        """The first open point of any sample, and the end of the open points."""
        return int(self.low.min()), int(self.high.max())

    def open_points(self, block: Block) -> Tensor:
        """Mask [points, slots] of the open points of a block."""
        points = block.points[:, None]
        return (points >= self.low) & (points < self.high)

    def left_out(self, block: Block) -> Tensor:
        """Mask [points, slots] of the open points of a block that the last sweep did not evaluate."""
        return self.open_points(block) & ~self.now

    def choose_points(self, block: Block, stride: int) -> None:
        """Let the next sweep evaluate every `stride`-th open point from the first on, or all of them if it is the first sweep."""
        offset = (block.points[:, None] - self.low) % stride
        self.now = self.open_points(block) & ((offset == 0) | (self.age == 0))

    def count_sweep(self, stride: int) -> None:
        """Record that the chosen points were evaluated once more."""
        self.reached = torch.maximum(self.reached, self.high)
        share = torch.where(self.age == 0, 1.0, 1 / stride)
        self.age = self.age + 1
        self.swept = torch.where(self.whole, self.swept + share, self.swept)
        self.exact = torch.where(self.low <= self.exact, self.exact + 1, self.exact)
