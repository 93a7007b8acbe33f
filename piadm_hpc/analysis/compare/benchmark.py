"""The cost of sampling methods at equal error: rounds, network calls and seconds.

Errors of the probability flow are distances to a converged solution, errors of a stochastic chain distances to the same
chain step by step. A sequential method takes the fewest steps that reach the error. A parallel method runs with the loosest of a
few tolerances that reaches it, so that all methods have the same hindsight; for the flow its chain has the fewest steps whose
error is a given share. Rounds count until a method stops by itself; the rounds of the smallest fixed depth that
reaches the error are given too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...run.resolve import collocation_span
from ...solvers.collocation import Collocation
from ...solvers.errors import ScoreError
from ...solvers.resolution import stretched
from ...solvers.scheme import Scheme
from ...solvers.solve import Solution
from .task import Task

CONVERGED = 256  # steps of the solution that counts as the converged flow
SHARE = 0.7  # share of the error that the chain of a parallel method may have
LADDER = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class Benchmark:
    """The terms of a comparison: an error, for the flow or for a stochastic chain of `steps` steps.

    At most `most` steps are tried for the flow. With `hindsight` the smallest fixed depth that reaches the error is determined
    too, for which every parallel method runs several more times.
    """

    task: Task
    tol: float
    sde: bool
    steps: int = 64
    most: int = 512
    hindsight: bool = True

    @property
    def eta(self) -> float:
        return 1.0 if self.sde else 0.0

    def truth(self, chain: Scheme) -> Tensor:
        """The converged flow, or the samples of a stochastic chain step by step, [samples, *event]."""
        if not self.sde or not chain.stochastic:
            return self.flow(CONVERGED)
        known = self.task.memory.setdefault("steps", {})
        if id(chain) not in known:
            known[id(chain)] = chain, self.task.solve(chain, solver="sequential")[0].x
        return known[id(chain)][1]  # type: ignore[no-any-return]

    def flow(self, steps: int) -> Tensor:
        if ("flow", steps) not in self.task.memory:
            chain = self.task.chain("gaussian-ab2", steps, eta=0.0)
            self.task.memory["flow", steps] = self.task.solve(chain, solver="sequential")[0].x
        return self.task.memory["flow", steps]  # type: ignore[no-any-return]

    def floor(self) -> float:
        """Error of the converged flow itself; the solver is of second order, so halving its step quarters the error."""
        return 0.0 if self.sde else rms(self.task.error(self.flow(CONVERGED // 2), self.flow(CONVERGED))) / 3

    def sequential(self, integrator: str, steps: int, kind: str) -> tuple[float, float, int]:
        """Error, seconds and network calls per sample of an integrator step by step."""
        key = ("sequential", integrator, steps, kind)
        if key not in self.task.memory:
            chain = self.task.chain(integrator, steps, eta=0.0, kind=kind)
            solution, seconds = self.task.solve(chain, solver="sequential")
            self.task.memory[key] = (rms(self.task.error(solution.x, self.truth(chain))), seconds, chain.num_steps)
        return self.task.memory[key]  # type: ignore[no-any-return]

    def fewest(self, integrator: str, error: float, kind: str = "log-snr", most: int | None = None) -> int | None:
        """The fewest steps, to one in twelve, whose error is at most `error`; None if `most` steps are not enough."""
        enough, most = 2, most or self.most
        while self.sequential(integrator, enough, kind)[0] > error:
            if enough >= most:
                return None
            enough = min(2 * enough, most)
        low, high = enough // 2, enough
        while high - low > max(1, high // 12):
            middle = (low + high) // 2
            low, high = (low, middle) if self.sequential(integrator, middle, kind)[0] <= error else (middle, high)
        return high


@dataclass(frozen=True)
class Row:
    """One method: its chain, median and largest rounds of a sample, median calls, error, and seconds for all samples.

    `setting` is its tolerance or depth, and `fewest` the rounds of the smallest fixed depth that reaches the error (None
    without such a depth, or without `hindsight`). `projected` are seconds per sample by number of accelerators.
    """

    method: str
    chain: str
    steps: int
    setting: str
    rounds: float
    most_rounds: int
    fewest: float | None
    calls: float
    error: float
    seconds: float
    projected: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A method of the table; `run` returns its row, or None if the method does not reach the error.

    `flow` and `random` say whether it applies to the flow and to stochastic chains.
    """

    name: str
    run: Callable[[Benchmark], Row | None]
    flow: bool = True
    random: bool = True


def rms(errors: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(float(errors.square().mean()))


def step_by_step(integrator: str, benchmark: Benchmark, *, name: str, kind: str = "log-snr") -> Row | None:
    """The row of a sequential method with the fewest steps, or of a stochastic chain step by step."""
    if benchmark.sde:
        chain = benchmark.task.chain(integrator, benchmark.steps, eta=1.0)
        _, seconds = benchmark.task.solve(chain, solver="sequential")
        steps, error, calls = benchmark.steps, 0.0, benchmark.steps
    else:
        fewest = benchmark.fewest(integrator, benchmark.tol, kind)
        if fewest is None:
            return None
        steps, (error, seconds, calls) = fewest, benchmark.sequential(integrator, fewest, kind)
    return Row(name, integrator, steps, "-", calls, calls, calls, calls, error, seconds)


Count = Callable[[int, Solution], Tensor]  # rounds of every sample, from the number of steps and a solution


def in_parallel(
    integrator: str,
    benchmark: Benchmark,
    *,
    name: str,
    count: Count | None = None,
    ladder: Sequence[float] = LADDER,
    fixed: dict[str, Any] | None = None,
    **settings: Any,
) -> Row | None:
    """The row of a parallel method on the chain of an integrator, at the loosest tolerance of `ladder` that reaches the error.

    `count` computes rounds from a solution where its own count does not apply; `fixed` are the settings with which the method
    makes the same sweeps to a fixed depth, None where it has no fixed depth.
    """
    steps = benchmark.steps if benchmark.sde else benchmark.fewest(integrator, SHARE * benchmark.tol)
    if steps is None:
        return None
    chain = benchmark.task.chain(integrator, steps, eta=benchmark.eta)
    for share in ladder:
        solution, error, seconds = _attempt(benchmark, chain, tol=share * benchmark.tol, **settings)
        if solution is None or error > benchmark.tol:
            continue
        rounds = solution.rounds if count is None else count(steps, solution)
        at_depth = None
        if fixed is not None and benchmark.hindsight:
            at_depth = _fewest_depth(benchmark, chain, solution, **{**settings, **fixed})
        fewest = None if at_depth is None else at_depth.rounds if count is None else count(steps, at_depth)
        return _row((name, integrator, steps, f"tol {share * benchmark.tol:.3g}"), rounds, fewest, solution.calls, error, seconds)
    return None


def collocated(benchmark: Benchmark, *, name: str) -> Row | None:
    """The row of collocation at the loosest tolerance that reaches the error, with the points of a run at that tolerance."""
    task = benchmark.task
    for share in LADDER:
        begin, points = collocation_span(task.reference, share * benchmark.tol, *task.ends)
        scheme = Collocation(task.process, task.reference, begin, task.ends[1], points)
        scheme = stretched(scheme, task.reference.smoothness)
        solution, error, seconds = _attempt(benchmark, scheme, tol=share * benchmark.tol)
        if solution is not None and error <= benchmark.tol:
            depth = _fewest_depth(benchmark, scheme, solution) if benchmark.hindsight else None
            words = (name, "collocation", points, f"tol {share * benchmark.tol:.3g}")
            return _row(words, solution.rounds, None if depth is None else depth.rounds, solution.calls, error, seconds)
    return None


def as_published(benchmark: Benchmark, *, name: str) -> Row | None:
    """The row of PIADM with its own integrator, grid, blocks and fixed depth: the fewest steps, then the fewest sweeps."""
    task, per_block = benchmark.task, 1
    if benchmark.sde:
        while task.grid("piadm", per_block).num_steps < benchmark.steps:
            per_block += 1
    else:
        most = max(2, benchmark.most // (len(task.grid("piadm", 1).edges) - 1))
        enough = benchmark.fewest("piadm", SHARE * benchmark.tol, "piadm", most)
        if enough is None:
            return None
        per_block = enough
    chain, depth = task.chain("piadm", per_block, eta=benchmark.eta, kind="piadm"), 1
    while depth <= chain.num_steps:
        solution, error, seconds = _attempt(benchmark, chain, tol=None, sweeps=depth, linear="process", start="constant")
        if solution is not None and error <= benchmark.tol:
            words = (name, "piadm", chain.num_steps, f"{depth} sweeps")
            return _row(words, solution.rounds, solution.rounds, solution.calls, error, seconds)
        depth += max(1, depth // 8)
    return None


def _attempt(benchmark: Benchmark, scheme: Scheme, **settings: Any) -> tuple[Solution | None, float, float]:
    """A solution, its error and its seconds; None and infinite values where iterates overflow."""
    try:
        solution, seconds = benchmark.task.solve(scheme, **settings)
    except ScoreError:
        return None, math.inf, math.inf
    return solution, rms(benchmark.task.error(solution.x, benchmark.truth(scheme))), seconds


def _fewest_depth(benchmark: Benchmark, scheme: Scheme, stopped: Solution, **settings: Any) -> Solution | None:
    """The solution of the smallest fixed depth that reaches the error; the search starts at the method's own stop."""
    settings.pop("tol", None)
    depth, best = max(1, int(stopped.sweeps.sum(1).to(torch.float64).median())), None
    limit = int(stopped.sweeps.sum(1).max()) + 1
    solution, error, _ = _attempt(benchmark, scheme, tol=None, sweeps=depth, **settings)
    while error > benchmark.tol and depth < limit:
        depth += 1
        solution, error, _ = _attempt(benchmark, scheme, tol=None, sweeps=depth, **settings)
    while error <= benchmark.tol:
        best = solution
        depth -= 1
        if depth == 0:
            break
        solution, error, _ = _attempt(benchmark, scheme, tol=None, sweeps=depth, **settings)
    return best


def _row(
    words: tuple[str, str, int, str], rounds: Tensor, fewest: Tensor | None, calls: Tensor, error: float, seconds: float
) -> Row:
    least = None if fewest is None else _middle(fewest)
    return Row(*words, _middle(rounds), int(rounds.max()), least, _middle(calls), error, seconds)


def _middle(values: Tensor) -> float:
    return float(values.to(torch.float64).quantile(0.5))
