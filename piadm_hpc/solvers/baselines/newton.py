"""Quasi-Newton sweeps: each step is linearised by its Jacobian's diagonal, estimated from one product with a random vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...theory.chain import expand
from ...theory.grid import Block
from ..options import Options
from ..problem import Problem
from ..sweep import PicardSolver
from ..tolerance import Motion, Verdict
from .change import judge_by_change

STEP = 1e-3  # length of the probe, in standard deviations of the noise


class Newton(PicardSolver):
    """Sweeps with A = P + Q g R, where g [samples, n] is the diagonal of the score's Jacobian at the last iterate.

    This is quasi-DEER (Gonzalez et al. 2024, 2407.19115) with the stochastic diagonal g = v (J v), v = +-1, of 2508.18413. It is
    exact where coordinates do not interact and unbiased elsewhere. J v is the difference of two calls, which are made in one
    round, so a round has twice the calls. g is clamped between -1/sigma^2 (the denoised estimate is constant) and 0 (it
    follows the state). The solver works in the basis of the linear part. Raises ValueError for windows, and for scores that
    read several fields.
    """

    keep_scores = True

    def __init__(
        self, problem: Problem, block: Block, first: Tensor, samples: Sequence[int], options: Options, *rest: Any, **more: Any
    ):
        if options.window is not None or options.pipelined or problem.chain.reads > 1:
            raise ValueError("newton: a block is solved whole, for a score that reads one field; no window, no pipeline")
        if problem.chain.sigma is None:
            raise ValueError("newton: its probes are scaled by the noise; give the chain its alpha and sigma")
        super().__init__(problem, block, first, samples, options, *rest, **more)
        z = self.trajectory.z
        self.maps = z.new_zeros(*z.shape[:2], z.shape[-1], z.shape[-2], z.shape[-2])

    def _judge(self, motion: Motion) -> Verdict:
        return judge_by_change(motion, self.flight, self.options, self.block.stop)

    def _update(self) -> None:
        """Linearise the steps that were evaluated, then propagate the path through all steps."""
        open_points = torch.tensor(self.rows.points)[:, None] >= self.evaluated
        local, slot = open_points.nonzero().T
        if len(local):
            slopes = self._slopes(local, slot)
            for index in range(len(self.rows.points)):
                mine = local == index
                if bool(mine.any()):
                    self._linearise(index, slot[mine], slopes[mine])
        self._propagate()

    def _evaluate(self) -> Motion:
        self.evaluated = self.flight.low.clone()
        motion = super()._evaluate()
        self.result.calls[self.flight.index] += self.block.stop - self.flight.low
        return motion

    def _slopes(self, local: Tensor, slot: Tensor) -> Tensor:
        """Estimate g at some points and slots: [rows, n]."""
        points, problem = self.trajectory, self.problem
        assert points.scores is not None
        numbers = torch.tensor(self.rows.points)[local]
        z = torch.stack([problem.chain.reading(int(j), points.z[a, s]) for j, a, s in zip(numbers, local, slot, strict=True)])
        signs = torch.stack([self._signs(int(j), z) for j in self.rows.points])[local]
        step = STEP * self._deviation(numbers).to(z)[:, None]
        shifted = problem.basis.synthesise(z + (step * signs)[:, None])
        ids = [self.samples[i] for i in self.flight.index[slot].tolist()]
        score = problem.basis.analyse(problem.evaluator(problem.evaluator.project(shifted), points.times[numbers], ids))
        slope = signs * (score - points.scores[local, slot])[:, 0] / step
        floor = -1 / self._deviation(numbers).to(z)[:, None] ** 2
        return torch.minimum(torch.maximum(slope, floor), torch.zeros_like(slope))

    def _deviation(self, numbers: Tensor) -> Tensor:
        sigma = self.problem.chain.sigma
        assert sigma is not None
        return sigma.reshape(-1)[numbers]

    def _signs(self, j: int, like: Tensor) -> Tensor:
        """Draw the random vector [n] of point j, which is the same for every sample, sweep and number of ranks."""
        generator = torch.Generator().manual_seed(j)
        return (torch.randint(0, 2, (like.shape[-1],), generator=generator) * 2 - 1).to(like)

    def _linearise(self, index: int, slots: Tensor, slopes: Tensor) -> None:
        """Set A and b = f(z) - A z at one point for some slots."""
        points, problem, j = self.trajectory, self.problem, self.rows.points[index]
        assert points.scores is not None
        z, score = points.z[index, slots], points.scores[index, slots]
        draws = None if points.draws is None else points.draws[index, slots]
        f = problem.step(torch.empty_like(z), draws, j, z, score)
        P, Q = (expand(problem.basis, table[j], z) for table in (problem.chain.P, problem.chain.Q))
        A = P + slopes[..., None, None] * (Q @ problem.chain.rows[j].to(z))
        self.maps[index, slots] = A
        points.b[index, slots] = f - act(A, z)

    def _propagate(self) -> None:
        """Propagate all local steps.

        Each rank composes its steps into one affine map; a sum shares the maps, and an exclusive scan gives each rank its
        first state.
        """
        points, rank = self.trajectory, self.comm.rank
        shift = torch.zeros_like(points.first)
        slices = self.maps.new_zeros(self.comm.size, *self.maps.shape[1:])
        slices[rank] = torch.eye(self.maps.shape[-1], dtype=slices.dtype, device=slices.device)
        for A, b in zip(self.maps, points.b, strict=True):
            slices[rank] = A @ slices[rank]
            shift = act(A, shift) + b
        slices = self.comm.sum(slices)

        def through(low: int, high: int, state: Tensor) -> Tensor:
            state = state.clone()
            for other in range(low, high):
                state = act(slices[other], state)
            return state

        state = self.comm.exscan(points.first, shift, through)
        torch.neg(points.z, out=points.move)
        for index, (A, b) in enumerate(zip(self.maps, points.b, strict=True)):
            points.z[index] = state
            state = act(A, state) + b
        points.end.copy_(state)
        points.move += points.z

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.maps = self.maps[:, kept]


def act(maps: Tensor, z: Tensor) -> Tensor:
    """Apply maps [samples, n, c, c] to coordinates z [samples, c, n]."""
    return (maps @ z.mT[..., None])[..., 0].mT
