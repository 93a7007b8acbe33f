"""The fields of a model as functions of single entries of its states, in channels: one for every step and level of a variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from ...data.normalise import Normalisation, channel_labels
from ...data.observation_steps import FIRST, LAST
from ...data.observations import ObservationTable
from ...data.transforms import Transform
from ...data.units import units_of
from ...schema.layout import STEP, Coordinate, channel_slices
from ..model import Model
from .places import Grid


@dataclass(frozen=True)
class Fields:
    """The fields of a model as straight lines of its states: slope * state + offset, [channels, points].

    The variable `names[i]` has the channels `channels[names[i]]`, in the order of its leading dimensions `dims[i]`, whose
    coordinates are `along`. `there` is false at points without data. Channels whose label is in `transforms` are scores, and
    their values are what the transform makes of these.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    dims: tuple[tuple[str, ...], ...]
    along: Mapping[str, Coordinate]
    channels: Mapping[str, slice]
    grid: Grid
    slope: np.ndarray
    offset: np.ndarray
    there: np.ndarray
    transforms: Mapping[str, Transform]

    @classmethod
    def of(cls, model: Model) -> Fields:
        """Read them off the model's own decoding; ValueError for a model of anything but fields over two dimensions."""
        layout = model.layout
        grid = {dim: layout.coordinates[dim] for dim in layout.grid if dim in layout.coordinates}
        shapes = {variable.name: layout.channels(variable) for variable in layout.variables}
        channels = channel_slices(shapes)
        size = prod(len(coordinate.values) for coordinate in grid.values())
        count = sum(prod(shape) for shape in shapes.values())
        if layout.topology is not None or len(grid) != 2 or count * size != prod(model.event_shape):
            raise ValueError("observations at places need a model of fields over two dimensions; give observations.operator")
        slope, offset, there = (part.reshape(count, size) for part in straight_lines(model))
        return cls(
            tuple(channels),
            tuple(units_of(variable.attrs) or "1" for variable in layout.variables),
            tuple(tuple(dim for dim in variable.dims if dim in layout.leading) for variable in layout.variables),
            {dim: layout.coordinates[dim] for dim in layout.leading},
            channels,
            Grid.of(grid),
            slope,
            offset,
            there,
            model.normalisation.transforms if isinstance(model.normalisation, Normalisation) else {},
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each channel."""
        return channel_labels(self.channels)

    def channels_of(self, table: ObservationTable) -> tuple[list[np.ndarray], list[str]]:
        """Return the channels that each row is the mean of, none where it names too little, and what is wrong."""
        found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(table)
        mistakes = []
        for name, dims in zip(self.names, self.dims, strict=True):
            own = table["variable"] == name
            for dim in dims:
                absent = own & (self._ends(table, dim)[0] < 0)
                if absent.any():
                    mistakes.append(f"{name} has several values of {dim}, {self._way(dim)}: {table.of_mistake(absent)}")
            part = self.channels[name]
            numbers = np.arange(part.start, part.stop).reshape([len(self.along[dim].values) for dim in dims])
            ends = [self._ends(table, dim) for dim in dims]
            for row in np.flatnonzero(own):
                if all(first[row] >= 0 for first, _ in ends):
                    found[row] = numbers[tuple(slice(first[row], last[row] + 1) for first, last in ends)].ravel()
        return found, mistakes

    def _ends(self, table: ObservationTable, dim: str) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last position of every row along a dimension, -1 where it names none."""
        columns = (FIRST, LAST) if dim == STEP else (dim, dim)
        if columns[0] not in table.columns:
            nowhere = np.full(len(table), -1)
            return nowhere, nowhere
        if dim == STEP:
            return table[FIRST], table[LAST]
        same = table[dim][:, None] == self.along[dim].values[None]
        places = np.where(same.any(1), same.argmax(1), -1)
        return places, places

    def _way(self, dim: str) -> str:
        """What to do about rows that do not say where they lie along a dimension."""
        if dim != STEP:
            return f"give each row a column {dim}"
        last = len(self.along[STEP].values) - 1
        return f"0 to {last}; give {STEP}, {FIRST} and {LAST}, or observations.steps = [0, {last}] for means over all"


def straight_lines(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return slope and offset of a model's fields as straight lines of its states, zero without data, and where data are.

    Each is [d], one variable after the other as states have them; those of transformed variables are of their scores.
    """
    if isinstance(model.normalisation, Normalisation) and model.normalisation.transforms:
        parts = (model.normalisation.scale, model.normalisation.mean, model.normalisation.mask)
        slope, offset, there = (part.ravel() for part in parts)
        return np.where(there, slope, 0.0).astype(np.float64), np.where(there, offset, 0.0).astype(np.float64), there
    levels = (model.normalisation.decode(torch.full((1, *model.event_shape), level)) for level in (0.0, 2.0))
    zero, two = (np.concatenate([values[0].astype(np.float64).ravel() for values in fields.values()]) for fields in levels)
    there = np.isfinite(zero)
    return np.where(there, (two - zero) / 2, 0.0), np.where(there, zero, 0.0), there
