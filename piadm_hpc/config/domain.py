"""The section of a run's configuration that makes its samples larger than the fields of its model."""

from __future__ import annotations

from pydantic import Field, field_validator

from .limits import MOST_POINTS, Count
from .validation import Record


class DomainConfig(Record):
    """A domain larger than the model's grid, covered by overlapping patches whose scores are averaged.

    Attributes:
        shape: numbers of rows and columns of the domain. None samples the model's own grid.
        overlap: smallest number of points that neighbouring patches share; None takes half a patch.
        periodic: the domain continues at the opposite edge; otherwise it ends there.
    """

    shape: tuple[Count, Count] | None = None
    overlap: int | None = Field(None, ge=1)
    periodic: bool = True

    @field_validator("shape")
    @classmethod
    def _fits_in_memory(cls, shape: tuple[int, int] | None) -> tuple[int, int] | None:
        if shape is not None and shape[0] * shape[1] > MOST_POINTS:
            raise ValueError(f"{shape[0]} x {shape[1]} are {shape[0] * shape[1]:,} points; give at most {MOST_POINTS:,}")
        return shape
