"""Codec for states whose channels are normalised separately: positions and charges of atoms, or variables on a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Channel:
    """Some components of a state: `size` of them along its last axis (atoms) or first axis (grids).

    A physical value is scale * state + offset.
    """

    name: str
    size: int
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Channels:
    """Convert between states [samples, *event] and physical arrays by channel.

    The components of all channels lie along the axis `axis` of an event. `used` (or None) selects the entries of the other
    axis that are real: padded atoms are left out when decoding, and zero when encoding. Raises ValueError if the sizes of
    the channels do not add up to that axis. `mask` [*event] (or None) is true where there are data: elsewhere arrays are NaN and
    states zero.
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
                f"channels of {total} components in all, and states {self.event_shape} need {self.event_shape[self.axis]}"
            )

    @property
    def _dim(self) -> int:
        """The axis of the components in a batch of states."""
        return self.axis if self.axis < 0 else self.axis + 1

    def log_scale(self, x: Tensor) -> Tensor:
        """Return log |d value / d state| of every entry at states x [samples, *event], in their shape, float64."""
        scales = torch.cat([torch.full((c.size,), math.log(abs(c.scale)), dtype=torch.float64) for c in self.channels])
        shape = [1] * len(self.event_shape)
        shape[self.axis] = len(scales)
        return scales.reshape(shape).expand(len(x), *self.event_shape)

    def decode(self, x: Tensor) -> dict[str, np.ndarray]:
        """Convert states [samples, *event] to physical arrays, float32, by channel; a channel of one component loses its axis.

        Raises ValueError for states of another shape.
        """
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
        """Convert physical arrays by channel to states, float32. Raises ValueError for absent channels and other shapes."""
        absent = [channel.name for channel in self.channels if channel.name not in fields]
        if absent:
            raise ValueError(f"there is no {', '.join(absent)}; give {', '.join(c.name for c in self.channels)}")
        count = len(next(iter(fields.values())))
        states = torch.zeros(count, *self.event_shape)
        for channel, part in zip(self.channels, torch.split(states, [c.size for c in self.channels], self._dim), strict=True):
            values = (np.asarray(fields[channel.name], dtype=np.float64) - channel.offset) / channel.scale
            values = np.expand_dims(values, self._dim) if channel.size == 1 else values
            target = part if self.used is None else part[:, torch.from_numpy(self.used)]
            if values.shape != tuple(target.shape):
                raise ValueError(
                    f"{channel.name} has shape {np.shape(fields[channel.name])}, which does not fit states {self.event_shape}"
                )
            if self.used is None:
                part.copy_(torch.from_numpy(values))
            else:
                part[:, torch.from_numpy(self.used)] = torch.from_numpy(values.astype(np.float32))
        return states if self.mask is None else states.masked_fill(~torch.from_numpy(self.mask), 0.0)
