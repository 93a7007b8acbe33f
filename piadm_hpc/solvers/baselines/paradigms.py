"""ParaDiGMS (Shih et al. 2023, 2305.16317): a sliding window of plain increments, with its own rule for moving on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sweep import Sweeps


class ParaDiGMS(Sweeps):
    """Sweeps with A = I over a window that starts at the first state whose last change was too large (algorithm 1).

    A state's squared change per entry is held against tol^2 times the variance of the noise that leads to it, that of the
    forward process's posterior also where the chain is deterministic. States that enter the window are copies of its last.
    """

    vigilant = False

    def _enter(self, slots: Tensor) -> None:
        super()._enter(slots)
        self.points.b[:, slots] = 0

    def _advance(self, change: Tensor) -> None:
        """Nothing moves before the states have changed."""
        self.front.age = self.front.age + 1

    def _update(self) -> None:
        front, points, block, stop = self.front, self.points, self.block, self.method.stop
        before = torch.cat([points.z, points.end[None]])
        front.reached = torch.maximum(front.reached, front.high)
        # closed points have no increments yet: the recurrence copies the window's last state to them
        ahead = block.stop if self.method.schedule.window is None else int(front.high.max()) + self.method.schedule.window
        points.update(min(ahead, block.stop), min(int(front.low.min()), block.stop - 1))
        moved = self._moved(torch.cat([points.z, points.end[None]]) - before)
        states = torch.arange(block.start + 1, block.stop + 1)[:, None]
        inside = (states > front.low) & (states <= front.high)
        front.before, front.change = front.change, torch.where(inside, moved, 0.0).max(0).values
        if stop.tol is None:
            raise ValueError("paradigms: it ends by its own rule, which needs a tolerance")
        failed = torch.where(inside & (moved > stop.tol), states, front.high).min(0).values
        front.low = torch.maximum(failed, torch.minimum(front.low + 1, front.high))
        front.high = self.method.schedule.reach(block, front.low, front.age)

    def _moved(self, change: Tensor) -> Tensor:
        """Changes of the states start+1 .. stop in deviations of the noise, root mean square: [points of the block, slots]."""
        norm = torch.linalg.vector_norm(change[:, :, 0], dim=-1).to("cpu", torch.float64) / change.shape[-1] ** 0.5
        told = torch.zeros(len(self.block) + 1, change.shape[1], dtype=torch.float64)
        told[torch.tensor(self.rows.points, dtype=torch.long) - self.block.start] = norm[:-1]
        if self.comm.rank + 1 == self.comm.size:
            told[-1] = norm[-1]
        told = self.comm.max(torch.nan_to_num(told, nan=float("inf"), posinf=float("inf")))
        return told[1:] / self._deviation()[:, None]

    def _deviation(self) -> Tensor:
        """Standard deviation of the noise that leads to each state; the last that has one stands for those without."""
        chain, block = self.problem.chain, slice(self.block.start, self.block.stop + 1)
        assert chain.alpha is not None and chain.sigma is not None
        a, s = chain.alpha[block], chain.sigma[block]
        forward = (s[:-1] ** 2 - (a[:-1] / a[1:]) ** 2 * s[1:] ** 2).clamp(min=0)
        noise = torch.sqrt(forward) * s[1:] / s[:-1]
        least = noise[noise > 0].min() if bool((noise > 0).any()) else torch.ones((), dtype=noise.dtype)
        return torch.where(noise > 0, noise, least)

    def _judge(self, whole: Tensor) -> Tensor:
        return self.front.low == self.block.stop
