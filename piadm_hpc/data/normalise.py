"""Normalisation of gridded fields: subtract a mean field, divide by a scale field, and leave out masked points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .transforms import Transform


@dataclass(frozen=True)
class Normalisation:
    """Convert between physical fields and states: x = (field - mean) / scale where `mask` is true, zero elsewhere.

    `mean`, `scale` (physical units) and `mask` (bool) are [variables, lat, lon]. States are [samples, lat, lon] for one
    variable and [samples, variables, lat, lon] for several. A variable in `transforms` is mapped to scores before that, and
    its mean and scale are those of the scores.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    mask: np.ndarray
    transforms: Mapping[str, Transform] = field(default_factory=dict)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.mean.shape[1:] if len(self.names) == 1 else self.mean.shape

    def state_mask(self) -> Tensor | None:
        """The mask in the shape of a state, [*event], or None if there are data everywhere."""
        return None if bool(self.mask.all()) else torch.from_numpy(self.mask).reshape(self.event_shape)

    def encode(self, fields: Mapping[str, np.ndarray]) -> Tensor:
        """Convert physical fields by name, each [samples, lat, lon], to states, float32.

        Raises ValueError for absent variables, and for shapes that are not those of the grid.
        """
        wrong = [name for name in self.names if name not in fields or np.shape(fields[name])[1:] != self.mean.shape[1:]]
        if wrong or len({len(fields[name]) for name in self.names}) != 1:
            given = {name: np.shape(values) for name, values in fields.items()}
            needed = ", ".join(self.names)
            raise ValueError(f"fields {given} do not fit; needed are {needed}, each [samples, *{self.mean.shape[1:]}]")
        stacked = np.stack([self._scores(name, np.asarray(fields[name], dtype=np.float64)) for name in self.names], axis=1)
        states = np.where(self.mask, (stacked - self.mean) / self.scale, 0.0)
        return torch.from_numpy(states.astype(np.float32)).reshape(len(states), *self.event_shape)

    def log_scale(self, x: Tensor) -> Tensor:
        """Return log |d field / d state| of every entry at states x [samples, *event], in their shape, float64.

        The field of a transformed variable is its scores here, because values at a bound, such as dry days, have no density.
        """
        scale = torch.from_numpy(np.log(np.abs(self.scale))).to(torch.float64).reshape(self.event_shape)
        return scale.expand(len(x), *self.event_shape)

    def decode(self, x: Tensor) -> dict[str, np.ndarray]:
        """Convert states [samples, *event] to physical fields by name, [samples, lat, lon] float32, NaN where masked.

        Raises ValueError for states of another shape.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            accepted = ", ".join(map(str, self.event_shape))
            raise ValueError(f"states have shape {tuple(x.shape)}; accepted is [samples, {accepted}]")
        states = x.detach().cpu().to(torch.float64).numpy().reshape(len(x), *self.mean.shape)
        fields = np.where(self.mask, states * self.scale + self.mean, np.nan)
        return {name: self._values(name, fields[:, i]).astype(np.float32) for i, name in enumerate(self.names)}

    def _scores(self, name: str, values: np.ndarray) -> np.ndarray:
        return self.transforms[name].scores(values) if name in self.transforms else values

    def _values(self, name: str, scores: np.ndarray) -> np.ndarray:
        return self.transforms[name].values(scores) if name in self.transforms else scores
