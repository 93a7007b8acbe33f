"""Layout of a sample as named arrays: variables, dimensions, coordinates and CF attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from .topology import Topology

STEP = "step"
"""The dimension of the times of a sequence."""


@dataclass(frozen=True)
class Coordinate:
    """Coordinate values with CF attributes, along one dimension, or along several for an auxiliary coordinate."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variable:
    """A physical field of a sample: its dimensions without the sample dimension, and CF attributes, units among them."""

    name: str
    dims: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    def sizes(self, coordinates: Mapping[str, Coordinate]) -> tuple[int, ...]:
        """The sizes of those of its dimensions that are among the `coordinates`."""
        return tuple(len(coordinates[dim].values) for dim in self.dims if dim in coordinates)


@dataclass(frozen=True)
class Layout:
    """How samples are written as named arrays: sample dimension, variables and coordinates.

    Every dimension of every variable must have a coordinate of that name. Dimensions in `leading`, levels and steps of a
    sequence, precede those of the grid in the variables that have them. With a `topology` the samples are conformers:
    one variable, `coordinates`, in nanometres over atoms and x, y, z.
    """

    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]
    sample_dim: str = "realization"
    topology: Topology | None = None
    leading: tuple[str, ...] = ()

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """The sizes of a variable's dimensions, without the sample dimension."""
        return tuple(len(self.coordinates[dim].values) for dim in variable.dims)

    @property
    def grid(self) -> tuple[str, ...]:
        """The dimensions of the grid: rows and columns, or cells alone."""
        return tuple(dim for dim in self.variables[0].dims if dim not in self.leading)

    @property
    def on_cells(self) -> bool:
        """Whether the grid consists of cells, whose positions are coordinates of their own."""
        return len(self.grid) == 1 and any(c.dims == self.grid and name not in self.grid for name, c in self.coordinates.items())

    def channels(self, variable: Variable) -> tuple[int, ...]:
        """The sizes of a variable's leading dimensions."""
        return tuple(len(self.coordinates[dim].values) for dim in variable.dims if dim in self.leading)


def channel_slices(shapes: Mapping[str, Sequence[int]]) -> dict[str, slice]:
    """The slice of channels that belongs to each variable, in order, from the sizes of its leading dimensions."""
    channels, start = {}, 0
    for name, shape in shapes.items():
        channels[name] = slice(start, start + prod(shape))
        start = channels[name].stop
    return channels


def conformer_layout(topology: Topology) -> Layout:
    """The layout of a molecule's conformers, which xarray, MDAnalysis and mdtraj all read."""
    coordinates = {
        "atom": Coordinate(("atom",), np.arange(len(topology), dtype=np.int32), {"long_name": "index of the atom", "units": "1"}),
        "spatial": Coordinate(("spatial",), np.array(["x", "y", "z"]), {"long_name": "Cartesian direction"}),
    }
    attrs = {"units": "nanometers", "long_name": "positions of atoms"}
    return Layout((Variable("coordinates", ("atom", "spatial"), attrs),), coordinates, "sample", topology)
