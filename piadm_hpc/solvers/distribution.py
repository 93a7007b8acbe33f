"""Distribution of a block's steps over ranks: rows of consecutive steps, each cut into one slice per rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..theory.grid import Block, Partition

Slots = slice | Tensor


@dataclass(frozen=True)
class Rows:
    """Steps start .. stop-1 in rows of `length`, for rank `rank` of `size` ranks.

    A single row gives every rank one slice of consecutive points. A window that moves along the steps needs several rows,
    because with a single row it would lie in the slice of one rank at a time.
    """

    start: int
    stop: int
    length: int
    size: int
    rank: int

    @classmethod
    def of(cls, block: Block, *, window: int | None, size: int, rank: int) -> Rows:
        """Choose rows for a window of so many points: about four rows to a window, with at least one point per rank."""
        length = len(block) if window is None or window >= len(block) else size * max(1, window // (4 * size))
        return cls(block.start, block.stop, length, size, rank)

    @property
    def count(self) -> int:
        """Number of rows."""
        return -(-(self.stop - self.start) // self.length)

    def row(self, r: int) -> range:
        """Return the steps of row r."""
        first = self.start + r * self.length
        return range(first, min(self.stop, first + self.length))

    def slice(self, r: int, rank: int) -> range:
        """Return the steps of row r that a rank owns; some ranks own none where the row has fewer steps than there are ranks."""
        row = self.row(r)
        own = Partition(len(row), self.size).slice(rank)
        return row[own.start : own.stop]

    @cached_property
    def points(self) -> tuple[int, ...]:
        """This rank's points in order; the position of a point is its local index."""
        return tuple(j for r in range(self.count) for j in self.slice(r, self.rank))

    @cached_property
    def _offsets(self) -> tuple[int, ...]:
        total, offsets = 0, [0]
        for r in range(self.count):
            total += len(self.slice(r, self.rank))
            offsets.append(total)
        return tuple(offsets)

    def local(self, r: int) -> range:
        """Return the local indices of this rank's points in row r."""
        return range(self._offsets[r], self._offsets[r + 1])

    def owner(self, j: int) -> int:
        """Return the rank that owns point j."""
        r = (j - self.start) // self.length
        return Partition(len(self.row(r)), self.size).owner(j - self.row(r).start)

    def spanning(self, low: int, high: int) -> range:
        """Return the rows that contain any of the points low .. high-1."""
        return range((low - self.start) // self.length, (high - 1 - self.start) // self.length + 1)


def evenly(positions: Tensor) -> Slots:
    """Return evenly spaced positions in increasing order as a slice, so that arrays are viewed, not copied; others unchanged."""
    low, high = int(positions[0]), int(positions[-1])
    step = max(1, (high - low) // max(1, len(positions) - 1))
    spaced = high - low == step * (len(positions) - 1) and bool((positions.diff() == step).all())
    return slice(low, high + 1, step) if spaced else positions
