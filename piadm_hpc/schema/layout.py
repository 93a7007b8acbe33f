"""What a sample is called in physical terms: variables, dimensions, coordinates and their attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .topology import Topology


@dataclass(frozen=True)
class Coordinate:
    """Values along one dimension, or along several for auxiliary coordinates, with CF attributes."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variable:
    """One physical field of a sample: its dimensions without the sample dimension, and CF attributes with units."""

    name: str
    dims: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """Everything a store needs to know to write samples as named arrays: sample dimension, variables, coordinates.

    Every dimension of every variable must have a coordinate of that name; `shape` gives a variable's sizes. With a
    `topology` the samples are conformers: the variable `coordinates` in nanometres over atoms and x, y, z.
    """

    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]
    sample_dim: str = "realization"
    topology: Topology | None = None

    def shape(self, variable: Variable) -> tuple[int, ...]:
        return tuple(len(self.coordinates[dim].values) for dim in variable.dims)


def conformer_layout(topology: Topology) -> Layout:
    """How conformers of a molecule are stored: one layout for xarray, MDAnalysis and mdtraj alike."""
    coordinates = {
        "atom": Coordinate(("atom",), np.arange(len(topology), dtype=np.int32), {"long_name": "index of the atom", "units": "1"}),
        "spatial": Coordinate(("spatial",), np.array(["x", "y", "z"]), {"long_name": "Cartesian direction"}),
    }
    attrs = {"units": "nanometers", "long_name": "positions of atoms"}
    return Layout((Variable("coordinates", ("atom", "spatial"), attrs),), coordinates, "sample", topology)
