"""Samples steered by a potential on their fields: weights, and resampling within groups at the ends of blocks.

With r the log-potential and D the denoised estimate, the weight of a sample at the end of a block is multiplied by
exp(r(D) - r(D before)), and at the end of the chain by exp(r(x) - r(D)) (Feynman-Kac steering, Singhal et al. 2025,
arXiv:2501.06848). Weighted samples follow p(x) exp(r(x)) whether or not groups are resampled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..config import plugins
from ..config.validation import ConfigError
from ..models.observations.reading import differentiable_decoding
from ..solvers.errors import ScoreError
from ..solvers.solution import BlockSolution, Solution, Stopped, Unfinished
from ..theory.grid import Block
from .batches import Work, stop_asked
from .resolve import ResolvedRun

logger = logging.getLogger("piadm_hpc")
Potential = Callable[[Tensor], Tensor]


class _BlockEnded(Exception):
    """Leaves the solver at the end of a block."""

    def __init__(self, unfinished: Unfinished):
        self.unfinished = unfinished


@dataclass
class Steered(Work):
    """A group of samples that is being solved and steered, as the callback of the solver.

    Attributes:
        log_weights: logarithms of the weights, [group] float64.
        ancestors: the sample whose first state each one has, [group].
    """

    log_weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    ancestors: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def solve(self, gaps: dict[str, np.ndarray]) -> Solution:
        """Solve the whole group. Raises StopRequested; then nothing of the group is kept."""
        run, samples = self.run, self.batch.samples
        potential, sampler, comm = potential_of(run.resolved), run.resolved.sampler, run.ranks.time
        self.note, resume = self.name, None
        self.log_weights, self.ancestors = np.zeros(len(samples)), np.array(samples)
        before = np.zeros(len(samples))
        while True:
            try:
                solution = sampler.draw(samples, comm=comm, resume=resume, callback=self)
                break
            except _BlockEnded as ended:
                resume = ended.unfinished
            except Stopped:
                raise run.request(stop_asked(run)) from None
            blocks = resume.costs["sweeps"].shape[1]
            now = self._potentials(potential, denoised(run.resolved, resume.state[:, 0], sampler.chain.edges[blocks]))
            resume.extra.add_(1)
            self.log_weights += now - before
            kept = self._resampled(blocks)
            before = now[kept]
            resume = _of(resume, torch.from_numpy(kept))
        self.log_weights += self._potentials(potential, solution.x) - before
        self._say(f"block {run.num_blocks}")
        return solution

    def block_ended(self, block: Block, result: BlockSolution, unfinished: Unfinished) -> None:
        """Leave the solver, so that the group is weighted, unless the chain ends with this block."""
        self.note, self.sweeps = f"{self.name} block {block.index + 1}", 0
        self._show(len(self.batch.samples) * (block.index + 1) / self.run.num_blocks)
        if block.index + 1 < self.run.num_blocks:
            self.leave_if_asked()
            raise _BlockEnded(unfinished)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the quantities stored beside every sample of the group."""
        return {"log_weight": self.log_weights, "ancestor": self.ancestors}

    def _potentials(self, potential: Potential, states: Tensor) -> np.ndarray:
        """Log-potentials [group] of states, the same on all ranks."""
        found: np.ndarray = self.run.ranks.time.bcast_object(potential(states).cpu().numpy())
        return found

    def _resampled(self, blocks: int) -> np.ndarray:
        """Return which samples continue, [group], with equal weights if they were resampled."""
        spec, run = self.run.resolved.config.steering, self.run
        assert spec is not None
        self._say(f"block {blocks}")
        count = len(self.log_weights)
        if effective(self.log_weights) >= spec.threshold * count:
            return np.arange(count)
        kept = systematic(self.log_weights, (run.resolved.config.seed, self.batch.samples[0], blocks))
        largest = self.log_weights.max()
        self.log_weights = np.full(count, largest + np.log(np.exp(self.log_weights - largest).mean()))
        self.ancestors = self.ancestors[kept]
        return kept

    def _say(self, where: str) -> None:
        first, last = self.batch.samples[0], self.batch.samples[-1]
        share = effective(self.log_weights)
        if self.run.ranks.writer:
            logger.info(f"samples {first} to {last}, {where}: effective sample size {share:.1f} of {len(self.log_weights)}")


def effective(log_weights: np.ndarray) -> float:
    """Return the effective sample size of weights, (sum w)^2 / sum w^2."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def systematic(log_weights: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return positions [n] drawn with the given weights, evenly spaced (Kitagawa 1996), by a seed."""
    weights = np.exp(log_weights - log_weights.max())
    places = (np.arange(len(weights)) + np.random.default_rng(list(seed)).random()) / len(weights)
    found = np.searchsorted(np.cumsum(weights) / weights.sum(), places)
    return np.minimum(found, len(weights) - 1)


def denoised(resolved: ResolvedRun, x: Tensor, point: int) -> Tensor:
    """Return the estimates E[x_0 | x_t], [samples, *event], of flat states [samples, d] at a point of the chain."""
    sampler, process = resolved.sampler, resolved.model.process
    t = sampler.chain.t[point]
    alpha, sigma = process.alpha(t.to(torch.float64)), process.sigma(t.to(torch.float64))
    states = x.reshape(-1, *sampler.event_shape)
    with torch.no_grad():
        scores = [
            resolved.model.score(part.clone(), t.to(part).expand(len(part)).clone())
            for part in torch.split(states, sampler.options.model_batch or len(states))
        ]
    return (states + float(sigma) ** 2 * torch.cat(scores)) / float(alpha)


def potential_of(resolved: ResolvedRun) -> Potential:
    """Return the log-potentials [n] float64 of states [n, *event].

    Raises ConfigError for a potential or a model that cannot be used; what it returns raises ScoreError for anything but [n].
    """
    spec = resolved.config.steering
    assert spec is not None
    model = resolved.model
    if model.conditioning is not None or model.process.fields > 1:
        raise ConfigError(f"steering: {model.name} takes a condition or has momenta; give a model of samples alone")
    try:
        decode = differentiable_decoding(model)
    except ValueError as error:
        raise ConfigError(f"steering: {error}") from None
    function = plugins.call("steering.potential", spec.potential, resolved.model)

    def potential(states: Tensor) -> Tensor:
        found = function(decode(states))
        if not isinstance(found, Tensor) or found.shape != (len(states),) or not bool(torch.isfinite(found).all()):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ScoreError(f"steering.potential returned {got} for {len(states)} fields; it must be finite numbers [n]")
        return found.detach().to(torch.float64)

    return potential


def _of(unfinished: Unfinished, kept: Tensor) -> Unfinished:
    costs = {name: values[kept] for name, values in unfinished.costs.items()}
    return Unfinished(unfinished.state[kept.to(unfinished.state.device)], costs, unfinished.extra[:, kept])
