"""What a run will cost, before it runs: rounds, calls, bytes a sweep, memory per rank, output, time from one timed call."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..comm.timing import Network
from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..host.launcher import launcher_size
from ..models.card import Model, load_model
from ..solvers.collocation import Collocation
from ..solvers.sampler import Sampler
from .arrange import GIGABYTE, Arrangement, arrange, memory_of_host
from .build import make_sampler, require_points
from .placement import count_time_ranks, threads

MEGABYTE = 1e6


@dataclass(frozen=True)
class Plan:
    """The cost of a run on `ranks` ranks; times in seconds, memory and messages in bytes."""

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

    def __str__(self) -> str:
        origin = "measured on one sample" if self.measured else "estimated; --pilot measures it on one sample"
        in_sequence = ""
        if self.sequential_seconds is not None:
            in_sequence = f"; the same chain step by step, samples over ranks: about {self.sequential_seconds:.2g} s"
        faster = (
            ""
            if self.sequential_seconds is None or self.seconds <= self.sequential_seconds
            else ('\n  step by step would be faster here: set solver.kind = "sequential", or give more ranks or a faster device')
        )
        return (
            f"{self.num_samples} samples on {self.ranks} ranks: {self.groups} sample groups x {self.time_ranks} time ranks\n"
            f"  chain            {self.steps} steps in {self.blocks} blocks\n"
            f"  rounds           {self.rounds} per sample ({self.sweeps_per_block} sweeps a block, {origin})\n"
            f"  network calls    {self.calls} per sample, {1e3 * self.seconds_per_call:.1f} ms each (timed here)\n"
            f"  bytes per sweep  {self.bytes_per_sweep / MEGABYTE:.2f} MB sent by each rank, at most\n"
            f"  memory           {self.memory_per_rank / MEGABYTE:.0f} MB per rank\n"
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
    """The cost of a run on `ranks` ranks (default: those this process was launched with); nothing is written.

    One network call is timed; `pilot` also solves one sample to measure its sweeps. `memory` is what a rank has, in GB
    (default: its share of this host's), by which points are arranged.
    """
    world = launcher_size()[1] if ranks is None else ranks
    if world < 1:
        raise ConfigError(f"--ranks {world}: a run takes at least one rank")
    if memory is not None and not memory > 0:
        raise ConfigError(f"--memory {memory:g}: give the GB that a rank has, more than none")
    time_ranks = count_time_ranks(config, world)
    if world % time_ranks:
        possible = [n for n in range(1, world + 1) if world % n == 0]
        raise ConfigError(f"--time-ranks {time_ranks} does not divide {world} ranks; possible are {possible}")
    return _looked_at(config, time_ranks, world // time_ranks, pilot, memory).plan(world, time_ranks, network or Network())


def rank_grids(
    config: RunConfig, *, ranks: int, pilot: bool = False, memory: float | None = None, network: Network | None = None
) -> list[Plan]:
    """Plans for every way to arrange `ranks` ranks as sample groups x time ranks, the fastest first; one call is timed."""
    found = _looked_at(config, 1, ranks, pilot, memory)
    sequential = config.solver.kind == "sequential"
    shortest = 1 if sequential else min(found.sampler.step_counts)
    possible = [n for n in range(1, ranks + 1) if ranks % n == 0 and n <= shortest]
    return sorted(
        (found.plan(ranks, n, network or Network()) for n in possible), key=lambda made: (made.seconds, made.time_ranks)
    )


def _looked_at(config: RunConfig, time_ranks: int, groups: int, pilot: bool, memory: float | None) -> _Found:
    torch.set_num_threads(threads(config))
    model = load_model(config.model, allow_code=config.allow_code)
    sampler = make_sampler(config, model)
    require_points(config, sampler, time_ranks)
    rows = min(config.compute.model_batch, _batch(config, groups) * _longest(sampler))
    seconds, activations = _timed_call(sampler, rows)
    sweeps = _pilot_sweeps(sampler, config.ids[0]) if pilot else _expected_sweeps(config, sampler)
    return _Found(config, model, sampler, seconds, activations, sweeps, pilot, memory)


@dataclass(frozen=True)
class _Found:
    """What does not depend on the ranks: the sampler, a timed call (seconds a row, bytes at its peak), the sweeps.

    `memory` is what a rank has, in GB, where it was given.
    """

    config: RunConfig
    model: Model
    sampler: Sampler
    seconds: float
    activations: int
    sweeps: int
    pilot: bool
    memory: float | None

    def plan(self, ranks: int, time_ranks: int, network: Network) -> Plan:
        """The cost on `ranks` ranks, `time_ranks` of which share each sample."""
        config, sampler, sweeps, groups = self.config, self.sampler, self.sweeps, ranks // time_ranks
        lengths, in_sequence = sampler.step_counts, sampler.sequential_rounds
        sequential = config.solver.kind == "sequential"
        calls = sum(lengths) if sequential else sum(_calls(length, length, sweeps) for length in lengths)
        on_rank = calls if sequential else sum(_calls(-(-length // time_ranks), length, sweeps) for length in lengths)
        rounds = sum(lengths) if sequential else sum(min(sweeps, length) for length in lengths)
        batch, share = _batch(config, groups), -(-len(config.ids) // groups)
        even = -(-len(config.ids) // ranks)
        message = _bytes_per_sweep(sampler, batch, time_ranks)
        stages = max(1, math.ceil(math.log2(time_ranks))) if time_ranks > 1 else 1
        communication = 0.0 if sequential else rounds * -(-share // batch) * network.scan(time_ranks, message // stages)
        points, in_flight = -(-_longest(sampler) // time_ranks), min(batch, config.compute.in_flight or batch)
        return Plan(
            ranks=ranks,
            time_ranks=time_ranks,
            groups=groups,
            num_samples=len(config.ids),
            steps=sum(lengths),
            blocks=len(sampler.chain.edges) - 1,
            sweeps_per_block=sweeps,
            measured=self.pilot,
            rounds=rounds,
            calls=calls,
            seconds_per_call=self.seconds,
            seconds=self.seconds * on_rank * share + communication,
            sequential_seconds=None if in_sequence is None else self.seconds * in_sequence * even,
            bytes_per_sweep=message,
            memory_per_rank=self._memory(points, in_flight, time_ranks),
            output_bytes=4 * len(config.ids) * math.prod(sampler.event_shape),
            arrangement=arrange(
                config,
                self.model,
                sampler,
                time_ranks=time_ranks,
                batch=batch,
                memory=lambda points, samples: self._memory(points, samples, time_ranks),
                available=memory_of_host(ranks) if self.memory is None else int(self.memory * GIGABYTE),
            ),
            communication=communication,
        )

    def _memory(self, points: int, samples: int, time_ranks: int) -> int:
        return _memory(self.config, self.sampler, points, samples, time_ranks, self.activations)


def _batch(config: RunConfig, groups: int) -> int:
    return max(1, min(config.output.batch, -(-len(config.ids) // groups)))


def _longest(sampler: Sampler) -> int:
    return max(sampler.step_counts)


def _calls(slice_length: int, length: int, sweeps: int) -> int:
    """Rows that the busiest slice of a block evaluates: sweep k skips the k-1 points that cannot change any more."""
    return sum(min(slice_length, length - k) for k in range(min(sweeps, length)))


def _expected_sweeps(config: RunConfig, sampler: Sampler) -> int:
    """Sweeps of the longest block by the Lambda law (smallest k with Lambda^k / k! below tol); 8 with a reference.

    For a Gaussian with smallest variance lam, Lambda = kappa (theta_a - theta_b + ln(v_a / v_b)); half of kappa for
    A = I, whose measured sweeps are about two thirds of those of A = P.
    """
    longest = _longest(sampler)
    if config.solver.fixed_depth:
        return min(int(config.solver.sweeps or 1), longest)
    if isinstance(sampler.chain, Collocation):
        return 4
    if config.solver.linear in ("auto", "reference"):
        return min(8, longest)
    theta = torch.log1p(sampler.chain.ratio**2)
    smallest = float(sampler.reference.spectrum.min()) if sampler.reference is not None else 0.0
    v = 1 + (smallest - 1) * torch.exp(-theta)
    stochastic = 1.0 if sampler.chain.stochastic else 0.5
    edges = torch.tensor(sampler.chain.edges)
    exponents = stochastic * (theta[edges[:-1]] - theta[edges[1:]] + torch.log(v[edges[:-1]] / v[edges[1:]]))
    worst, k = float(exponents.max()), 1
    while k * math.log(max(worst, 1e-9)) - math.lgamma(k + 1) > math.log(config.solver.tol):
        k += 1
    return min(max(2, k if config.solver.linear == "process" else round(2 * k / 3)), longest)


def _pilot_sweeps(sampler: Sampler, sample: int) -> int:
    return int(sampler.draw([sample]).sweeps.max())


def _timed_call(sampler: Sampler, rows: int) -> tuple[float, int]:
    """Seconds per row of one network call, and the bytes it needed at its peak beyond what was there."""
    fields = () if sampler.chain.reads == 1 else (sampler.chain.reads,)
    x = torch.randn(rows, *fields, *sampler.event_shape, dtype=sampler.dtype)
    t = sampler.chain.t[len(sampler.chain.t) // 2].to(sampler.dtype).expand(rows)
    with torch.no_grad():
        sampler.score(x[:1], t[:1])
        before = _peak()
        start = time.perf_counter()
        sampler.score(x, t)
        spent = time.perf_counter() - start
    return spent / rows, _peak() - before


def _peak() -> int:
    """Most bytes this process has ever held; from the kernel's own record, since rusage inherits a parent's peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _resident() -> int:
    """Bytes this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _bytes_per_sweep(sampler: Sampler, batch: int, time_ranks: int) -> int:
    """What one rank sends in a sweep: its map in every stage of a scan over a tree of ranks, and the residuals."""
    width = torch.finfo(sampler.dtype).bits // 8
    words = batch * sampler.chain.channels * _coords(sampler)
    if isinstance(sampler.chain, Collocation):
        return 0 if time_ranks == 1 else width * words * -(-sampler.chain.points // time_ranks)
    stages = math.ceil(math.log2(time_ranks)) if time_ranks > 1 else 0
    return stages * (width * words + 8 * (batch + 1))


def _memory(config: RunConfig, sampler: Sampler, points: int, batch: int, time_ranks: int, activations: int) -> int:
    """This process as it stands, plus the sweep's arrays (solvers.picard), plus one network call.

    `points` on this rank of a block, of `batch` samples worked on at once.
    """
    width = torch.finfo(sampler.dtype).bits // 8
    d, n, c = math.prod(sampler.event_shape), _coords(sampler), sampler.chain.channels
    arrays = 2 + (1 if sampler.chain.stochastic else 0)
    if isinstance(sampler.chain, Collocation):  # every rank holds path and remainders of all nodes, and gathers them
        points, arrays, d = _longest(sampler), 3, 0
    held = width * batch * points * (arrays * c * n + d)
    # while one sample of a batch retires, one array stands twice but for that sample
    retired = width * (batch - 1) * points * c * n
    exchange = 0 if time_ranks == 1 else 6 * width * batch * c * n
    rows = min(config.compute.model_batch, batch * points)
    call = activations + rows * width * (4 * d + n)
    return _resident() + held + exchange + max(retired, call)


def _coords(sampler: Sampler) -> int:
    d = math.prod(sampler.event_shape)
    return d if sampler.reference is None else sampler.reference.basis.num_coords
