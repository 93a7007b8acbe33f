"""Every way to make the same samples at equal error: rounds, network calls, time here, and time on many accelerators.

The probability flow is held against a converged solution, a stochastic chain against itself step by step. A sequential
method takes the fewest steps whose error is small enough. A parallel one takes, of a few tolerances, the loosest that
reaches the error, so that all are treated with the same hindsight; for the flow its chain has the fewest steps that
leave it a share of the error. Rounds are those after which a method stops by itself, and beside them the fewest after which
its samples are good enough, had it known.
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
from ...solvers.scheme import Scheme
from ...solvers.solve import Solution
from .task import Task

CONVERGED = 256  # steps of the flow that stands for the converged one
SHARE = 0.7  # of the error that a parallel method leaves to its chain
LADDER = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class Benchmark:
    """What is asked: an error, the flow or a stochastic chain of `steps` steps, and at most `most` steps tried.

    `hindsight` asks for the rounds of the smallest fixed depth too, for which every scheme runs several times more.
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
        """The converged flow, or for a stochastic chain its own samples step by step."""
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
        """Error of the converged flow itself: of second order, so that halving the step quarters it."""
        return 0.0 if self.sde else rms(self.task.error(self.flow(CONVERGED // 2), self.flow(CONVERGED))) / 3

    def sequential(self, integrator: str, steps: int, kind: str) -> tuple[float, float, int]:
        """Error, seconds and network calls of an integrator step by step."""
        key = ("sequential", integrator, steps, kind)
        if key not in self.task.memory:
            chain = self.task.chain(integrator, steps, eta=0.0, kind=kind)
            found, seconds = self.task.solve(chain, solver="sequential")
            self.task.memory[key] = (rms(self.task.error(found.x, self.truth(chain))), seconds, chain.num_steps)
        return self.task.memory[key]  # type: ignore[no-any-return]

    def fewest(self, integrator: str, error: float, kind: str = "log-snr", most: int | None = None) -> int | None:
        """The fewest steps, to one in twelve, with at most so large an error; None when `most` are not enough."""
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
    """One method: its chain, the rounds and calls of a sample (median and most), its error, and seconds.

    `setting` is the tolerance or depth it was given; `fewest` the rounds of the smallest fixed depth that reaches the error,
    None where there is none or it was not asked for. `projected` are seconds a sample on so many accelerators.
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
    """A method of the table; `run` gives its row, or None when it does not reach the error."""

    name: str
    run: Callable[[Benchmark], Row | None]
    flow: bool = True
    random: bool = True


def rms(errors: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(float(errors.square().mean()))


def step_by_step(integrator: str, benchmark: Benchmark, *, name: str, kind: str = "log-snr") -> Row | None:
    """A sequential method with the fewest steps; of a stochastic chain, the chain itself."""
    if benchmark.sde:
        chain = benchmark.task.chain(integrator, benchmark.steps, eta=1.0)
        _, seconds = benchmark.task.solve(chain, solver="sequential")
        steps, error, calls = benchmark.steps, 0.0, benchmark.steps
    else:
        found = benchmark.fewest(integrator, benchmark.tol, kind)
        if found is None:
            return None
        steps, (error, seconds, calls) = found, benchmark.sequential(integrator, found, kind)
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
    """A parallel method on the chain of an integrator, with the loosest tolerance of the ladder that reaches the error.

    `count` replaces the rounds counted as run; `fixed` are the settings that make the same sweeps to a fixed depth.
    """
    steps = benchmark.steps if benchmark.sde else benchmark.fewest(integrator, SHARE * benchmark.tol)
    if steps is None:
        return None
    chain = benchmark.task.chain(integrator, steps, eta=benchmark.eta)
    for share in ladder:
        found, error, seconds = _attempt(benchmark, chain, tol=share * benchmark.tol, **settings)
        if found is None or error > benchmark.tol:
            continue
        rounds = found.rounds if count is None else count(steps, found)
        at_depth = None
        if fixed is not None and benchmark.hindsight:
            at_depth = _fewest_depth(benchmark, chain, found, **{**settings, **fixed})
        fewest = None if at_depth is None else at_depth.rounds if count is None else count(steps, at_depth)
        return _row((name, integrator, steps, f"tol {share * benchmark.tol:.3g}"), rounds, fewest, found.calls, error, seconds)
    return None


def collocated(benchmark: Benchmark, *, name: str) -> Row | None:
    """Collocation with the points that a run's tolerance gives it, and the loosest tolerance that reaches the error."""
    task = benchmark.task
    for share in LADDER:
        begin, points = collocation_span(task.reference, share * benchmark.tol, *task.ends)
        scheme = Collocation(task.process, task.reference, begin, task.ends[1], points)
        found, error, seconds = _attempt(benchmark, scheme, tol=share * benchmark.tol)
        if found is not None and error <= benchmark.tol:
            depth = _fewest_depth(benchmark, scheme, found) if benchmark.hindsight else None
            words = (name, "collocation", points, f"tol {share * benchmark.tol:.3g}")
            return _row(words, found.rounds, None if depth is None else depth.rounds, found.calls, error, seconds)
    return None


def as_published(benchmark: Benchmark, *, name: str) -> Row | None:
    """PIADM's integrator, grid, blocks and fixed depth: the fewest steps, then the fewest sweeps, that reach the error."""
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
        found, error, seconds = _attempt(benchmark, chain, tol=None, sweeps=depth, linear="process", start="constant")
        if found is not None and error <= benchmark.tol:
            words = (name, "piadm", chain.num_steps, f"{depth} sweeps")
            return _row(words, found.rounds, found.rounds, found.calls, error, seconds)
        depth += max(1, depth // 8)
    return None


def _attempt(benchmark: Benchmark, scheme: Scheme, **settings: Any) -> tuple[Solution | None, float, float]:
    """A solution, its error and the seconds it took; None and infinite errors where iterates overflow on the way."""
    try:
        found, seconds = benchmark.task.solve(scheme, **settings)
    except ScoreError:
        return None, math.inf, math.inf
    return found, rms(benchmark.task.error(found.x, benchmark.truth(scheme))), seconds


def _fewest_depth(benchmark: Benchmark, scheme: Scheme, stopped: Solution, **settings: Any) -> Solution | None:
    """The solution of the smallest fixed depth that reaches the error, sought from where a method stopped by itself."""
    settings.pop("tol", None)
    depth, best = max(1, int(stopped.sweeps.sum(1).to(torch.float64).median())), None
    limit = int(stopped.sweeps.sum(1).max()) + 1
    found, error, _ = _attempt(benchmark, scheme, tol=None, sweeps=depth, **settings)
    while error > benchmark.tol and depth < limit:
        depth += 1
        found, error, _ = _attempt(benchmark, scheme, tol=None, sweeps=depth, **settings)
    while error <= benchmark.tol:
        best = found
        depth -= 1
        if depth == 0:
            break
        found, error, _ = _attempt(benchmark, scheme, tol=None, sweeps=depth, **settings)
    return best


def _row(
    words: tuple[str, str, int, str], rounds: Tensor, fewest: Tensor | None, calls: Tensor, error: float, seconds: float
) -> Row:
    least = None if fewest is None else _middle(fewest)
    return Row(*words, _middle(rounds), int(rounds.max()), least, _middle(calls), error, seconds)


def _middle(values: Tensor) -> float:
    return float(values.to(torch.float64).quantile(0.5))
