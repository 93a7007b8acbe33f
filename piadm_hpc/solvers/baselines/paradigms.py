"""ParaDiGMS (Shih et al. 2023, 2305.16317): plain increments in a sliding window, which advances by a rule of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...comm.communicator import largest
from ...theory.grid import Block
from ..linear import identity_part
from ..options import Options
from ..problem import Problem
from ..solution import Status
from ..sweep import PicardSolver
from ..tolerance import Motion, Verdict


class ParaDiGMS(PicardSolver):
    """Sweeps with A = I over a window that starts at the first state whose last change was too large (algorithm 1).

    The squared change of a state per entry is compared with tol^2 times the variance of the noise that leads to the state.
    That is the variance of the forward process's posterior, also where the chain is deterministic. States that enter the
    window are copies of its last state.
    """

    def __init__(
        self, problem: Problem, block: Block, first: Tensor, samples: Sequence[int], options: Options, *rest: Any, **more: Any
    ):
        if options.tol is None:
            raise ValueError("paradigms: its own stopping rule needs a tolerance; give `tol`")
        plain = replace(problem, linear=identity_part(problem.chain), prediction=None)
        super().__init__(plain, block, first, samples, replace(options, start="constant"), *rest, **more)

    def _enter(self, slots: Tensor) -> None:
        super()._enter(slots)
        self.trajectory.b[:, slots] = 0

    def _move(self) -> None:
        """Do nothing: `_update` moves the window, because it knows how far the states have changed."""

    def _update(self) -> None:
        flight, points, block = self.flight, self.trajectory, self.block
        before = torch.cat([points.z, points.end[None]])
        # closed points have no increments yet: the recurrence copies the window's last state to them
        ahead = block.stop if self.window.size is None else int(flight.high.max()) + self.window.size
        points.propagate(min(ahead, block.stop), flight.low, flight.left_out(block))
        moved = self._moved(torch.cat([points.z, points.end[None]]) - before)
        states = torch.arange(block.start + 1, block.stop + 1)[:, None]
        inside = (states > flight.low) & (states <= flight.high)
        flight.bound = torch.where(inside, moved, 0.0).max(0).values
        failed = torch.where(inside & (moved > float(self.options.tol or 0.0)), states, flight.high).min(0).values
        flight.low = torch.maximum(failed, torch.minimum(flight.low + 1, flight.high))
        flight.high = self.window.reach(block, flight.low, flight.age)

    def _judge(self, motion: Motion) -> Verdict:
        met = self.flight.low == self.block.stop
        late = ~met & (self.flight.age >= self.limit)
        return Verdict(met | late, torch.where(met, int(Status.CONVERGED), int(Status.FINISHED_SEQUENTIALLY)), self.flight.bound)

    def _exact(self, slot: int) -> int:
        return int(self.flight.low[slot])

    def _moved(self, change: Tensor) -> Tensor:
        """Root mean square changes of the states start+1 .. stop in deviations of the noise: [points of the block, slots]."""
        norm = torch.linalg.vector_norm(change[:, :, 0], dim=-1).to("cpu", torch.float64) / change.shape[-1] ** 0.5
        change_sizes = torch.zeros(len(self.block) + 1, change.shape[1], dtype=torch.float64)
        change_sizes[torch.tensor(self.rows.points, dtype=torch.long) - self.block.start] = norm[:-1]
        if self.comm.rank + 1 == self.comm.size:
            change_sizes[-1] = norm[-1]
        change_sizes = largest(self.comm, change_sizes)
        return change_sizes[1:] / self._deviation()[:, None]

    def _deviation(self) -> Tensor:
        """Standard deviation of the noise that leads to each state; states without noise take the smallest of the others."""
        chain, block = self.problem.chain, slice(self.block.start, self.block.stop + 1)
        assert chain.alpha is not None and chain.sigma is not None
        a, s = chain.alpha[block], chain.sigma[block]
        forward = (s[:-1] ** 2 - (a[:-1] / a[1:]) ** 2 * s[1:] ** 2).clamp(min=0)
        noise = torch.sqrt(forward) * s[1:] / s[:-1]
        least = noise[noise > 0].min() if bool((noise > 0).any()) else torch.ones((), dtype=noise.dtype)
        return torch.where(noise > 0, noise, least)
