"""The end states of a one-block chain after every sweep, from a single run of the solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from piadm_hpc.theory.chain import Chain

Score = Callable[[Tensor, Tensor], Tensor]


def with_idle_step(chain: Chain) -> Chain:
    """The chain with one more step that changes nothing, so that every sweep evaluates the score at its end state."""
    eye = torch.eye(chain.channels, dtype=torch.float64).expand(1, *chain.P.shape[1:])
    assert chain.alpha is not None and chain.sigma is not None

    def idle(table: Tensor) -> Tensor:
        return torch.cat([table, torch.zeros_like(table[:1])])

    def repeated(points: Tensor) -> Tensor:
        return torch.cat([points, points[-1:]])

    return replace(
        chain,
        P=torch.cat([chain.P, eye]),
        Q=idle(chain.Q),
        N=idle(chain.noise),
        M=idle(chain.shift),
        R=repeated(chain.rows),
        t=repeated(chain.t),
        alpha=repeated(chain.alpha),
        sigma=repeated(chain.sigma),
        edges=(0, chain.num_steps + 1),
    )


class EndStates:
    """A score that records its rows at time `end`: the end states [samples, *event] before each sweep, the first guess first."""

    def __init__(self, score: Score, end: Tensor, num_samples: int):
        self.score, self.end, self.num_samples = score, end, num_samples
        self.rows: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.rows.extend(x[t == self.end.to(t)].clone())
        return self.score(x, t)

    def states(self) -> list[Tensor]:
        """One tensor [samples, *event] per sweep; entry k is the end state after k sweeps."""
        full = len(self.rows) // self.num_samples * self.num_samples
        return [torch.stack(self.rows[k : k + self.num_samples]) for k in range(0, full, self.num_samples)]
