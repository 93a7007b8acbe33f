"""The description of conditions in a model's folder: the inputs, and the grid and levels that files of conditions must fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.alignment import channels_of
from ..data.condition_files import GivenConditions, Known, read_conditions
from ..data.conditions import Input
from ..schema.layout import Coordinate, Variable
from ..store.arrays import read_arrays
from .adapter_layout import read_grid
from .adapters import read_adapter
from .card import REFERENCE
from .climatology import CLIMATOLOGY
from .foreign import ADAPTER
from .patches import domain_grid
from .record import Card, read_card
from .registry import CARD

Levels = Mapping[str, Known]


@dataclass(frozen=True)
class ConditionFrame:
    """The inputs of a conditional model, its grid with the points that have data, and statistics of its variables."""

    inputs: Sequence[Input]
    grid: Mapping[str, Coordinate]
    mask: np.ndarray
    levels: Levels

    @classmethod
    def of(cls, folder: Path) -> ConditionFrame | None:
        """Read the frame of a model's folder, without its network; None for a model without conditions."""
        if (folder / ADAPTER).is_file():
            return cls._of_adapter(folder)
        card = read_card(folder / CARD)
        if card.condition is None:
            return None
        arrays, _ = read_arrays(folder / REFERENCE)
        grid = {dim: arrays[dim] for dim in card.grid}
        return cls(card.condition.inputs, grid, np.asarray(arrays["mask"].values.astype(bool).any(0)), _levels(card, arrays))

    @classmethod
    def _of_adapter(cls, folder: Path) -> ConditionFrame | None:
        config = read_adapter(folder)
        if config.condition is None:
            return None
        axes, mask = read_grid(config, folder)
        grid = {dim: axes[dim] for dim in config.dims} if config.grid is not None else {}
        everywhere = np.ones(config.grid or (), dtype=bool)
        levels = {channel.name: Known(channel.offset, abs(channel.scale) * config.variance**0.5) for channel in config.channels}
        return cls(config.condition.inputs, grid, everywhere if mask is None else mask, levels)

    def over(self, shape: Sequence[int]) -> ConditionFrame:
        """Return the frame on a larger domain without a climatology, whose coordinates continue those of the grid."""
        levels = {name: replace(known, removed=None) for name, known in self.levels.items()}
        return replace(self, grid=domain_grid(self.grid, shape), mask=np.ones(tuple(shape), dtype=bool), levels=levels)

    def read(self, path: Path) -> GivenConditions:
        """Read the conditions of a file; ValueError listing everything that does not fit."""
        return read_conditions(path, self.inputs, self.grid, self.mask, self.levels)


def _levels(card: Card, arrays: Mapping[str, Coordinate]) -> Levels:
    """Mean and spread of the model's variables in physical units, and the climatology that was removed before training."""
    mask, mean, scale = (arrays[name].values for name in ("mask", "mean_field", "scale_field"))
    levels = {}
    channels = tuple(Variable(variable.name, variable.dims) for variable in card.variables)
    parts = channels_of(channels, {dim: arrays[dim] for dim in card.leading})
    for variable in card.variables:
        k = parts[variable.name]
        here = mask[k].astype(bool)
        spread = float(np.sqrt((scale[k][here] ** 2).mean() + mean[k][here].var()))
        # a variable over levels or times is not an input of its own model, so its climatology is not needed
        single = CLIMATOLOGY in arrays and not set(card.leading) & set(variable.dims)
        removed = np.where(here[0], arrays[CLIMATOLOGY].values[:, k.start], np.nan) if single else None
        levels[variable.name] = Known(float(mean[k][here].mean()), spread, card.anomaly != "none", removed)
    return levels
