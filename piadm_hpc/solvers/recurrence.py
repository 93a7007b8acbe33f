"""The recurrence x[j+1] = A[j] x[j] + b[j] on all ranks.

It takes local passes and one exclusive scan of affine maps, and one more broadcast if a block has several rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..theory.bases import Basis
from ..theory.chain import affine, apply, expand
from .distribution import Rows
from .linear import LinearPart
from .strips import strips
from .tables import Tables


class Recurrence:
    """The recurrence of one linear part over rows of steps; products of its matrices are computed once and kept."""

    def __init__(self, linear: LinearPart, basis: Basis, rows: Rows, comm: Communicator, like: Tensor):
        self.linear, self.basis, self.rows, self.comm = linear, basis, rows, comm
        self.blocks = Tables(basis, linear.A, rows.points, like)
        self.tables: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, first: Tensor, b: Tensor, z: Tensor, end: Tensor, span: range, move: Tensor | None = None) -> list[Tensor]:
        """Compute the states z at this rank's points of the rows `span`, from the state `first`; collective.

        `first` and `end` are [S, c, n], `b`, `z` and `move` [points, S, c, n]. On the last rank `end` becomes the state after the
        last step of the span; `move` becomes the difference between new and old states. Returns the first state of every row
        of the span and, in a block of several rows, the state after it.
        """
        shifts = first.new_zeros(len(span), *first.shape)
        # the last rank's shift is never used by an exclusive scan
        for i, r in enumerate(span if self.comm.rank + 1 < self.comm.size else ()):
            self._pass(b, r, shifts[i])
        begins = torch.zeros_like(shifts)
        begins[0] = first
        begins = self.comm.exscan(begins, shifts, lambda low, high, states: self._act(span, low, high, states))
        starts = [first]
        if self.rows.count > 1:
            starts = self._row_starts(first, b, begins, span)
            for i, r in enumerate(span[1:], start=1):
                begins[i] += self._carry(r, 0, self.comm.rank, starts[i])
        for i, r in enumerate(span):
            self._pass(b, r, begins[i], z, move)
        end.copy_(begins[-1])
        return starts

    def _row_starts(self, first: Tensor, b: Tensor, begins: Tensor, span: range) -> list[Tensor]:
        """Compute the first states of rows: the last rank knows the shift of every row, and the tables its linear map."""
        added = torch.zeros_like(begins)
        if self.comm.rank == self.comm.size - 1:
            added.copy_(begins)
            for i, r in enumerate(span):
                self._pass(b, r, added[i])
        added = self.comm.bcast(added, self.comm.size - 1)
        starts = [first, added[0]]  # the first row began from its true state, so its end is complete
        for i, r in enumerate(span[1:], start=1):
            starts.append(added[i] + self._carry(r, 0, self.comm.size, starts[i]))
        return starts

    def _pass(self, b: Tensor, r: int, state: Tensor, z: Tensor | None = None, move: Tensor | None = None) -> None:
        """Take this rank's steps of a row, from `state` to the state after them; z and `move` are filled on the way, if given."""
        for strip in strips(state):
            now = state[..., strip]
            for index in self.rows.local(r):
                if z is not None:
                    here = z[index, ..., strip]
                    if move is not None:
                        torch.sub(now, here, out=move[index, ..., strip])
                    here.copy_(now)
                now = affine(torch.empty_like(now), b[index, ..., strip], self.blocks.at(index, strip), now)
            state[..., strip] = now

    def _act(self, span: range, low: int, high: int, states: Tensor) -> Tensor:
        return torch.stack([self._carry(r, low, high, state) for r, state in zip(span, states, strict=True)])

    def _carry(self, r: int, low: int, high: int, state: Tensor) -> Tensor:
        """Apply the linear map of the slices of ranks low .. high-1 of a row to a state; it needs the tables alone."""
        if low == high:
            return state.clone()
        key = (r, low, high)
        if key not in self.tables:
            start, stop = self.rows.slice(r, low).start, self.rows.slice(r, high - 1).stop
            self.tables[key] = expand(self.basis, self.linear.product(start, stop), state)
        return apply(self.tables[key].to(state.device), state)
