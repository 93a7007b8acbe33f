"""From a model to samples: the prior draw, the chain, the corrector and the solver, for any set of sample ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..gaussian.reference import GaussianReference, isotropic
from ..theory.chain import Chain
from ..theory.noise import PRIOR, Noise
from ..theory.process import Process
from .arguments import Corrector, Linear, SolverName
from .baselines.dispatch import BaselineSettings
from .collocation import Collocation, Scheme
from .evaluate import Score
from .solve import BlockCallback, Projection, Solution, Start, Unfinished, solve
from .tolerance import ShouldStop
from .trajectory import Operator


@dataclass(frozen=True)
class Sampler:
    """Everything that determines a sample, and the settings that do not. `draw` makes any samples by their ids.

    The prior is the marginal of `prior` (default: the reference) at the chain's first point, N(0, alpha^2 + sigma^2)
    without either.
    """

    chain: Scheme
    score: Score
    event_shape: tuple[int, ...]
    seed: int
    reference: GaussianReference | None = None
    prior: GaussianReference | None = None
    project: Projection | None = None
    corrector: Corrector | None = None
    solver: SolverName = "picard"
    baseline: BaselineSettings | None = None
    linear: Linear = "auto"
    start: Start = "auto"
    tol: float | None = 1e-2
    sweeps: int | None = None
    window: int | None = None
    pipelined: bool = False
    in_flight: int | None = None
    operator: Operator | None = None
    scale: float | Tensor = 1.0
    model_batch: int | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def step_counts(self) -> list[int]:
        """Steps of every block, and after each those of the corrector's sub-blocks."""
        edges = self.chain.edges
        counts = []
        for start, stop in pairwise(edges):
            counts.append(stop - start)
            if self.corrector is not None:
                counts += [b - a for a, b in pairwise(self.corrector(float(self.chain.t[stop])).edges)]
        return counts

    @property
    def sequential_rounds(self) -> int | None:
        """Network calls of a sample, corrector included, when made step by step; None where there are no steps."""
        return None if isinstance(self.chain, Collocation) else sum(self.step_counts)

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
        callback: BlockCallback | None = None,
        resume: Unfinished | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Solution:
        """Samples of the given ids, from their priors or from where they were left; collective over `comm`.

        The ranks of `comm` share the time axis. Raises Stopped when the watch ends the work.
        """
        first = self.prior_states(samples)
        return solve(
            self.chain,
            self.score,
            first[:, 0],
            momentum=first[:, 1:],
            noise=self._noise(),
            tol=self.tol,
            sweeps=self.sweeps,
            reference=self.reference,
            linear=self.linear,
            start=self.start,
            solver=self.solver,
            baseline=self.baseline,
            window=self.window,
            pipelined=self.pipelined,
            in_flight=self.in_flight,
            operator=self.operator,
            comm=comm,
            samples=samples,
            scale=self.scale,
            project=self.project,
            model_batch=self.model_batch,
            corrector=self.corrector,
            callback=callback,
            resume=resume,
            should_stop=should_stop,
        )

    def _noise(self) -> Noise:
        return Noise(self.seed, math.prod(self.event_shape), dtype=self.dtype, device=self.device)


def critical_corrector(
    process: Process,
    reference: GaussianReference | None,
    *,
    friction: float | None,
    length: float | None,
    num_steps: int,
    num_blocks: int,
) -> Corrector:
    """The corrector of PIADM-ODE with friction 2 sqrt(L) and length 1/sqrt(L) unless given.

    L is the largest curvature of the reference's marginal at the block's end: critical damping of the stiffest mode.
    """
    from ..integrators import underdamped

    def chain(t: float) -> Chain:
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = process.alpha(time), process.sigma(time)
        smallest = sigma**2 if reference is None else reference.variance(alpha, sigma).min()
        root = 1 / math.sqrt(float(smallest))
        return underdamped(
            process, t, friction=friction or 2 * root, length=length or 1 / root, num_steps=num_steps, num_blocks=num_blocks
        )

    return chain
