"""The MPI operation of the scan: the composition of affine maps, which does not commute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# linear(low, high, z) applies the linear parts of the maps of ranks low .. high-1, in this order, to states z [S, c, n]
Linear = Callable[[int, int, Tensor], Tensor]


class Composition:
    """The composition of affine maps as an MPI operation; a process creates one, since MPI libraries allow only few."""

    def __init__(self, mpi: Any) -> None:
        self.mpi = mpi
        self.operation = mpi.Op.Create(self._compose, commute=False)
        self.dtype, self.shape = torch.float32, torch.Size()
        self.linear: Linear | None = None

    def exscan(self, comm: Any, mine: Tensor, below: Tensor, shape: torch.Size, linear: Linear) -> None:
        """Compose the maps of all lower ranks into `below`; both messages are a range of ranks and a shift of `shape`."""
        self.dtype, self.shape, self.linear = mine.dtype, shape, linear
        number = self.mpi.FLOAT if mine.dtype == torch.float32 else self.mpi.DOUBLE
        element = number.Create_contiguous(len(mine)).Commit()
        try:
            comm.Exscan([mine.numpy(), 1, element], [below.numpy(), 1, element], op=self.operation)
        finally:
            element.Free()
            self.linear = None

    def _compose(self, lower: Any, upper: Any, datatype: Any) -> None:
        """Replace the upper map by the composition upper after lower, in place."""
        assert self.linear is not None
        low, high = torch.frombuffer(lower, dtype=self.dtype), torch.frombuffer(upper, dtype=self.dtype)
        carried = self.linear(int(high[0]), int(high[1]), low[2:].view(self.shape))
        high[2:].view(self.shape).add_(carried)
        high[0] = low[0]
