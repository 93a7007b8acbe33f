"""The section of a run's configuration that names the condition of its samples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .limits import Count
from .paths import PathName
from .validation import Record


class RunCondition(Record):
    """The condition of a run, for a conditional model of fields.

    Attributes:
        file: a file that xarray opens, with the model's inputs by name; along a further dimension it holds several conditions,
            and every member is drawn for each.
        guidance: weight of classifier-free guidance; 1 leaves the model as it is.
        count: number of conditions in the file, which the run fills in.
        sha256: checksum of the file, which the run fills in; it continues only with the same conditions.
    """

    file: Annotated[PathName, Field(min_length=1)] | None = None
    guidance: float = Field(1.0, ge=0, le=100)
    count: Count = 1
    sha256: str = ""
