"""From a model to samples: the prior draw, the chain and the solver, for any set of sample ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..gaussian.reference import GaussianReference, isotropic
from ..theory.noise import PRIOR, Noise
from .evaluate import Score
from .options import Options
from .scheme import Scheme
from .solution import Solution, Unfinished
from .solve import Callback, Projection, solve


@dataclass(frozen=True)
class Sampler:
    """Everything that determines a sample, and the options that do not. `draw` makes any samples by their ids.

    The prior is the marginal of `prior` (default: the reference) at the chain's first point, N(0, alpha^2 + sigma^2)
    without either.
    """

    chain: Scheme
    score: Score
    event_shape: tuple[int, ...]
    seed: int
    options: Options = field(default_factory=Options)
    reference: GaussianReference | None = None
    prior: GaussianReference | None = None
    project: Projection | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def step_counts(self) -> list[int]:
        """Steps of every block, and after each those of the corrector's sub-blocks."""
        edges = self.chain.edges
        counts = []
        for start, stop in pairwise(edges):
            counts.append(stop - start)
            if self.options.corrector is not None:
                counts += [b - a for a, b in pairwise(self.options.corrector(float(self.chain.t[stop])).edges)]
        return counts

    @property
    def sequential_rounds(self) -> int | None:
        """Network calls of a sample, corrector included, when made step by step; None where there are no steps."""
        return None if self.chain.sequential_rounds is None else sum(self.step_counts)

    def prior_states(self, samples: Sequence[int]) -> Tensor:
        """States [samples, c, *event] at the chain's first point."""
        signal, spread = self.chain.entry()
        white = self._noise().at([0], samples, channels=len(signal), stream=PRIOR)[0]
        prior = self.prior or self.reference or isotropic(self.event_shape)
        white = white.reshape(len(samples), len(signal), *self.event_shape)
        return prior.to(self.device, self.dtype).draw_state(white, signal, spread)

    def draw(
        self,
        samples: Sequence[int],
        *,
        comm: Communicator | None = None,
        resume: Unfinished | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Samples of the given ids, from their priors or from where they were left; collective over `comm`.

        The ranks of `comm` share the time axis. Raises Stopped when the callback ends the work.
        """
        first = self.prior_states(samples)
        return solve(
            self.chain,
            self.score,
            first[:, 0],
            self.options,
            momentum=first[:, 1:],
            noise=self._noise(),
            reference=self.reference,
            comm=comm,
            samples=samples,
            project=self.project,
            resume=resume,
            callback=callback,
        )

    def _noise(self) -> Noise:
        return Noise(self.seed, math.prod(self.event_shape), dtype=self.dtype, device=self.device)
