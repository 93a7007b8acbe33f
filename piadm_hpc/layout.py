"""What a sample is called in physical terms: variables, dimensions, coordinates and their attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


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

    Every dimension of every variable must have a coordinate of that name; `shape` gives a variable's sizes.
    """

    variables: tuple[Variable, ...]
    coordinates: dict[str, Coordinate]
    sample_dim: str = "realization"

    def shape(self, variable: Variable) -> tuple[int, ...]:
        return tuple(len(self.coordinates[dim].values) for dim in variable.dims)
