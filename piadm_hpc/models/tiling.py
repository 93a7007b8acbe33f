"""A domain covered by overlapping patches: cutting fields into patches, and blending patches into fields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Patches of the size `patch` over a domain of the size `shape` that share at least `overlap` points with their neighbours.

    Patches are spaced as evenly as the grid allows. In a blend each has a weight that falls to nearly zero at its edges, where
    another patch has its middle. Raises ValueError listing everything about the sizes that does not fit.
    """

    shape: tuple[int, int]
    patch: tuple[int, int]
    overlap: int
    periodic: bool

    def __post_init__(self) -> None:
        mistakes = [
            f"domain.shape: {size} {name} are fewer than the {least} of a patch; give at least {least}"
            for name, size, least in zip(("rows", "columns"), self.shape, self.patch, strict=True)
            if size < least
        ]
        most = min(self.patch) - 1
        if not 1 <= self.overlap <= most:
            mistakes.append(
                f"domain.overlap = {self.overlap}: patches of {self.patch[0]} x {self.patch[1]} share 1 to {most} points"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))

    def begins(self, axis: int) -> list[int]:
        """The first rows (axis 0) or columns (1) of the patches."""
        size, length = self.shape[axis], self.patch[axis]
        if self.periodic:
            count = math.ceil(size / (length - self.overlap)) if size > length else 1
            return [round(k * size / count) for k in range(count)]
        count = 1 + math.ceil((size - length) / (length - self.overlap))
        return [round(k * (size - length) / max(1, count - 1)) for k in range(count)]

    @cached_property
    def places(self) -> Tensor:
        """The positions of the points of every patch in the flat domain, [patches, rows * columns]."""
        down, across = (
            (torch.tensor(self.begins(axis))[:, None] + torch.arange(self.patch[axis])) % self.shape[axis] for axis in (0, 1)
        )
        return (down[:, None, :, None] * self.shape[1] + across[None, :, None, :]).reshape(-1, self.patch[0] * self.patch[1])

    @cached_property
    def weights(self) -> Tensor:
        """The weights of the points of every patch [patches, rows * columns]; those at a point of the domain have the sum one."""
        down, across = (_ramp(length, self.overlap) for length in self.patch)
        own = (down[:, None] * across).reshape(1, -1).expand(len(self.places), -1)
        total = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float64).index_add(0, self.places.flatten(), own.flatten())
        return own / total[self.places]

    def cut(self, x: Tensor) -> Tensor:
        """Cut fields [n, *channels, rows, columns] of the domain into patches [n * patches, *channels, *patch]."""
        channels, places = x.shape[1:-2], self.places.to(x.device)
        found = x.flatten(-2)[..., places].movedim(-2, 1)
        return found.reshape(-1, *channels, *self.patch)

    def blend(self, patches: Tensor) -> Tensor:
        """Average patches [n * patches, *channels, *patch] where they overlap: fields [n, *channels, rows, columns]."""
        channels, places = patches.shape[1:-2], self.places.to(patches.device)
        weighted = patches.reshape(-1, len(places), *channels, places.shape[1]).movedim(1, -2) * self.weights.to(patches)
        total = weighted.new_zeros(*weighted.shape[:-2], self.shape[0] * self.shape[1])
        total.index_add_(-1, places.flatten(), weighted.flatten(-2))
        return total.reshape(*total.shape[:-1], *self.shape)


def _ramp(length: int, overlap: int) -> Tensor:
    """Weights along one side of a patch: a squared sine over the overlap at both ends, one between."""
    inside = torch.arange(length, dtype=torch.float64) + 0.5
    return torch.sin(math.pi / 2 * (torch.minimum(inside, length - inside) / overlap).clamp(max=1)).square()
