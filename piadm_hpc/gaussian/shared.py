"""Modes that many variables share: for long sequences and many levels, where modes of all of them together are too large."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class SharedEOF:
    """Orthonormal modes of one field, in each of which the variables are rotated; then a tail of all that is left.

    `modes` [points, k] are shared by variables, `band` [k] is the band of a mode, and `turns` [bands, variables, variables] have
    the patterns of the variables in each as orthonormal columns. One shell for every mode and pattern; the tail is a shell,
    and with `valid` [points], which is true where there are data, points without them are another. `modes` must vanish there.
    Raises ValueError for sizes that do not fit.
    """

    def __init__(self, modes: Tensor, turns: Tensor, band: Tensor, event_shape: Sequence[int], valid: Tensor | None = None):
        self.event_shape, self.modes, self.turns, self.band, self.valid = tuple(event_shape), modes, turns, band, valid
        points, self.count, self.variables = len(modes), modes.shape[1], turns.shape[1]
        size = math.prod(self.event_shape)
        if size != points * self.variables or len(band) != self.count or turns.shape[1:] != (self.variables,) * 2:
            raise ValueError(
                f"{self.variables} variables, {points} points, {self.count} modes and {len(band)} bands of them do not fit"
            )
        self.rank = self.count * self.variables
        self.num_coords = self.rank + size
        self.num_shells = self.rank + (1 if valid is None else 2)
        self._turns = turns[band]
        # whether an entry of the state has no data, as 0 or 1
        self._outside = torch.zeros(size, dtype=torch.long, device=modes.device)
        if valid is not None:
            self._outside = (~valid).long().repeat(self.variables)

    def analyse(self, x: Tensor) -> Tensor:
        fields = x.reshape(*x.shape[:-1], self.variables, -1)
        inside = fields @ self.modes
        head = torch.einsum("...vk,kvj->...kj", inside, self._turns)
        rest = fields - inside @ self.modes.T
        return torch.cat([head.flatten(-2), rest.flatten(-2)], dim=-1)

    def synthesise(self, z: Tensor) -> Tensor:
        head = z[..., : self.rank].reshape(*z.shape[:-1], self.count, self.variables)
        inside = torch.einsum("...kj,kvj->...vk", head, self._turns)
        return (inside @ self.modes.T).flatten(-2) + z[..., self.rank :]

    def expand(self, gains: Tensor) -> Tensor:
        return torch.cat([gains[..., : self.rank], gains[..., self.rank :].index_select(-1, self._outside)], dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        tail = (z[:, self.rank :] ** 2).mean(0)
        sums = z.new_zeros(self.num_shells - self.rank).index_add(0, self._outside, tail)
        return torch.cat([(z[:, : self.rank] ** 2).mean(0), sums / self.degrees[self.rank :].to(sums).clamp(min=1)])

    @property
    def degrees(self) -> Tensor:
        """The number of directions in every shell, [num_shells] float64."""
        size = math.prod(self.event_shape)
        there = size if self.valid is None else self.variables * int(self.valid.sum())
        rest = [there - self.rank] + ([] if self.valid is None else [size - there])
        return torch.cat([torch.ones(self.rank, dtype=torch.float64), torch.tensor(rest, dtype=torch.float64)])

    def to(self, device: torch.device, dtype: torch.dtype) -> SharedEOF:
        valid = None if self.valid is None else self.valid.to(device)
        return SharedEOF(
            self.modes.to(device, dtype), self.turns.to(device, dtype), self.band.to(device), self.event_shape, valid
        )
