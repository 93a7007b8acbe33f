"""The samples in flight: which of their points are open, and how far their errors are bounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Flight:
    """Per slot: a sample's position in the batch, its sweeps so far, and its open points low .. high-1.

    A window passes points. Once it has passed all, and from the start where there is none, a sample is `whole`: all its
    points are swept over, and `swept` counts these sweeps. States up to point `exact` are the chain's own; `reached` is the
    end of the points that were ever open. `growth` [points, slots] is the most that each step was seen to do to the size of
    an error, `bound` the latest bound on the error of the end, `best` the smallest so far, `front` the point up to which bounds
    are within the limit, and `idle` counts the sweeps since bound or front last improved.
    """

    index: Tensor
    age: Tensor
    low: Tensor
    high: Tensor
    reached: Tensor
    whole: Tensor
    swept: Tensor
    exact: Tensor
    bound: Tensor
    best: Tensor
    front: Tensor
    idle: Tensor
    growth: Tensor
    last_growth: Tensor

    @classmethod
    def of(cls, index: list[int], start: int, high: Tensor, num_points: int, *, whole: bool) -> Flight:
        """Samples at the start of a block, with open points up to `high` [samples]."""
        zero = torch.zeros(len(index), dtype=torch.long)
        unknown = torch.full((len(index),), float("inf"), dtype=torch.float64)
        return cls(
            index=torch.tensor(index, dtype=torch.long),
            age=zero,
            low=torch.full_like(zero, start),
            high=high,
            reached=torch.full_like(zero, start),
            whole=torch.full_like(zero, whole, dtype=torch.bool),
            swept=zero.clone(),
            exact=torch.full_like(zero, start),
            bound=unknown,
            best=unknown.clone(),
            front=torch.full_like(zero, start),
            idle=zero.clone(),
            growth=torch.zeros(num_points, len(index), dtype=torch.float64),
            last_growth=torch.zeros(num_points, len(index), dtype=torch.float64),
        )

    def put(self, slots: Tensor, other: Flight) -> None:
        """Other samples in some slots."""
        for name, values in vars(self).items():
            values[..., slots] = getattr(other, name)

    def keep(self, kept: Tensor) -> None:
        """Only some of the slots."""
        for name, values in vars(self).items():
            setattr(self, name, values[..., kept])
