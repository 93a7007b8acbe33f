"""Triangular Anderson acceleration of sweeps over a whole block (ParaTAA, Tang et al. 2024, 2402.09970)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...theory.grid import Block
from ..options import Options
from ..problem import Problem
from ..sweep import PicardSolver
from ..tolerance import Motion, Verdict
from .change import judge_by_change

RIDGE = 1e-3  # relative to the diagonal of a Gram matrix, as in the authors' script


class Anderson(PicardSolver):
    """Mixes each sweep with the last few: x <- x + R - (dX + dR) g, where R is the change that a plain sweep would make.

    The coefficients g of row j minimise |R - dR g|^2 over the rows up to j (eq. 14 there). So no information travels against
    time, and the first row that is not settled keeps its plain update: after k sweeps the first k points are exact. The last
    `options.memory` differences are kept. Every rank mixes its own points; the Gram matrices are sums over lower ranks.
    """

    def __init__(
        self, problem: Problem, block: Block, first: Tensor, samples: Sequence[int], options: Options, *rest: Any, **more: Any
    ):
        if options.window is not None or options.pipelined or options.memory < 1:
            raise ValueError(
                f"anderson: a block is solved whole, with no window and no pipeline, and memory at least 1, got {options.memory}"
            )
        super().__init__(problem, block, first, samples, options, *rest, **more)
        self.memory, self.states, self.gaps = options.memory, list[Tensor](), list[Tensor]()
        self.last: tuple[Tensor, Tensor] | None = None

    def _judge(self, motion: Motion) -> Verdict:
        return judge_by_change(motion, self.flight, self.options, self.block.stop)

    def _update(self) -> None:
        points = self.trajectory
        old = torch.cat([points.z, points.end[None]])
        super()._update()
        plain = torch.cat([points.z, points.end[None]])
        residual = plain - old
        if self.comm.rank + 1 < self.comm.size:
            residual[-1] = 0  # only the last rank has the block's end
        if self.last is not None:
            self._remember(old - self.last[0], residual - self.last[1])
        self.last = (old, residual)
        mixed = plain if not self.states else plain - self._correction(residual)
        points.z.copy_(mixed[:-1])
        points.move.copy_(mixed[:-1] - old[:-1])
        points.end.copy_(mixed[-1])

    def _remember(self, state: Tensor, residual: Tensor) -> None:
        """Keep the newest differences of states and residuals; samples that have just entered have none yet."""
        fresh = self.flight.age == 1
        for difference in (state, residual, *self.states, *self.gaps):
            difference[:, fresh] = 0
        self.states, self.gaps = [state, *self.states][: self.memory], [residual, *self.gaps][: self.memory]

    def _correction(self, residual: Tensor) -> Tensor:
        """Compute (dX + dR) g for the rows that may be mixed; zero in the others."""
        gaps = torch.stack(self.gaps)
        count = len(gaps)
        gram = torch.einsum("aj...,bj...->jab...", gaps, gaps).flatten(4).sum(-1)
        right = torch.einsum("aj...,j...->ja...", gaps, residual).flatten(3).sum(-1)
        sums = torch.cat([gram.flatten(1, 2), right], dim=1).cumsum(0)  # [rows, count^2 + count, slots]
        sums = sums + self.comm.exscan(torch.zeros_like(sums[-1]), sums[-1], lambda low, high, z: z.clone())
        gram = sums[:, : count**2].reshape(len(sums), count, count, -1).movedim(-1, 1)
        # differences that a sample does not have yet are zero, and get no weight
        ridge = torch.diag_embed(RIDGE * gram.diagonal(dim1=-2, dim2=-1) + torch.finfo(gram.dtype).tiny)
        weights = torch.linalg.solve(gram + ridge, sums[:, count**2 :].movedim(1, -1)[..., None])[..., 0]
        total = torch.einsum("jsa,ajs...->js...", weights, torch.stack(self.states) + gaps)
        total[~self._may_mix().to(total.device)] = 0
        return total

    def _may_mix(self) -> Tensor:
        """Whether each row, the end last, is neither settled nor the next one to become exact: [rows, slots]."""
        rows = torch.tensor([*self.rows.points, self.block.stop])[:, None]
        return rows > torch.maximum(self.flight.low, self.flight.exact)

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.states, self.gaps = [one[:, kept] for one in self.states], [one[:, kept] for one in self.gaps]
        if self.last is not None:
            self.last = (self.last[0][:, kept], self.last[1][:, kept])
