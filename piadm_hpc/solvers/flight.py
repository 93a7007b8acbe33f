"""The samples in flight: which of their points are open, and how their changes went."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Front:
    """Per sample in flight: its id in the batch, open points low .. high-1, and how its changes went.

    `shift` [samples, points] is how far the last update moved the state of a point that had been evaluated, in units of
    the data; `gain` how much of such a move its denoised estimates were last seen to follow; `wary` once small changes grew.
    """

    index: Tensor
    low: Tensor
    high: Tensor
    age: Tensor
    reached: Tensor
    passed: Tensor
    change: Tensor
    before: Tensor
    best: Tensor
    stuck: Tensor
    shift: Tensor
    gain: Tensor
    wary: Tensor

    @classmethod
    def new(cls, index: Tensor, start: int, high: Tensor, num_points: int) -> Front:
        whole, nothing = torch.full_like(index, start), torch.zeros_like(index)
        unknown = torch.full(index.shape, float("inf"), dtype=torch.float64)
        shift, gain = torch.zeros(len(index), num_points, dtype=torch.float64), torch.ones_like(unknown)
        rest = unknown, unknown.clone(), unknown.clone(), nothing.clone(), shift, gain, nothing.to(torch.bool)
        return cls(index, whole, high, nothing, whole.clone(), whole.clone(), *rest)

    def put(self, slots: Tensor, other: Front) -> None:
        for name, values in vars(self).items():
            values[slots] = getattr(other, name)

    def keep(self, kept: Tensor) -> None:
        for name, values in vars(self).items():
            setattr(self, name, values[kept])
