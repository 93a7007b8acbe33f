"""States made of channels with normalisations of their own: positions and charges of atoms, or variables of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Channel:
    """`size` components of the last (atoms) or first (grids) axis of a state; physical = scale * state + offset."""

    name: str
    size: int
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Channels:
    """Between states [samples, *event] and physical arrays by channel; the components of all channels share the axis `axis`.

    `used` (or None) picks the entries of the other axis that are real: padded atoms are not decoded, and encoded as zero.
    `mask` [*event] (or None) is true where there are data: elsewhere arrays are NaN and states zero.
    """

    channels: tuple[Channel, ...]
    event_shape: tuple[int, ...]
    axis: int
    used: np.ndarray | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        total = sum(channel.size for channel in self.channels)
        if total != self.event_shape[self.axis]:
            raise ValueError(
                f"channels of {total} components in all for states {self.event_shape}; give {self.event_shape[self.axis]}"
            )

    @property
    def _dim(self) -> int:
        """The components' axis in a batch of states."""
        return self.axis if self.axis < 0 else self.axis + 1

    def decode(self, x: Tensor) -> dict[str, np.ndarray]:
        """States [samples, *event] to physical arrays float32 by channel; a channel of one component loses that axis."""
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"states have shape {tuple(x.shape)}; accepted is [samples, {', '.join(map(str, self.event_shape))}]"
            )
        states = x.detach().cpu().to(torch.float64)
        if self.mask is not None:
            states = states.masked_fill(~torch.from_numpy(self.mask), torch.nan)
        parts = torch.split(states, [c.size for c in self.channels], dim=self._dim)
        decoded = {}
        for channel, part in zip(self.channels, parts, strict=True):
            values = (channel.scale * part + channel.offset).numpy().astype(np.float32)
            values = values if self.used is None else values[:, self.used]
            decoded[channel.name] = values.squeeze(self._dim) if channel.size == 1 else values
        return decoded

    def encode(self, fields: Mapping[str, np.ndarray]) -> Tensor:
        """Physical arrays by channel to states float32; ValueError for names or shapes that do not fit."""
        absent = [channel.name for channel in self.channels if channel.name not in fields]
        if absent:
            raise ValueError(f"no {', '.join(absent)}; needed are {', '.join(c.name for c in self.channels)}")
        count = len(next(iter(fields.values())))
        states = torch.zeros(count, *self.event_shape)
        for channel, part in zip(self.channels, torch.split(states, [c.size for c in self.channels], self._dim), strict=True):
            values = (np.asarray(fields[channel.name], dtype=np.float64) - channel.offset) / channel.scale
            values = np.expand_dims(values, self._dim) if channel.size == 1 else values
            target = part if self.used is None else part[:, torch.from_numpy(self.used)]
            if values.shape != tuple(target.shape):
                raise ValueError(
                    f"{channel.name} has shape {np.shape(fields[channel.name])}, which does not fit to states {self.event_shape}"
                )
            if self.used is None:
                part.copy_(torch.from_numpy(values))
            else:
                part[:, torch.from_numpy(self.used)] = torch.from_numpy(values.astype(np.float32))
        return states if self.mask is None else states.masked_fill(~torch.from_numpy(self.mask), 0.0)
