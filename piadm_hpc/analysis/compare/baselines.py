"""The methods of `piadm compare`, and the comparison itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...solvers.solve import Solution
from .benchmark import LADDER, Benchmark, Entry, Row, as_published, collocated, in_parallel, step_by_step
from .task import Task


def pipelined(steps: int, solution: Solution) -> Tensor:
    """Rounds of parareal if a part starts its fine steps as soon as the part before is corrected (Selvam et al., figure 3)."""
    parts = round(math.sqrt(steps))
    return parts + solution.sweeps[:, 0] * (math.ceil(steps / parts) - 1)


def _sequential(name: str, integrator: str, *, kind: str = "log-snr") -> Entry:
    return Entry(name, partial(step_by_step, integrator, name=name, kind=kind), random=False)


def _parallel(name: str, flow: str | None, random: str | None, **settings: Any) -> Entry:
    """A parallel solver on the chain of one integrator for the flow, and of another for the SDE; None if it has none."""

    def run(benchmark: Benchmark) -> Row | None:
        return in_parallel(str(random if benchmark.sde else flow), benchmark, name=name, **settings)

    return Entry(name, run, flow is not None, random is not None)


MULTI, BLIND = "dpmpp-2m", {"start": "constant"}
SHIH: dict[str, Any] = {"solver": "paradigms", "ladder": (32.0, *LADDER)}
PLAIN: dict[str, Any] = {
    "solver": "picard",
    "linear": "identity",
    "start": "constant",
}  # the same sweeps without its rule for windows
TAA: dict[str, Any] = {"solver": "anderson", "memory": 3, "fixed": {}, **BLIND}
SRDS: dict[str, Any] = {"solver": "parareal", "fixed": {}}
METHODS: tuple[Entry, ...] = (
    Entry("piadm_hpc", partial(collocated, name="piadm_hpc"), random=False),
    _parallel("piadm_hpc", None, "gaussian", fixed={}),
    _parallel("piadm_hpc, sweeps over steps", "gaussian-ab2", None, fixed={}),
    _parallel("piadm_hpc, baselines' chain", MULTI, "ddpm", fixed={}),
    _sequential("Gaussian-aware two-step", "gaussian-ab2"),
    _sequential("DPM-Solver++(2M)", MULTI),
    _sequential("EDM Heun", "heun", kind="karras"),
    _sequential("DDIM", "ddim"),
    Entry("DDPM", partial(step_by_step, "ddpm", name="DDPM"), flow=False),
    _parallel("quasi-Newton", MULTI, "ddpm", solver="newton", linear="denoised", fixed={}, **BLIND),
    _parallel("ParaTAA", MULTI, "ddpm", linear="denoised", **TAA),
    _parallel("ParaDiGMS", MULTI, "ddpm", fixed=PLAIN, **SHIH),
    _parallel("ParaDiGMS, window 32", MULTI, "ddpm", window=32, **SHIH),
    _parallel("SRDS", MULTI, "ddpm", **SRDS),
    _parallel("SRDS, pipelined", MULTI, "ddpm", count=pipelined, **SRDS),
    _parallel("parareal, Gaussian coarse", "gaussian-ab2", "ddpm", coarse="reference", **SRDS),
    _parallel("CHORDS, 8 cores", MULTI, None, solver="chords"),
    Entry("PIADM as published", partial(as_published, name="PIADM as published")),
    _parallel("ParaTAA, DDIM", "ddim", None, linear="process", **TAA),
    _parallel("ParaDiGMS, DDIM", "ddim", None, fixed=PLAIN, **SHIH),
    _parallel("SRDS, DDIM", "ddim", None, **SRDS),
    _parallel("CHORDS, 8 cores, DDIM", "ddim", None, solver="chords"),
)


def compare(
    benchmark: Benchmark,
    ranks: Sequence[int],
    *,
    methods: Sequence[Entry] = METHODS,
    latency: float,
    bandwidth: float,
    log: Callable[[str], None],
) -> Iterator[Row]:
    """Yield the rows of all methods that reach the error, one after the other; `log` is called with a line for each."""
    for entry in methods:
        if not (entry.random if benchmark.sde else entry.flow):
            continue
        row = entry.run(benchmark)
        if row is None:
            log(f"{entry.name}: not reached with {benchmark.most} steps")
            continue
        for count in ranks:
            row.projected[count] = projected(benchmark.task, row, count, latency=latency, bandwidth=bandwidth)
        log(f"{row.method}: {row.rounds:g} rounds, {row.calls:g} calls, error {row.error:.2g}")
        yield row


def projected(task: Task, row: Row, accelerators: int, *, latency: float, bandwidth: float) -> float:
    """Projected seconds per sample on P accelerators: rounds x (one call of ceil(points / P) rows + log2(P) messages).

    `points` are the calls per round. A message of one state takes `latency` seconds plus its bytes over `bandwidth`; the
    time of a call is measured on this machine.
    """
    points = row.calls / max(row.rounds, 1.0)
    rows = max(1, math.ceil(points / accelerators))
    size = len(task.reference.mean) * torch.finfo(task.dtype).bits // 8
    hops = math.ceil(math.log2(accelerators)) if points > 1 else 0
    return row.rounds * (task.call_seconds(rows) + hops * (latency + size / bandwidth))
