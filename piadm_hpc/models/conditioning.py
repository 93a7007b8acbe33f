"""From the inputs of a conditional model to the tensors that its network takes, and to the mean of its states given them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..data.conditions import MAPS
from ..data.normalise import Normalisation
from ..gaussian.regression import Regression
from ..schema.conditions import Condition
from .record import InputCard

Tree = dict[str, Tensor]


@dataclass(frozen=True)
class Conditioning:
    """Encodes a model's inputs as {"maps": [n, k + v, lat, lon], "numbers": [n, q + 1]}, float32.

    The last v maps are the mean of the v channels of the states given the inputs, by `regression`; the last number is one, and
    all are zero without a condition. States of a conditional model are the residuals of that mean, which only `encode` and
    `mean` know.
    """

    inputs: tuple[InputCard, ...]
    regression: Regression
    normalisation: Normalisation

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables of the states."""
        return self.normalisation.names

    @property
    def num_maps(self) -> int:
        """Number of maps, with those of the mean."""
        return sum(given.kind in MAPS for given in self.inputs) + len(self.normalisation.mean)

    @property
    def num_numbers(self) -> int:
        """Number of numbers, including the one that marks the presence of a condition."""
        return sum(width_of(given) for given in self.inputs) + 1

    def encode(self, values: Mapping[str, np.ndarray]) -> Tree:
        """Encode inputs in their own units, by name: maps [n, lat, lon] and numbers [n]."""
        maps, numbers = encoded(self.inputs, values, self.normalisation)
        mean = self.regression(maps, numbers).to(torch.float32).reshape(len(numbers), -1, *maps.shape[2:])
        mean = mean * torch.from_numpy(self.normalisation.mask)
        return {"maps": torch.cat([maps, mean], dim=1), "numbers": torch.cat([numbers, torch.ones(len(numbers), 1)], dim=1)}

    def mean(self, condition: Condition) -> Tensor:
        """Return the mean states [n, *event] that an encoded condition holds."""
        assert isinstance(condition, Mapping) and isinstance(condition["maps"], Tensor)
        maps = condition["maps"][:, -len(self.normalisation.mean) :]
        return maps.reshape(len(maps), *self.normalisation.event_shape)

    @cached_property
    def null(self) -> Tree:
        """The condition that means "none", with one entry."""
        grid = self.normalisation.mean.shape[1:]
        return {"maps": torch.zeros(1, self.num_maps, *grid), "numbers": torch.zeros(1, self.num_numbers)}


def width_of(given: InputCard) -> int:
    """The number of numbers that an input becomes."""
    return {"lag": 0, "map": 0, "scalar": 1, "ensemble_mean": 1, "month": 2, "class": given.classes}[given.kind]


def encoded(
    inputs: tuple[InputCard, ...], values: Mapping[str, np.ndarray], normalisation: Normalisation
) -> tuple[Tensor, Tensor]:
    """Encode inputs as maps [n, k, lat, lon] and numbers [n, q], float32, without the mean; zero at points without data."""
    count = len(next(iter(values.values())))
    maps, numbers = [], []
    for given in inputs:
        array = np.asarray(values[given.name], dtype=np.float64)
        if given.kind == "lag":
            at = normalisation.channels[given.variable].start
            standard = (array - normalisation.mean[at]) / normalisation.scale[at]
            maps.append(np.where(normalisation.mask[at], standard, 0.0))
        elif given.kind == "map":
            maps.append(np.nan_to_num((array - given.mean) / given.scale))
        elif given.kind == "month":
            angle = 2 * np.pi * (array - 0.5) / 12
            numbers += [np.cos(angle) * np.sqrt(2), np.sin(angle) * np.sqrt(2)]
        elif given.kind == "class":
            numbers += [(array == k).astype(np.float64) for k in range(given.classes)]
        else:
            numbers.append((array - given.mean) / given.scale)
    grid = normalisation.mean.shape[1:]
    return (
        torch.from_numpy(np.stack(maps, axis=1).astype(np.float32)) if maps else torch.zeros(count, 0, *grid),
        torch.from_numpy(np.stack(numbers, axis=1).astype(np.float32)) if numbers else torch.zeros(count, 0),
    )
