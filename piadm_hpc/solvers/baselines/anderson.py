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

RIDGE = 1e-3  # relative to the diagonal of a Gram matrix; the authors' script adds as much


class Anderson(PicardSolver):
    """Sweeps whose result is mixed with the last few: x <- x + R - (dX + dR) g, R what a plain sweep would change.

    Row j's coefficients g minimise |R - dR g|^2 over the rows up to j (eq. 14 there), so that nothing travels against
    time and the first row that is not settled keeps its plain update: after k sweeps the first k points are exact.
    `options.memory` differences are kept. Every rank mixes its own points; the Gram matrices are sums over lower ranks.
    """

    def __init__(
        self, problem: Problem, block: Block, first: Tensor, samples: Sequence[int], options: Options, *rest: Any, **more: Any
    ):
        if options.window is not None or options.pipelined or options.memory < 1:
            raise ValueError(
                f"anderson: a block is solved whole, no window, no pipeline, and memory is at least 1, got {options.memory}"
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
        left = plain - old
        if self.comm.rank + 1 < self.comm.size:
            left[-1] = 0  # only the last rank has the block's end
        if self.last is not None:
            self._remember(old - self.last[0], left - self.last[1])
        self.last = (old, left)
        mixed = plain if not self.states else plain - self._correction(left)
        points.z.copy_(mixed[:-1])
        points.move.copy_(mixed[:-1] - old[:-1])
        points.end.copy_(mixed[-1])

    def _remember(self, step: Tensor, turn: Tensor) -> None:
        """The newest differences of states and residuals; samples that have just entered have none."""
        fresh = self.flight.age == 1
        for kept in (step, turn, *self.states, *self.gaps):
            kept[:, fresh] = 0
        self.states, self.gaps = [step, *self.states][: self.memory], [turn, *self.gaps][: self.memory]

    def _correction(self, left: Tensor) -> Tensor:
        """(dX + dR) g of every row that may be mixed, zero in the others."""
        gaps = torch.stack(self.gaps)
        count = len(gaps)
        gram = torch.einsum("aj...,bj...->jab...", gaps, gaps).flatten(4).sum(-1)
        push = torch.einsum("aj...,j...->ja...", gaps, left).flatten(3).sum(-1)
        sums = torch.cat([gram.flatten(1, 2), push], dim=1).cumsum(0)  # [rows, count^2 + count, slots]
        nothing = torch.zeros_like(sums[-1])
        sums = sums + self.comm.exscan(nothing, sums[-1], lambda low, high, z: z.clone())
        gram = sums[:, : count**2].reshape(len(sums), count, count, -1).movedim(-1, 1)
        # differences that a sample does not have yet are zero, and get no share
        ridge = torch.diag_embed(RIDGE * gram.diagonal(dim1=-2, dim2=-1) + torch.finfo(gram.dtype).tiny)
        share = torch.linalg.solve(gram + ridge, sums[:, count**2 :].movedim(1, -1)[..., None])[..., 0]
        total = torch.einsum("jsa,ajs...->js...", share, torch.stack(self.states) + gaps)
        total[~self._may_mix().to(total.device)] = 0
        return total

    def _may_mix(self) -> Tensor:
        """Rows, the end last, that are neither settled nor the next to be exact: [rows, slots]."""
        rows = torch.tensor([*self.rows.points, self.block.stop])[:, None]
        return rows > torch.maximum(self.flight.low, self.flight.exact)

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.states, self.gaps = [one[:, kept] for one in self.states], [one[:, kept] for one in self.gaps]
        if self.last is not None:
            self.last = (self.last[0][:, kept], self.last[1][:, kept])
