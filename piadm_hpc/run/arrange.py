"""The best arrangement of a chain's points for given ranks and memory: one block, several blocks, a window, or pipelined."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .build import with_equal_blocks
from .resolve import ResolvedRun

GIGABYTE = 1e9
NARROWEST = 8  # points of a window: a narrower one saves few calls and costs many rounds
MOST_FRONTS = 8

# bytes of a rank with (points of a block, samples solved at once)
Memory = Callable[[int, int], int]


@dataclass(frozen=True)
class Arrangement:
    """Settings (key, value) to change, None to remove one, and the reason."""

    why: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        words = [f"--set {key}={_text(value)}" if value is not None else f"without {key}" for key, value in self.settings]
        return f"{self.why}\n                   {' '.join(words)}" if words else f"{self.why}, as it is set"


def arrange(resolved: ResolvedRun, *, time_ranks: int, batch: int, memory: Memory, available: int) -> Arrangement:
    """Choose the arrangement with the fewest rounds that fits into `available` bytes of each of `time_ranks` time ranks.

    The rules follow measurements with exact scores (docs/scale.md). If memory is short, fewer samples are solved at once, and
    then the chain is cut into blocks. If there are fewer ranks than points, a window is as wide as the ranks allow, or a front
    is pipelined at a fixed depth, with which no window moves; a run that evaluates every second point by turns needs neither.
    """
    config, sampler = resolved.config, resolved.sampler
    if config.solver.kind == "sequential":
        return Arrangement("step by step, as asked: nothing to arrange")
    steps = sampler.chain.num_steps
    share = -(-steps // time_ranks)
    at_once = next((n for n in range(batch, 0, -1) if memory(share, n) <= available), 0)
    if at_once == 0:
        return _in_blocks(resolved, time_ranks=time_ranks, whole=memory(share, 1), memory=memory, available=available)
    fewer = [] if at_once >= min(batch, config.compute.in_flight or batch) else [("compute.in_flight", at_once)]
    room = f"; {at_once} of {batch} samples at once, all need {memory(share, batch) / GIGABYTE:.1f} GB a rank" if fewer else ""
    if sampler.chain.sequential_rounds is None:
        return Arrangement(f"collocation, all {steps} points at once{room}", tuple(fewer))
    why, wanted = _schedule(resolved, time_ranks)
    return Arrangement(why + room, (*_changed(resolved, wanted), *fewer))


def _schedule(resolved: ResolvedRun, time_ranks: int) -> tuple[str, dict[str, Any]]:
    """The points that a sweep evaluates, if the whole chain fits into memory."""
    config, chain = resolved.config, resolved.scheme
    steps = chain.num_steps
    width = time_ranks * -(-NARROWEST // time_ranks)
    shared = f"{_ranks(time_ranks)} for {steps} points"
    one = {"grid.blocks": 1, "solver.window": None, "solver.pipelined": False}
    if width >= steps:
        return f"one block, the fewest rounds: {shared}", one
    if config.solver.alternate:
        return f"one block, every second point by turns: {shared}", one
    if config.corrector.enabled or not chain.knows_levels:
        reason = "a corrector follows whole blocks" if config.corrector.enabled else "this chain has no levels to predict by"
        return f"one block, the fewest rounds: {reason}, so no window", one
    if config.solver.fixed_depth:
        fronts = min(MOST_FRONTS, -(-steps // width))
        why = f"pipelined over {fronts} blocks of equal Lambda: {shared}, and a fixed depth moves no window"
        return why, {"grid.blocks": fronts, "solver.window": None, "solver.pipelined": True}
    why = f"a window of {width}: {shared}, and evaluations far ahead would be wasted"
    return why, {**one, "solver.window": width}


def _in_blocks(resolved: ResolvedRun, *, time_ranks: int, whole: int, memory: Memory, available: int) -> Arrangement:
    """The fewest blocks of equal Lambda, one after the other, of which the longest fits into memory."""
    need = f"one sample needs {whole / GIGABYTE:.1f} GB a rank, there are {available / GIGABYTE:.1f}"
    if resolved.scheme.sequential_rounds is None:
        return Arrangement(f"does not fit: {need}; fewer grid.steps, or a chain of steps in blocks (chain.integrator=gaussian)")
    for count in range(2, resolved.scheme.num_steps // time_ranks + 1):
        lengths = [len(block) for block in with_equal_blocks(resolved.grid, resolved.model.process, count).blocks()]
        if min(lengths) < time_ranks:
            break
        if memory(-(-max(lengths) // time_ranks), 1) <= available:
            blocks = {"grid.blocks": len(lengths), "solver.window": None, "solver.pipelined": False}
            why = f"{len(lengths)} blocks of equal Lambda, one after the other, a sample at a time: {need}"
            alone = [] if resolved.config.compute.in_flight == 1 else [("compute.in_flight", 1)]
            return Arrangement(why, (*_changed(resolved, blocks), *alone))
    return Arrangement(f"does not fit: {need}, and no blocks are small enough; give more time ranks or larger nodes")


def _changed(resolved: ResolvedRun, wanted: dict[str, Any]) -> list[tuple[str, Any]]:
    """Those of the wanted settings that the run does not have yet."""
    solver = resolved.config.solver
    present = {
        "grid.blocks": len(resolved.scheme.edges) - 1,
        "solver.window": solver.window,
        "solver.pipelined": solver.pipelined,
    }
    return [(key, value) for key, value in wanted.items() if present[key] != value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ranks(count: int) -> str:
    return "1 time rank" if count == 1 else f"{count} time ranks"


def memory_of_host(ranks: int) -> int:
    """Bytes of this host's free memory for each of `ranks` ranks, of which at most one per core runs on this host."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return math.floor(free / min(ranks, len(os.sched_getaffinity(0))))
