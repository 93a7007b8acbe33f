"""The sampler: it draws first states from the prior and solves the chain, for any set of sample ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..gaussian.density import degrees_within, log_density
from ..gaussian.reference import GaussianReference, isotropic
from ..schema.conditions import Condition
from ..theory.noise import PRIOR, Noise, NoiseSource
from .collocation import Collocation
from .evaluate import Score
from .options import Options
from .scheme import Scheme
from .solution import Solution, Unfinished
from .solve import Callback, Projection, solve


@dataclass(frozen=True)
class Sampler:
    """Draws samples of a model by their ids: the same seed and id always give the same sample.

    Attributes:
        chain: the steps, or the points of the flow.
        score: called as score(x [rows, *event], t [rows]), and as score(x, t, c) where samples are drawn given a condition.
        event_shape: shape of one sample.
        seed: the number from which all noise is derived.
        options: how to solve; they change a sample by no more than the tolerance.
        reference: the Gaussian that preconditions sweeps and gives their first path.
        prior: its marginal at the chain's first point is the distribution of first states; by default that of the reference,
            and without either N(0, alpha^2 + sigma^2).
        project: maps states to the subspace that all of them lie in, as in `solve`.
        stride: samples whose ids agree in id // stride have the same noise, as those of one member under several conditions.
        dtype: precision of the states.
        device: device of the states.
    """

    chain: Scheme
    score: Score
    event_shape: tuple[int, ...]
    seed: int
    options: Options = field(default_factory=Options)
    reference: GaussianReference | None = None
    prior: GaussianReference | None = None
    project: Projection | None = None
    stride: int = 1
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
        """Network calls of a sample solved step by step, corrector included; None for a scheme without steps."""
        return None if self.chain.sequential_rounds is None else sum(self.step_counts)

    def prior_states(self, samples: Sequence[int], noise: NoiseSource | None = None) -> Tensor:
        """Draw states [samples, c, *event] at the chain's first point, from `noise` or the sampler's own."""
        signal, spread = self.chain.entry()
        white = (noise or self.noise()).at([0], samples, channels=len(signal), stream=PRIOR)[0]
        white = white.reshape(len(samples), len(signal), *self.event_shape)
        return self.measure.draw_state(white, signal, spread)

    def log_density(self, samples: Sequence[int], solution: Solution) -> Tensor:
        """Return the log-density [samples], float64, of the states of samples that were drawn with `options.traces`.

        It is over the subspace of the states, per unit volume of states: that of the first states under the prior, less the
        log-determinant of the flow. Raises ValueError for a solution without it.
        """
        if solution.log_det is None:
            raise ValueError("the samples have no log-determinants; set options.traces to 'exact' or a number of probes")
        return self.first_log_density(self.prior_states(samples)[:, 0]) - solution.log_det.value

    def first_log_density(self, first: Tensor) -> Tensor:
        """Return the log-density [samples], float64, of first states [samples, *event] of a flow under the prior."""
        prior, flow = self.measure, cast(Collocation, self.chain)
        degrees = degrees_within(prior.basis, None if self.project is None else self.projected, prior.mean)
        at = torch.tensor(flow.horizon, dtype=torch.float64)
        return log_density(prior, flow.process, first, flow.process.time(at), degrees=degrees, project=self.projected)

    def projected(self, flat: Tensor) -> Tensor:
        """Project flat states [rows, d] to the subspace that all of them lie in."""
        return flat if self.project is None else self.project(flat.reshape(-1, *self.event_shape)).reshape(flat.shape)

    @property
    def measure(self) -> GaussianReference:
        """The Gaussian whose marginal at the chain's first point is the distribution of first states."""
        return (self.prior or self.reference or isotropic(self.event_shape)).to(self.device, self.dtype)

    def draw(
        self,
        samples: Sequence[int],
        *,
        condition: Condition | None = None,
        noise: NoiseSource | None = None,
        comm: Communicator | None = None,
        resume: Unfinished | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Draw the samples with the given ids, or continue them from `resume`; collective over `comm`.

        `condition` is a tensor, or a dictionary of tensors, whose first dimension counts the samples. `noise`
        replaces the sampler's own, which `seed` and the ids select. The ranks of `comm` share the time axis. Raises ScoreError
        on every rank when the score fails on any, and Stopped when the callback ends the work.
        """
        noise = noise or self.noise()
        first = self.prior_states(samples, noise)
        return solve(
            self.chain,
            self.score,
            (first[:, 0], first[:, 1:]),
            self.options,
            noise=noise,
            reference=self.reference,
            condition=condition,
            comm=comm,
            samples=samples,
            project=self.project,
            resume=resume,
            callback=callback,
        )

    def noise(self) -> Noise:
        """Return the random numbers that seed and sample ids select."""
        return Noise(self.seed, math.prod(self.event_shape), dtype=self.dtype, device=self.device, stride=self.stride)
