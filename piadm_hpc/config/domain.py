"""The section of a run's configuration that makes its samples larger than the fields of its model."""

from __future__ import annotations

from pydantic import Field

from .limits import Count
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
