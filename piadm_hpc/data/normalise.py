"""Normalisation of gridded fields: subtract a mean field, divide by a scale field, and leave out masked points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..schema.layout import channel_slices
from .transforms import Transform


@dataclass(frozen=True)
class Normalisation:
    """Convert between physical fields and states: x = (field - mean) / scale where `mask` is true, zero elsewhere.

    `mean`, `scale` (physical units) and `mask` (bool) are [channels, *grid]. A variable has one channel, or one for each of the
    levels and steps in `shapes`, the sizes of the dimensions that it has before those of the grid. States are [samples, *grid]
    for one channel and [samples, channels, *grid] for several. A channel whose label is in `transforms` is mapped to scores
    before that, and its mean and scale are those of the scores.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    mask: np.ndarray
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.mean.shape[1:] if len(self.mean) == 1 else self.mean.shape

    @cached_property
    def channels(self) -> dict[str, slice]:
        """The slice of channels that belongs to each variable."""
        return channel_slices({name: self.shapes.get(name, ()) for name in self.names})

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A name for each channel: the variable's, with a number where it has several."""
        return channel_labels(self.channels)

    def state_mask(self) -> Tensor | None:
        """The mask in the shape of a state, [*event], or None if all points have data."""
        return None if bool(self.mask.all()) else torch.from_numpy(self.mask).reshape(self.event_shape)

    def encode(self, fields: Mapping[str, np.ndarray]) -> Tensor:
        """Convert physical fields by name, each [samples, *levels, *grid], to states, float32.

        Raises ValueError for absent variables, and for shapes that are not those of the grid.
        """
        grid = self.mean.shape[1:]
        shapes = {name: (*self.shapes.get(name, ()), *grid) for name in self.names}
        wrong = [name for name in self.names if name not in fields or np.shape(fields[name])[1:] != shapes[name]]
        if wrong or len({len(fields[name]) for name in self.names}) != 1:
            given = {name: np.shape(values) for name, values in fields.items()}
            needed = ", ".join(f"{name} [samples, {', '.join(map(str, shape))}]" for name, shape in shapes.items())
            raise ValueError(f"fields {given} do not fit; needed are {needed}")
        count = len(fields[self.names[0]])
        parts = [np.asarray(fields[name], dtype=np.float64).reshape(count, -1, *grid) for name in self.names]
        stacked = np.concatenate(parts, axis=1)
        for k, label in enumerate(self.labels):
            if label in self.transforms:
                stacked[:, k] = self.transforms[label].scores(stacked[:, k])
        states = np.where(self.mask, (stacked - self.mean) / self.scale, 0.0)
        return torch.from_numpy(states.astype(np.float32)).reshape(len(states), *self.event_shape)

    def log_scale(self, x: Tensor) -> Tensor:
        """Return log |d field / d state| of every entry at states x [samples, *event], in their shape, float64.

        The field of a transformed variable is its scores here, because values at a bound, such as dry days, have no density.
        """
        scale = torch.from_numpy(np.log(np.abs(self.scale))).to(torch.float64).reshape(self.event_shape)
        return scale.expand(len(x), *self.event_shape)

    def decode(self, x: Tensor) -> dict[str, np.ndarray]:
        """Convert states [samples, *event] to physical fields by name, [samples, *levels, *grid] float32, NaN where masked.

        Raises ValueError for states of another shape.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            accepted = ", ".join(map(str, self.event_shape))
            raise ValueError(f"states have shape {tuple(x.shape)}; accepted is [samples, {accepted}]")
        states = x.detach().cpu().to(torch.float64).numpy().reshape(len(x), *self.mean.shape)
        fields = np.where(self.mask, states * self.scale + self.mean, np.nan)
        for k, label in enumerate(self.labels):
            if label in self.transforms:
                fields[:, k] = self.transforms[label].values(fields[:, k])
        grid = self.mean.shape[1:]
        return {
            name: fields[:, part].astype(np.float32).reshape(len(fields), *self.shapes.get(name, ()), *grid)
            for name, part in self.channels.items()
        }


def channel_labels(channels: Mapping[str, slice]) -> tuple[str, ...]:
    """Return a name for each channel of variables that have these channels: the variable's, numbered where it has several."""
    counts = {name: part.stop - part.start for name, part in channels.items()}
    return tuple(name if count == 1 else f"{name}[{k}]" for name, count in counts.items() for k in range(count))
