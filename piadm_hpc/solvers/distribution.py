"""Which steps of a block each rank owns: rows of consecutive steps, every row cut into one slice a rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..theory.grid import Block, Partition


@dataclass(frozen=True)
class Rows:
    """Steps start .. stop-1 in rows of `length`, seen from one of `size` ranks.

    A single row gives every rank one slice of consecutive points. A window that moves along the steps needs several
    rows, or it would lie on one rank's slice at a time.
    """

    start: int
    stop: int
    length: int
    size: int
    rank: int

    @classmethod
    def of(cls, block: Block, *, window: int | None, size: int, rank: int) -> Rows:
        """Rows for a window of so many points: about four of them in a window, one point a rank at least."""
        length = len(block) if window is None or window >= len(block) else size * max(1, window // (4 * size))
        return cls(block.start, block.stop, length, size, rank)

    @property
    def count(self) -> int:
        return -(-(self.stop - self.start) // self.length)

    def row(self, r: int) -> range:
        """Steps of row r."""
        first = self.start + r * self.length
        return range(first, min(self.stop, first + self.length))

    def slice(self, r: int, rank: int) -> range:
        """Steps of row r that a rank owns; none where the row is shorter than the number of ranks."""
        row = self.row(r)
        own = Partition(len(row), self.size).slice(rank)
        return row[own.start : own.stop]

    @cached_property
    def points(self) -> tuple[int, ...]:
        """This rank's points, in order: entry l is the point of local index l."""
        return tuple(j for r in range(self.count) for j in self.slice(r, self.rank))

    @cached_property
    def _offsets(self) -> tuple[int, ...]:
        total, offsets = 0, [0]
        for r in range(self.count):
            total += len(self.slice(r, self.rank))
            offsets.append(total)
        return tuple(offsets)

    def local(self, r: int) -> range:
        """Local indices of this rank's points of row r."""
        return range(self._offsets[r], self._offsets[r + 1])

    def owner(self, j: int) -> int:
        """The rank that owns point j."""
        r = (j - self.start) // self.length
        return Partition(len(self.row(r)), self.size).owner(j - self.row(r).start)

    def spanning(self, low: int, high: int) -> range:
        """Rows with any of the points low .. high-1."""
        return range((low - self.start) // self.length, (high - 1 - self.start) // self.length + 1)
