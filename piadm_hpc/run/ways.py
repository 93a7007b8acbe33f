"""The ways in which a run can draw its samples, and the wall time that each is predicted to take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch

from ..comm.timing import Network
from ..solvers.sampler import Sampler
from ..solvers.scheme import BlockSolver
from .arrange import NARROWEST, memory_of_host
from .build import ROWS
from .calls import CallTimes
from .effort import Effort, expected_effort, expected_sweeps
from .footprint import bytes_per_sweep, solver_of
from .resolve import ResolvedRun, count_time_ranks

CAP = 3.0  # sweeps and the steps that finish them end within this many times the time of steps alone
BESIDE = 1.1  # a sweep costs about a tenth more than its calls
VARYING = 1.2  # samples take up to a fifth more sweeps than are expected, whereas the number of steps is known
SWEEP = 0.005  # seconds of a sweep in which processors work outside the network, on one core a rank
STORING = 0.02  # seconds in which a batch is compressed, written and renamed
LONGEST = 30.0  # seconds of a batch, unless a single sample takes more: the largest loss by a kill
MOST_ROWS = 4096  # of a timed call
HELD = 1 / 4  # share of a rank's memory that the solver's arrays may take


@dataclass(frozen=True)
class Way:
    """Steps or sweeps, the points open to a sweep (None: all) or evaluated by turns, and the ranks that share a sample."""

    kind: Literal["sequential", "picard"]
    window: int | None
    time_ranks: int
    alternate: bool = False

    def __str__(self) -> str:
        if self.kind == "sequential":
            return "step by step"
        words = "sweeps, every second point by turns" if self.alternate else "sweeps"
        return words if self.window is None else f"sweeps in a window of {self.window}"


@dataclass(frozen=True)
class Predicted:
    """A way with its batch of samples, and the seconds that a run is predicted to take."""

    way: Way
    batch: int
    seconds: float


@dataclass(frozen=True)
class Ways:
    """The ways that are open to a run on `ranks` ranks, `turns` of which share a core."""

    resolved: ResolvedRun
    ranks: int
    network: Network
    turns: float = 1.0

    def fastest(self, times: CallTimes) -> Predicted:
        """The way that is predicted to be the fastest; sweeps must be faster than steps by more than their number may vary."""
        found = [self._batched(way, times) for way in self.all]
        return min(found, key=lambda one: one.seconds * (1.0 if one.way.kind == "sequential" else VARYING))

    def alternative(self, times: CallTimes, way: Way) -> Predicted | None:
        """The fastest in sweeps if `way` is step by step, and the reverse; None if there is none."""
        others = [other for other in self.all if other.kind != way.kind]
        return min((self._batched(other, times) for other in others), key=lambda found: found.seconds, default=None)

    def rows_of_a_call(self, times: CallTimes) -> int:
        """The largest number of rows of a call: as given, else the fastest."""
        given = self.resolved.config.compute.model_batch
        return times.best_rows(untried=self.resolved.sampler.device.startswith("cuda")) if given == "auto" else int(given)

    def most_sweeps(self, chosen: Predicted, times: CallTimes) -> int | None:
        """The largest number of sweeps after which steps can still end within CAP times the time of steps alone.

        None if steps are not possible: for a flow, and if more than one time rank is requested.
        """
        way, steps, stepwise = chosen.way, self.resolved.scheme.num_steps, Way("sequential", None, 1)
        if way.kind == "sequential" or stepwise not in self.all:
            return None
        alone = self._batched(stepwise, times)
        budget = CAP * self._rounds_of(alone, steps, times)
        spent = 0.0
        for sweeps in range(steps):
            open_points = min(way.window or steps, steps - sweeps) / (2 if way.alternate and sweeps else 1)
            spent += self._rounds_of(chosen, 1, times, rows=math.ceil(open_points / way.time_ranks))
            left = self._rounds_of(chosen, steps - sweeps - 1, times, rows=max(1 / way.time_ranks, 1 / chosen.batch))
            if spent + left > budget:
                return max(1, sweeps)
        return steps

    @property
    def rows_are_few(self) -> bool:
        """Whether a single call holds all rows that a rank evaluates at once, or the rows of a call are given."""
        return self.resolved.config.compute.model_batch != "auto" or self.most_rows <= ROWS

    @cached_property
    def most_rows(self) -> int:
        """The largest number of rows that a rank evaluates at once, in any way and batch."""
        return min(MOST_ROWS, max(math.ceil(self._rows(way) * self._batches(way.time_ranks)[-1]) for way in self.all))

    @cached_property
    def all(self) -> list[Way]:
        """Every way that the configuration allows, steps first."""
        config, given = self.resolved.config, count_time_ranks(self.resolved.config, self.ranks)
        if not config.solver.free:
            kind: Literal["sequential", "picard"] = "sequential" if config.solver.kind == "sequential" else "picard"
            return [Way(kind, config.solver.window, given, config.solver.alternate)]
        shortest = min(self.resolved.sampler.step_counts)
        shared = [n for n in range(1, self.ranks + 1) if self.ranks % n == 0 and n <= shortest]
        shared = shared if config.compute.time_ranks == "auto" else [given]
        steps = self.resolved.scheme.sequential_rounds is not None and 1 in shared
        sweeps = [Way("picard", window, n) for n in shared for window in (None, *self._windows(n))]
        by_turns = [] if self.resolved.scheme.sequential_rounds is None else [Way("picard", None, n, True) for n in shared]
        return [Way("sequential", None, 1)] * steps + sweeps + by_turns

    @cached_property
    def _efforts(self) -> dict[Way, Effort]:
        """The network calls that a sample is expected to take."""
        samplers = {way: self._sampler(way) for way in self.all}
        return {way: expected_effort(one, expected_sweeps(one), way.time_ranks) for way, one in samplers.items()}

    def _sampler(self, way: Way) -> Sampler:
        """The sampler of one way; options that are given do not change."""
        sampler = self.resolved.sampler
        if not self.resolved.config.solver.free:
            return sampler
        return replace(sampler, options=replace(sampler.options, solver=way.kind, window=way.window, alternate=way.alternate))

    def _windows(self, time_ranks: int) -> Iterator[int]:
        """Possible windows of the chain, if any; their points are shared evenly by the time ranks."""
        chain = self.resolved.scheme
        if chain.sequential_rounds is None or not chain.knows_levels or len(chain.edges) > 2:
            return
        if self.resolved.sampler.options.corrector is not None:
            return
        width = time_ranks * -(-NARROWEST // time_ranks)
        while 2 * width <= chain.num_steps:
            yield width
            width *= 2

    def _batches(self, time_ranks: int) -> list[int]:
        """Numbers of samples that may be solved together, rising: powers of two as far as samples and memory allow."""
        config, sampler = self.resolved.config, self.resolved.sampler
        share = -(-len(config.ids) // (self.ranks // time_ranks))
        if config.output.batch != "auto":
            return [min(int(config.output.batch), share)]
        points = -(-max(sampler.step_counts) // time_ranks)
        sizes = [*(2**k for k in range(share.bit_length()) if 2**k < share), share]

        def bytes_of(n: int) -> int:
            return self._solver.bytes_in_memory(points, min(n, config.compute.in_flight or n), n, sampler.dtype.itemsize)

        return [n for n in sizes if n == 1 or bytes_of(n) <= self._room]

    @cached_property
    def _solver(self) -> BlockSolver:
        """The solver, which counts the bytes that it holds; its tables take longer to make than choosing takes."""
        return solver_of(self.resolved.sampler)

    @cached_property
    def _room(self) -> float:
        """Bytes that the solver's arrays may take: a share of the rank's GPU, or of its part of this host's memory."""
        device = self.resolved.sampler.device
        return HELD * (torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else memory_of_host(self.ranks))

    def _batched(self, way: Way, times: CallTimes) -> Predicted:
        """One way, with its fastest batch: the largest, unless larger calls take longer than their rows."""
        found = [Predicted(way, batch, self._seconds(way, batch, times)) for batch in self._batches(way.time_ranks)]
        groups, samples = self.ranks // way.time_ranks, len(self.resolved.config.ids)
        short = [one for one in found if one.seconds * one.batch * groups <= LONGEST * samples] or found[:1]
        return min(short, key=lambda one: one.seconds)

    def _seconds(self, way: Way, batch: int, times: CallTimes) -> float:
        """The wall time of the group of ranks that has the most samples."""
        effort, known = self._efforts[way], Predicted(way, batch, 0.0)
        calls = self._rounds_of(known, effort.rounds, times, rows=self._rows(way))
        number, beside = -(-self._share(way) // batch), STORING
        if way.kind == "picard":
            calls *= BESIDE
            beside += effort.rounds * SWEEP * self.turns + self._messages(effort, way.time_ranks, batch)
        return calls + number * beside

    def _rounds_of(self, known: Predicted, rounds: int, times: CallTimes, rows: float = 1.0) -> float:
        """Seconds of `rounds` rounds of all samples of a group, batch after batch, with `rows` rows of each sample on a rank."""
        way, most = known.way, self.rows_of_a_call(times)
        whole, rest = divmod(self._share(way), known.batch)
        seconds = whole * times.of(known.batch * rows, most) + times.of(rest * rows, most)
        return rounds * seconds * self._slowed(way, times)

    def _slowed(self, way: Way, times: CallTimes) -> float:
        """The time of a call relative to one on an idle processor; ranks without samples leave their cores to the others."""
        busy = way.time_ranks * min(self.ranks // way.time_ranks, len(self.resolved.config.ids))
        return 1.0 if self.ranks == 1 else 1 + (times.crowding - 1) * (busy - 1) / (self.ranks - 1)

    def _share(self, way: Way) -> int:
        """Number of samples of the group that has the most."""
        return -(-len(self.resolved.config.ids) // (self.ranks // way.time_ranks))

    def _rows(self, way: Way) -> float:
        """Rows of a sample that the busiest rank evaluates at once, a mean over rounds."""
        return self._efforts[way].busiest / self._efforts[way].rounds

    def _messages(self, effort: Effort, time_ranks: int, batch: int) -> float:
        """Seconds that a rank waits for messages while it solves a batch."""
        if time_ranks == 1:
            return 0.0
        stages = math.ceil(math.log2(time_ranks))
        return effort.rounds * self.network.scan(time_ranks, bytes_per_sweep(self.resolved.sampler, batch, time_ranks) // stages)
