"""The cost of the same samples with sequential network calls, on the run's own chain and with DPM-Solver++(2M).

Errors are root mean square differences between end states over pixels with data, in units of the data's standard deviation.
The error of a deterministic chain is its distance to the probability flow, solved on a very fine grid from the same prior
draw. A stochastic chain has no path in common with an ODE solver: its error is the distance to the same chain solved step by
step, and the error of DPM-Solver++(2M) is the distance to its own converged solution.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...integrators import dpmpp_2m
from ...run.reporting import Progress
from ...solvers.options import Options
from ...solvers.sampler import Sampler
from ...theory.grid import log_snr
from ...theory.process import Process, forward_time

LADDER = (5, 8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128)
CONVERGED_STEPS = 400


@dataclass(frozen=True)
class Cost:
    """The cost of a sample: sequential rounds, network calls, error, and seconds; None where they were not measured."""

    rounds: int
    calls: int
    error: float | None
    seconds: float | None


@dataclass(frozen=True)
class Baselines:
    """Measurements on `samples`, all solved in one batch.

    `own_error` is the error of the run's samples, `step_by_step` the cost of their chain step by step and `path_error` the
    distance between both (the last two are None for collocation, which has no steps). `ladder` is DPM-Solver++(2M) with
    increasing numbers of steps, and `converged_error` the error of the solution that its errors refer to. `deterministic` tells
    whether `own_error` refers to that solution too, and `where` names the machine of the baselines.
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
        """DPM-Solver++(2M) with the fewest steps whose error is at most `error`; None if no rung of the ladder reaches it."""
        return next((cost for cost in self.ladder if cost.error is not None and cost.error <= error), None)


Dpm = Callable[[int, int], tuple[Tensor, Cost]]  # DPM-Solver++(2M) by its steps, and how many solutions are done before


@torch.no_grad()
def measure(sampler: Sampler, process: Process, own: Tensor, samples: Sequence[int], *, tol: float) -> Baselines:
    """Solve the given samples again with the baselines; `own` [samples, *event] are the end states of the run.

    The ladder ends when both `tol` and the run's own error are reached. Progress is logged. This is not
    collective: every rank repeats the work.
    """
    progress = Progress(3 + len(LADDER), unit="solutions", interval=10, enabled=True)

    def dpm(steps: int, done: int) -> tuple[Tensor, Cost]:
        progress.show(done, f"DPM-Solver++(2M) with {steps} steps")
        return _dpm(sampler, process, steps, samples)

    with progress:
        return _measured(sampler, own, samples, dpm, progress, tol=tol)


def _measured(sampler: Sampler, own: Tensor, samples: Sequence[int], dpm: Dpm, progress: Progress, *, tol: float) -> Baselines:
    converged, rough = dpm(CONVERGED_STEPS, 0)[0], dpm(CONVERGED_STEPS // 2, 1)[0]
    distance = _Distance(sampler)
    deterministic = not sampler.chain.stochastic and sampler.options.corrector is None
    path_error, step_by_step = None, None
    if sampler.chain.sequential_rounds is not None:
        progress.show(2, "the chain step by step")
        chain, cost = _solve(replace(sampler, options=replace(sampler.options, solver="sequential")), samples)
        path_error = distance(own, chain)
        step_by_step = replace(cost, error=distance(chain, converged) if deterministic else 0.0)
    own_error = distance(own, converged) if path_error is None or deterministic else path_error
    ladder: list[Cost] = []
    for done, steps in enumerate(LADDER, start=3):
        x, cost = dpm(steps, done)
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
        # the solver is of second order, so halving the step quarters the error
        converged_error=distance(rough, converged) / 3,
    )


class _Distance:
    """Root mean square difference of states over all samples and the pixels with data."""

    def __init__(self, sampler: Sampler):
        ones = torch.ones(1, *sampler.event_shape, dtype=torch.float64)
        mask = ones if sampler.project is None else sampler.project(ones.to(sampler.device)).cpu()
        self.share = float(mask.mean())

    def __call__(self, a: Tensor, b: Tensor) -> float:
        difference = a.to(torch.float64) - b.to(torch.float64)
        return float(torch.sqrt(difference.square().mean() / self.share))


def _dpm(sampler: Sampler, process: Process, steps: int, samples: Sequence[int]) -> tuple[Tensor, Cost]:
    """End states and cost of DPM-Solver++(2M) between the run's own end points, uniform in log-SNR as published."""
    ends = forward_time(process, sampler.chain.t[[0, -1]])
    chain = dpmpp_2m(process, log_snr(process, steps, horizon=float(ends[0]), delta=float(ends[1])))
    options = Options(solver="sequential", model_batch=sampler.options.model_batch, scale=sampler.options.scale)
    return _solve(replace(sampler, chain=chain, options=options), samples)


def _solve(sampler: Sampler, samples: Sequence[int]) -> tuple[Tensor, Cost]:
    start = time.perf_counter()
    solution = sampler.draw(samples)
    # fetching the result also waits for a device that works asynchronously
    x = solution.x.cpu()
    seconds = (time.perf_counter() - start) / len(samples)
    return x, Cost(int(solution.rounds.max()), int(solution.calls.max()), None, seconds)
