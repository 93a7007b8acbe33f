"""Collecting the mistakes in files, so that all of them are reported at once, each with its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import error as DecompressionError


def few(names: Sequence[object], shown: int = 4, *, separator: str = ", ", more: str = "more") -> str:
    """Return the first few names, and how many more there are."""
    rest = f" and {len(names) - shown} {more}" if len(names) > shown else ""
    return separator.join(map(str, names[:shown])) + rest


@contextmanager
def gathered(mistakes: list[str]) -> Iterator[None]:
    """Add the text of a ValueError to `mistakes` and continue."""
    try:
        yield
    except ValueError as error:
        mistakes.append(str(error))


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put a name before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


@contextmanager
def undamaged() -> Iterator[None]:
    """Turn the errors of libraries for unreadable data, such as a chunk that does not decompress, into a ValueError."""
    try:
        yield
    except (OSError, RuntimeError, EOFError, DecompressionError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"is damaged, its values cannot be read ({cause}); copy the file again") from None
