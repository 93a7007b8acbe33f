"""Every way to make the same samples at equal error: rounds, network calls, time here, and time on many accelerators.

The probability flow is held against a converged solution, a stochastic chain against itself step by step. A sequential
method takes the fewest steps whose error is small enough. A parallel one takes, of a few tolerances, the loosest that
reaches the error, so that all are treated with the same hindsight; for the flow its chain has the fewest steps that
leave it a share of the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..chain import Chain
from ..solvers.peers import PeerSettings
from .task import Task

CONVERGED = 256  # steps of the flow that stands for the converged one
SHARE = 0.7  # of the error that a parallel method leaves to its chain
LADDER = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class Contest:
    """What is asked: an error, the flow or a stochastic chain of `steps` steps, and at most `most` steps tried."""

    task: Task
    tol: float
    sde: bool
    steps: int = 64
    most: int = 512

    @property
    def churn(self) -> float:
        return 1.0 if self.sde else 0.0

    def truth(self, chain: Chain) -> Tensor:
        """The converged flow, or for a stochastic chain its own samples step by step."""
        if not self.sde:
            return self.flow(CONVERGED)
        key = ("steps", chain.num_steps, chain.edges, float(chain.P.sum()), float(chain.noise.sum()))
        if key not in self.task.memory:
            self.task.memory[key] = self.task.solve(chain, solver="sequential")[0].x
        return self.task.memory[key]  # type: ignore[no-any-return]

    def flow(self, steps: int) -> Tensor:
        if ("flow", steps) not in self.task.memory:
            chain = self.task.chain("gaussian-ab2", steps, churn=0.0)
            self.task.memory["flow", steps] = self.task.solve(chain, solver="sequential")[0].x
        return self.task.memory["flow", steps]  # type: ignore[no-any-return]

    def floor(self) -> float:
        """Error of the converged flow itself: of second order, so that halving the step quarters it."""
        return 0.0 if self.sde else rms(self.task.error(self.flow(CONVERGED // 2), self.flow(CONVERGED))) / 3

    def sequential(self, integrator: str, steps: int, kind: str) -> tuple[float, float, int]:
        """Error, seconds and network calls of an integrator step by step."""
        key = ("sequential", integrator, steps, kind)
        if key not in self.task.memory:
            chain = self.task.chain(integrator, steps, churn=0.0, kind=kind)
            found, seconds = self.task.solve(chain, solver="sequential")
            self.task.memory[key] = (rms(self.task.error(found.x, self.truth(chain))), seconds, chain.num_steps)
        return self.task.memory[key]  # type: ignore[no-any-return]

    def fewest(self, integrator: str, error: float, kind: str = "log-snr") -> int | None:
        """The fewest steps with at most so large an error, by bisection; None when `most` are not enough."""
        enough = 2
        while self.sequential(integrator, enough, kind)[0] > error:
            if enough >= self.most:
                return None
            enough = min(2 * enough, self.most)
        low, high = enough // 2, enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.sequential(integrator, middle, kind)[0] <= error else (middle, high)
        return high


@dataclass(frozen=True)
class Row:
    """One method: its chain, the rounds and calls of a sample (median and most), its error, and seconds.

    `setting` is the tolerance or depth it was given. `projected` are seconds a sample on so many accelerators.
    """

    method: str
    chain: str
    steps: int
    setting: str
    rounds: float
    most_rounds: int
    calls: float
    error: float
    seconds: float
    projected: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A method of the table; `run` gives its row, or None when it does not reach the error."""

    name: str
    run: Callable[[Contest], Row | None]
    flow: bool = True
    random: bool = True


def rms(errors: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(float(errors.square().mean()))


def step_by_step(integrator: str, contest: Contest, *, name: str, kind: str = "log-snr") -> Row | None:
    """A sequential method with the fewest steps; of a stochastic chain, the chain itself."""
    if contest.sde:
        chain = contest.task.chain(integrator, contest.steps, churn=1.0)
        _, seconds = contest.task.solve(chain, solver="sequential")
        steps, error, calls = contest.steps, 0.0, contest.steps
    else:
        found = contest.fewest(integrator, contest.tol, kind)
        if found is None:
            return None
        steps, (error, seconds, calls) = found, contest.sequential(integrator, found, kind)
    return Row(name, integrator, steps, "-", calls, calls, calls, error, seconds)


def in_parallel(
    integrator: str, contest: Contest, *, name: str, pipelined: bool = False, ladder: Sequence[float] = LADDER, **settings: Any
) -> Row | None:
    """A parallel method on the chain of an integrator, with the loosest tolerance of the ladder that reaches the error."""
    steps = contest.steps if contest.sde else contest.fewest(integrator, SHARE * contest.tol)
    if steps is None:
        return None
    chain = contest.task.chain(integrator, steps, churn=contest.churn)
    for share in ladder:
        tol = share * contest.tol
        found, seconds = contest.task.solve(chain, tol=tol, **settings)
        error = rms(contest.task.error(found.x, contest.truth(chain)))
        if error <= contest.tol:
            rounds = found.rounds
            if pipelined:
                # a part starts its fine steps as soon as the one before is corrected (Selvam et al. 2024, figure 3)
                parts = round(math.sqrt(steps))
                rounds = parts + found.sweeps[:, 0] * (math.ceil(steps / parts) - 1)
            return _row(name, integrator, steps, f"tol {tol:.3g}", rounds, found.calls, error, seconds)
    return None


def as_published(contest: Contest, *, name: str) -> Row | None:
    """PIADM's integrator, grid, blocks and fixed depth: the fewest steps, then the fewest sweeps, that reach the error."""
    per_block: int | None = contest.steps if contest.sde else contest.fewest("piadm", SHARE * contest.tol, "piadm")
    if per_block is None:
        return None
    per_block = max(1, contest.steps // 8) if contest.sde else per_block
    chain = contest.task.chain("piadm", per_block, churn=contest.churn, kind="piadm")
    truth, depth = contest.truth(chain), 1
    while depth <= contest.most:
        found, seconds = contest.task.solve(chain, tol=None, sweeps=depth, linear="process", start="constant")
        error = rms(contest.task.error(found.x, truth))
        if error <= contest.tol:
            return _row(name, "piadm", chain.num_steps, f"{depth} sweeps", found.rounds, found.calls, error, seconds)
        depth += max(1, depth // 8)
    return None


def _row(
    name: str, integrator: str, steps: int, setting: str, rounds: Tensor, calls: Tensor, error: float, seconds: float
) -> Row:
    middle = (float(values.to(torch.float64).quantile(0.5)) for values in (rounds, calls))
    median_rounds, median_calls = middle
    return Row(name, integrator, steps, setting, median_rounds, int(rounds.max()), median_calls, error, seconds)


def _sequential(name: str, integrator: str, *, kind: str = "log-snr") -> Entry:
    return Entry(name, partial(step_by_step, integrator, name=name, kind=kind), random=False)


def _parallel(name: str, flow: str | None, random: str | None, **settings: Any) -> Entry:
    """A scheme on the chain of one integrator for the flow and of another for a stochastic chain."""

    def run(contest: Contest) -> Row | None:
        return in_parallel(str(random if contest.sde else flow), contest, name=name, **settings)

    return Entry(name, run, flow is not None, random is not None)


MULTI, BLIND = "dpmpp-2m", {"start": "constant"}
METHODS: tuple[Entry, ...] = (
    _sequential("DDIM", "ddim"),
    _sequential("EDM Heun", "heun", kind="karras"),
    _sequential("DPM-Solver++(2M)", MULTI),
    _sequential("Gaussian-aware two-step", "gaussian-ab2"),
    Entry("DDPM", partial(step_by_step, "ddpm", name="DDPM"), flow=False),
    Entry("PIADM as published", partial(as_published, name="PIADM as published")),
    _parallel("ParaDiGMS, DDIM", "ddim", None, solver="paradigms", ladder=(30.0, 10.0, *LADDER)),
    _parallel("ParaDiGMS", MULTI, "ddpm", solver="paradigms", ladder=(30.0, 10.0, *LADDER)),
    _parallel("ParaDiGMS, window 32", MULTI, "ddpm", solver="paradigms", window=32, ladder=(30.0, 10.0, *LADDER)),
    _parallel("ParaTAA, DDIM", "ddim", None, solver="anderson", linear="process", peer=PeerSettings(memory=3), **BLIND),
    _parallel("ParaTAA", MULTI, "ddpm", solver="anderson", linear="denoised", peer=PeerSettings(memory=3), **BLIND),
    _parallel("SRDS, DDIM", "ddim", None, solver="parareal"),
    _parallel("SRDS", MULTI, "ddpm", solver="parareal"),
    _parallel("SRDS, pipelined", MULTI, "ddpm", solver="parareal", pipelined=True),
    _parallel("parareal, Gaussian coarse", "gaussian-ab2", "ddpm", solver="parareal", peer=PeerSettings(coarse="reference")),
    _parallel("quasi-Newton", MULTI, "ddpm", solver="newton", linear="denoised", **BLIND),
    _parallel("CHORDS, 8 cores, DDIM", "ddim", None, solver="chords"),
    _parallel("CHORDS, 8 cores", MULTI, None, solver="chords"),
    _parallel("ours", "gaussian-ab2", "gaussian"),
    _parallel("ours, peers' chain", MULTI, "ddpm"),
)


def compare(
    contest: Contest, ranks: Sequence[int], *, latency: float, bandwidth: float, tell: Callable[[str], None]
) -> list[Row]:
    """The rows of all methods that reach the error. `tell` hears of each as it is done."""
    rows = []
    for entry in METHODS:
        if not (entry.random if contest.sde else entry.flow):
            continue
        row = entry.run(contest)
        if row is None:
            tell(f"{entry.name}: not reached with {contest.most} steps")
            continue
        for count in ranks:
            row.projected[count] = projected(contest.task, row, count, latency=latency, bandwidth=bandwidth)
        tell(f"{row.method}: {row.rounds:g} rounds, {row.calls:g} calls, error {row.error:.2g}")
        rows.append(row)
    return rows


def projected(task: Task, row: Row, accelerators: int, *, latency: float, bandwidth: float) -> float:
    """Seconds for one sample: rounds x (a call of ceil(points / P) rows + log2(P) messages of one state).

    `points` are the calls of a round. A message takes `latency` seconds and the state's bytes over `bandwidth`; a call's
    time is measured on this machine.
    """
    points = row.calls / max(row.rounds, 1.0)
    rows = max(1, math.ceil(points / accelerators))
    size = len(task.reference.mean) * torch.finfo(task.dtype).bits // 8
    hops = math.ceil(math.log2(accelerators)) if points > 1 else 0
    return row.rounds * (task.call_seconds(rows) + hops * (latency + size / bandwidth))
