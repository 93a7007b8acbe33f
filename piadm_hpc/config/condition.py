"""The section of a run's configuration that names the condition of its samples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from .limits import Count
from .paths import PathName
from .samples import parse_ids
from .validation import ConfigError, Record


def _numbers(value: Any) -> Any:
    """The numbers that a number, or text such as "0-3,7", stands for; anything but a list stays for pydantic to refuse."""
    try:
        found = parse_ids(value) if isinstance(value, str) else (value,) if isinstance(value, int) else value
    except ConfigError:
        raise ValueError(f"got {value!r}; give numbers of conditions such as 0-3,7") from None
    if isinstance(found, list | tuple) and len({repr(number) for number in found}) < len(found):
        raise ValueError(f"names a condition twice: {', '.join(map(str, found))}")
    return found


class RunCondition(Record):
    """The condition of a run, for a conditional model of fields.

    Attributes:
        file: a file that xarray opens, with the model's inputs by name; along a further dimension it holds several conditions,
            and every member is drawn for each.
        only: numbers of the conditions, or of the starts of forecasts, in the file that are drawn, from 0 on; None for all.
        guidance: weight of classifier-free guidance; 1 leaves the model as it is.
        count: number of conditions in the file, which the run fills in.
        sha256: checksum of the file, which the run fills in; it continues only with the same conditions.
    """

    file: PathName | None = None
    only: Annotated[tuple[int, ...], BeforeValidator(_numbers), Field(min_length=1)] | None = None
    guidance: float = Field(1.0, ge=0, le=100)
    count: Count = 1
    sha256: str = ""
