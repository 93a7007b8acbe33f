"""Tables of steps in coordinates, expanded once where that takes little memory, else strip by strip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..theory.bases import Basis
from ..theory.chain import expand_rows
from .distribution import Slots

KEPT = 2**21  # numbers of a table that is kept: 8 MB in float32
EVERY = slice(None)


class Tables:
    """Some rows of a table per shell, [J, K, ...], those of `points`, as numbers per coordinate for states like `like`.

    Coordinates come last in memory, as they do in states, so that an operation reads both in order.
    """

    def __init__(self, basis: Basis, table: Tensor, points: Sequence[int], like: Tensor):
        table = table[list(points)]
        self.shells: Tensor | None = None
        if table.shape[1] > 1 and table[:, 0].numel() * basis.num_coords > KEPT:
            self.shells = basis.expand(torch.arange(basis.num_shells, device=like.device)).to(torch.int32)
        else:
            table = expand_rows(basis, table, like)
        self.table = table.to(like).movedim(1, -1).contiguous()

    def rows(self, local: Slots, strip: slice = EVERY) -> Tensor:
        """Return the rows of some points [rows], given by their positions, at the coordinates of a strip: [rows, w or 1, ...]."""
        if self.shells is not None:
            return self.table[local].index_select(-1, self.shells[strip]).movedim(-1, 1)
        return self.table[local, ..., strip if self.table.shape[-1] > 1 else EVERY].movedim(-1, 1)

    def at(self, local: int, strip: slice = EVERY) -> Tensor:
        """Return the row of one point at the coordinates of a strip, [w or 1, ...]."""
        return self.rows(slice(local, local + 1), strip)[0]
