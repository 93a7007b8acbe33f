"""The cost of a run before it runs: NFE, messages, memory of a rank, output, and time from one timed call of the network."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..comm.communicator import SerialCommunicator
from ..comm.timing import Network
from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..host.launcher import launcher_size
from ..models.card import load_model
from ..solvers.sampler import Sampler
from ..solvers.scheme import BlockSolver
from ..solvers.solution import Solution
from ..store.packs.records import bytes_of_pack
from ..store.statistics.recipe import Recipe
from .arrange import GIGABYTE, Arrangement, arrange, memory_of_host
from .choose import Choice, choose, solver_of_run
from .effort import Effort, expected_effort, expected_sweeps, open_leads, rollout_rounds, window_of
from .execute import threads
from .footprint import bytes_per_sweep, memory_of_rank, solver_of
from .resolve import ResolvedRun, resolve
from .rollout import pipelines
from .statistics import Counted, recipe_of

MEGABYTE = 1e6


@dataclass(frozen=True)
class Plan:
    """The cost of a run on `ranks` ranks; times in seconds, memory and messages in bytes.

    `rounds` and `calls` are the sequential NFE and the NFE of a sample, or of a forecast with all its `leads`.
    """

    ranks: int
    time_ranks: int
    groups: int
    num_samples: int
    steps: int
    blocks: int
    sweeps_per_block: int
    measured: bool
    rounds: int
    calls: int
    seconds_per_call: float
    seconds: float
    sequential_seconds: float | None
    bytes_per_sweep: int
    memory_per_rank: int
    output_bytes: int
    arrangement: Arrangement
    communication: float
    chosen: str = ""
    observations: str = ""
    leads: int | None = None
    statistics: str = ""

    def __str__(self) -> str:
        chosen = f"  {self.chosen}\n" if self.chosen else ""
        kind, one, part = "samples", "sample", "block"
        if self.leads is not None:
            kind, one, part = f"forecasts of {self.leads} leads", "forecast", "lead"
        origin = "measured on one sample" if self.measured else "estimated; --pilot measures it on one sample"
        in_sequence = ""
        if self.sequential_seconds is not None:
            in_sequence = f"; the same chain step by step, samples over ranks: about {self.sequential_seconds:.2g} s"
        faster = (
            ""
            if self.chosen or self.sequential_seconds is None or self.seconds <= self.sequential_seconds
            else ('\n  step by step would be faster here: set solver.kind = "sequential", or give more ranks or a faster device')
        )
        return (
            f"{self.num_samples} {kind} on {self.ranks} ranks: {self.groups} sample groups x {self.time_ranks} time ranks\n"
            f"{chosen}"
            f"  chain            {self.steps} steps in {self.blocks} blocks\n"
            f"  rounds           {self.rounds} per {one} ({self.sweeps_per_block} sweeps a {part}, {origin})\n"
            f"  network calls    {self.calls} per {one}, {1e3 * self.seconds_per_call:.1f} ms each (timed here)\n"
            f"  bytes per sweep  {self.bytes_per_sweep / MEGABYTE:.2f} MB sent by each rank, at most\n"
            f"  memory           {self.memory_per_rank / MEGABYTE:.0f} MB per rank\n"
            f"{self.observations}{self.statistics}"
            f"  arrangement      {self.arrangement}\n"
            f"  output           {self.output_bytes / MEGABYTE:.1f} MB before compression\n"
            f"  time             about {self.seconds:.2g} s, {self.communication:.2g} s of it messages{in_sequence}{faster}"
        )


def plan(
    config: RunConfig,
    *,
    ranks: int | None = None,
    pilot: bool = False,
    memory: float | None = None,
    network: Network | None = None,
) -> Plan:
    """Estimate the cost of a run from one timed call of its network; nothing is written.

    Args:
        config: the run.
        ranks: how many ranks to plan for; by default those that this process was launched with.
        pilot: also solve one sample, and take its NFE for that of all.
        memory: gigabytes that a rank may use, by which its points are arranged; by default its share of this host's.
        network: latency and bandwidth of messages; by default typical ones.

    Raises:
        ConfigError: for settings that do not fit the model, and for ranks that cannot be arranged as asked.
    """
    world = launcher_size()[1] if ranks is None else ranks
    if world < 1:
        raise ConfigError(f"--ranks {world}: a run takes at least one rank")
    if memory is not None and not memory > 0:
        raise ConfigError(f"--memory {memory:g}: give the GB that a rank has, more than none")
    given = config.compute.time_ranks
    if given != "auto" and world % int(given):
        possible = [n for n in range(1, world + 1) if world % n == 0]
        raise ConfigError(f"--time-ranks {given} does not divide {world} ranks; possible are {possible}")
    network = network or Network()
    choice = _chosen(config, world, network)
    return _estimate(choice, world // choice.time_ranks, pilot, memory).plan(world, choice.time_ranks, network)


def rank_grids(
    config: RunConfig, *, ranks: int, pilot: bool = False, memory: float | None = None, network: Network | None = None
) -> list[Plan]:
    """Plan every arrangement of `ranks` ranks as sample groups x time ranks, the fastest first, from one timed call."""
    network = network or Network()
    choice = _chosen(config, ranks, network)
    estimate = _estimate(choice, ranks, pilot, memory)
    sampler = choice.resolved.sampler
    shortest = 1 if sampler.options.solver == "sequential" else min(sampler.step_counts)
    possible = [n for n in range(1, ranks + 1) if ranks % n == 0 and n <= shortest]
    return sorted((estimate.plan(ranks, n, network) for n in possible), key=lambda made: (made.seconds, made.time_ranks))


def _chosen(config: RunConfig, ranks: int, network: Network) -> Choice:
    """The resolved run, with its open choices made as by `piadm sample`."""
    torch.set_num_threads(threads(config))
    resolved = resolve(config, load_model(config.model, allow_code=config.allow_code))
    if begun := solver_of_run(resolved):
        resolved = resolved.with_settings({"solver": begun})
    choice = choose(resolved, SerialCommunicator(), ranks=ranks, threads=torch.get_num_threads(), network=network)
    choice.resolved.require_points(choice.time_ranks)
    return choice


def _estimate(choice: Choice, groups: int, pilot: bool, memory: float | None) -> _Estimate:
    resolved, sampler, config = choice.resolved, choice.resolved.sampler, choice.resolved.config
    recipe = recipe_of(config, resolved.model)
    rows = min(int(config.compute.model_batch), _batch(config, groups) * _longest(sampler))
    seconds, activations = _timed_call(resolved.timed, rows)
    first = config.ids[:1]
    measured = sampler.draw(first, condition=resolved.condition_of(first)) if pilot else None
    return _Estimate(resolved, solver_of(sampler), seconds, activations, measured, memory, choice.text, recipe)


@dataclass(frozen=True)
class _Estimate:
    """The properties of a run that do not depend on its ranks.

    `seconds` a row and `activations` in bytes of one timed call, `measured` on a pilot sample, `memory` of a rank in GB
    where it was given; the `recipe` of its statistics, if it has any.
    """

    resolved: ResolvedRun
    solver: BlockSolver
    seconds: float
    activations: int
    measured: Solution | None
    memory: float | None
    chosen: str
    recipe: Recipe | None

    def plan(self, ranks: int, time_ranks: int, network: Network) -> Plan:
        """The cost on `ranks` ranks, `time_ranks` of which share each sample."""
        resolved, sampler, groups = self.resolved, self.resolved.sampler, ranks // time_ranks
        config, effort = resolved.config, self._effort(time_ranks)
        leads, pipelined = config.rollout.leads or 1, pipelines(resolved)
        batch, paths = _batch(config, groups), len(config.ids) // leads
        share, rounds = -(-paths // groups), rollout_rounds(effort.rounds, leads, pipelined=pipelined)
        most_open = batch * open_leads(effort.sweeps, leads, pipelined=pipelined)
        counted = Counted.of(config, self.recipe, batch)
        message = bytes_per_sweep(sampler, batch, time_ranks)
        stages = max(1, math.ceil(math.log2(time_ranks))) if time_ranks > 1 else 1
        waits = 0 if sampler.options.solver == "sequential" else rounds * -(-share // batch)
        communication = waits * network.scan(time_ranks, message // stages)
        in_sequence, even = sampler.sequential_rounds, leads * -(-paths // ranks)

        def memory(points: int, slots: int) -> int:
            own = memory_of_rank(sampler, self.solver, self.activations, points, slots, max(batch, slots), time_ranks)
            packed = bytes_of_pack(resolved.model.layout) if config.output.format == "zarr" else 0
            return own + counted.memory + packed + (0 if resolved.given is None else resolved.given.bytes_in_memory(points))

        return Plan(
            ranks=ranks,
            time_ranks=time_ranks,
            groups=groups,
            num_samples=paths,
            leads=config.rollout.leads,
            steps=sum(sampler.step_counts),
            blocks=len(sampler.chain.edges) - 1,
            sweeps_per_block=effort.sweeps,
            measured=self.measured is not None,
            rounds=rounds,
            calls=effort.calls * leads,
            seconds_per_call=self.seconds,
            seconds=self.seconds * effort.busiest * share * leads + communication,
            sequential_seconds=None if in_sequence is None else self.seconds * in_sequence * even,
            bytes_per_sweep=message,
            memory_per_rank=memory(-(-_longest(sampler) // time_ranks), min(most_open, config.compute.in_flight or most_open)),
            output_bytes=4 * len(config.ids) * math.prod(sampler.event_shape) * config.output.members + counted.disk,
            arrangement=arrange(
                resolved,
                time_ranks=time_ranks,
                batch=most_open,
                memory=memory,
                available=memory_of_host(ranks) if self.memory is None else int(self.memory * GIGABYTE),
            ),
            communication=communication,
            chosen=self.chosen,
            observations=_observations(resolved, _longest(sampler)),
            statistics=str(counted),
        )

    def _effort(self, time_ranks: int) -> Effort:
        """Estimated, or as measured on the pilot sample."""
        sampler, found = self.resolved.sampler, self.measured
        if found is None or sampler.options.solver == "sequential":
            return expected_effort(sampler, expected_sweeps(sampler), time_ranks)
        sweeps, rounds, calls = int(found.sweeps.max()), int(found.rounds.max()), int(found.calls.max())
        known = expected_sweeps(sampler) if window_of(sampler).moves else sweeps
        estimate = expected_effort(sampler, known, time_ranks)
        return Effort(sweeps, rounds, calls, math.ceil(calls * estimate.busiest / estimate.calls))


def _observations(resolved: ResolvedRun, levels: int) -> str:
    """The line about observations, empty for a run without."""
    if resolved.given is not None:
        return f"  observations     {resolved.given.cost(levels)}\n"
    return "" if resolved.dated is None else f"  observations     {resolved.dated.cost()}\n"


def _batch(config: RunConfig, groups: int) -> int:
    """Samples, or forecasts, that are solved together."""
    return max(1, min(int(config.output.batch), -(-len(config.ids) // (config.rollout.leads or 1) // groups)))


def _longest(sampler: Sampler) -> int:
    """Points of the longest block; a window or front moves through the whole chain as one."""
    return sampler.chain.num_steps if window_of(sampler).moves else max(sampler.step_counts)


def _timed_call(sampler: Sampler, rows: int) -> tuple[float, int]:
    """Seconds per row of one call of the network, and the largest number of bytes that it took beyond those in use before."""
    fields = () if sampler.chain.reads == 1 else (sampler.chain.reads,)
    x = torch.randn(rows, *fields, *sampler.event_shape, dtype=sampler.dtype)
    t = sampler.chain.t[len(sampler.chain.t) // 2].to(sampler.dtype).expand(rows)
    with torch.no_grad():
        sampler.score(x[:2].clone(), t[:2].clone())
        before = _peak()
        start = time.perf_counter()
        sampler.score(x.clone(), t.clone())
        spent = time.perf_counter() - start
    return spent / rows, _peak() - before


def _peak() -> int:
    """The peak of this process' resident memory in bytes, from the kernel; that of rusage includes the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
