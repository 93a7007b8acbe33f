"""What the same samples cost one network call after the other: the run's own chain, and DPM-Solver++(2M) at equal error.

Errors are root mean squares over pixels with data of differences between end states, in units of the data's standard
deviation. A deterministic chain is compared with the probability flow solved on a very fine grid from the same prior
draw. A stochastic chain has no path in common with an ODE solver: its error is the distance to the same chain solved
step by step, and DPM-Solver++(2M) is held against its own converged solution from the same prior draw.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...integrators import dpmpp_2m
from ...solvers.options import Options
from ...solvers.sampler import Sampler
from ...theory.grid import log_snr
from ...theory.process import Process, forward_time

LADDER = (5, 8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128)
CONVERGED_STEPS = 400


@dataclass(frozen=True)
class Cost:
    """One way to make a sample: sequential rounds, network calls, error, and seconds per sample; None if not measured."""

    rounds: int
    calls: int
    error: float | None
    seconds: float | None


@dataclass(frozen=True)
class Baselines:
    """Measurements on `samples`, run in batches of them.

    `own_error` and `step_by_step` belong to the run's chain, `path_error` is its distance from the same chain step by
    step (both None for collocation, which has no steps). `ladder` is DPM-Solver++(2M) with more and more steps,
    `converged_error` that of the solution it is held against. `deterministic`: whether `own_error` is measured against
    that solution too. `where` the baselines ran.
    """

    samples: tuple[int, ...]
    where: str
    deterministic: bool
    own_error: float
    path_error: float | None
    step_by_step: Cost | None
    ladder: tuple[Cost, ...]
    converged_error: float

    def reaching(self, error: float) -> Cost | None:
        """DPM-Solver++(2M) with the fewest steps whose error is at most `error`; None if no measured one is."""
        return next((cost for cost in self.ladder if cost.error is not None and cost.error <= error), None)


@torch.no_grad()
def measure(sampler: Sampler, process: Process, own: Tensor, samples: Sequence[int], *, tol: float) -> Baselines:
    """Make the given samples again by the baselines; `own` [samples, *event] are the end states the run found.

    The ladder is climbed until both `tol` and the run's own error are reached. Serial: every rank that calls it repeats it.
    """
    converged, rough = (_dpm(sampler, process, steps, samples)[0] for steps in (CONVERGED_STEPS, CONVERGED_STEPS // 2))
    distance = _Distance(sampler)
    deterministic = not sampler.chain.stochastic and sampler.options.corrector is None
    path_error, step_by_step = None, None
    if sampler.chain.sequential_rounds is not None:
        chain, cost = _solve(replace(sampler, options=replace(sampler.options, solver="sequential")), samples)
        path_error = distance(own, chain)
        step_by_step = replace(cost, error=distance(chain, converged) if deterministic else 0.0)
    own_error = distance(own, converged) if path_error is None or deterministic else path_error
    ladder: list[Cost] = []
    for steps in LADDER:
        x, cost = _dpm(sampler, process, steps, samples)
        ladder.append(replace(cost, error=distance(x, converged)))
        if float(ladder[-1].error or 0) <= min(tol, own_error):
            break
    return Baselines(
        samples=tuple(samples),
        where=f"one process, {sampler.device}, {torch.get_num_threads()} threads",
        deterministic=deterministic,
        own_error=own_error,
        path_error=path_error,
        step_by_step=step_by_step,
        ladder=tuple(ladder),
        # of second order: halving the step quarters the error
        converged_error=distance(rough, converged) / 3,
    )


class _Distance:
    """Root mean square of the difference of states over all samples and the pixels with data."""

    def __init__(self, sampler: Sampler):
        ones = torch.ones(1, *sampler.event_shape, dtype=torch.float64)
        mask = ones if sampler.project is None else sampler.project(ones.to(sampler.device)).cpu()
        self.share = float(mask.mean())

    def __call__(self, a: Tensor, b: Tensor) -> float:
        difference = a.to(torch.float64) - b.to(torch.float64)
        return float(torch.sqrt(difference.square().mean() / self.share))


def _dpm(sampler: Sampler, process: Process, steps: int, samples: Sequence[int]) -> tuple[Tensor, Cost]:
    """DPM-Solver++(2M) between the run's own end points, uniform in log-SNR as published."""
    ends = forward_time(process, sampler.chain.t[[0, -1]])
    chain = dpmpp_2m(process, log_snr(process, steps, horizon=float(ends[0]), delta=float(ends[1])))
    options = Options(solver="sequential", model_batch=sampler.options.model_batch, scale=sampler.options.scale)
    return _solve(replace(sampler, chain=chain, options=options), samples)


def _solve(sampler: Sampler, samples: Sequence[int]) -> tuple[Tensor, Cost]:
    began = time.perf_counter()
    solution = sampler.draw(samples)
    # fetching the result also waits for a device that works asynchronously
    x = solution.x.cpu()
    seconds = (time.perf_counter() - began) / len(samples)
    return x, Cost(int(solution.rounds.max()), int(solution.calls.max()), None, seconds)
