"""Tables of steps in coordinates, expanded once where that takes little memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..theory.bases import Basis
from ..theory.chain import expand, expand_rows
from .distribution import Slots

KEPT = 2**21  # numbers of a table that is kept: 8 MB in float32


class Tables:
    """Some rows of a table per shell, [J, K, ...], those of `points`, as numbers per coordinate for states like `like`."""

    def __init__(self, basis: Basis, table: Tensor, points: Sequence[int], like: Tensor):
        self.basis, self.table, self.like = basis, table[list(points)], like[:0]
        numbers = len(points) * table[0, 0].numel() * (basis.num_coords if table.shape[1] > 1 else 1)
        self.kept = expand_rows(basis, self.table, like).contiguous() if numbers <= KEPT else None

    def rows(self, local: Slots) -> Tensor:
        """Return the rows of some points [rows], given by their positions: [rows, n or 1, ...]."""
        return expand_rows(self.basis, self.table[local], self.like) if self.kept is None else self.kept[local]

    def at(self, local: int) -> Tensor:
        """Return the row of one point, [n or 1, ...]."""
        return expand(self.basis, self.table[local], self.like) if self.kept is None else self.kept[local]
