"""Time grids, blocks and slices of ranks: index arithmetic without communication."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .phase import PhaseSpace
from .process import Process, Tabulated, forward_time


@dataclass(frozen=True)
class Block:
    """Steps start .. stop-1 that are solved together, between the points start .. stop."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def points(self) -> Tensor:
        """The points at which its steps begin, [steps]."""
        return torch.arange(self.start, self.stop)


@dataclass(frozen=True)
class Partition:
    """A partition of `total` items into `parts` consecutive slices whose lengths differ by at most one, longer ones first."""

    total: int
    parts: int

    def __post_init__(self) -> None:
        if self.parts < 1 or self.total < 0:
            raise ValueError(f"cannot cut {self.total} items into {self.parts} slices; give parts >= 1 and total >= 0")

    def start(self, part: int) -> int:
        return part * (self.total // self.parts) + min(part, self.total % self.parts)

    def slice(self, part: int) -> slice:
        return slice(self.start(part), self.start(part + 1))

    def length(self, part: int) -> int:
        return self.start(part + 1) - self.start(part)

    def owner(self, item: int) -> int:
        """Return the part whose slice holds `item`."""
        return next(part for part in range(self.parts) if item < self.start(part + 1))


@dataclass(frozen=True)
class TimeGrid:
    """Grid points t [J+1], float64 and decreasing from noise to data, and `edges`, the points at which blocks begin and end.

    Raises ValueError for times that are not finite and strictly decreasing, or edges that do not run from 0 to J.
    """

    t: Tensor
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        t = self.t
        if t.ndim != 1 or len(t) < 2 or not bool(torch.isfinite(t).all()) or bool((t[1:] >= t[:-1]).any()):
            raise ValueError("grid times must be at least two finite, strictly decreasing numbers (from noise to data)")
        edges = self.edges
        if edges[0] != 0 or edges[-1] != len(t) - 1 or any(b <= a for a, b in itertools.pairwise(edges)):
            raise ValueError(f"block edges must increase from 0 to {len(t) - 1}, got {edges}")

    @property
    def num_steps(self) -> int:
        return len(self.t) - 1

    def blocks(self) -> Iterator[Block]:
        for index, (start, stop) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
            yield Block(index, start, stop)

    def with_blocks(self, num_blocks: int) -> TimeGrid:
        """Return the same points in `num_blocks` blocks of nearly equal length."""
        if not 1 <= num_blocks <= self.num_steps:
            raise ValueError(f"num_blocks must be between 1 and the {self.num_steps} steps, got {num_blocks}")
        cut = Partition(self.num_steps, num_blocks)
        return TimeGrid(self.t, tuple(cut.start(part) for part in range(num_blocks + 1)))

    def with_edges_at(self, clock: Tensor, num_blocks: int) -> TimeGrid:
        """Return the same points in blocks of nearly equal increments of `clock` [J+1], a monotone function of the points."""
        marks = torch.linspace(float(clock[0]), float(clock[-1]), num_blocks + 1, dtype=torch.float64)[1:-1]
        inner = {int(torch.argmin((clock - mark).abs())) for mark in marks} - {0, self.num_steps}
        return TimeGrid(self.t, (0, *sorted(inner), self.num_steps))


def from_times(t: Tensor, num_blocks: int = 1) -> TimeGrid:
    """Return a grid through the given decreasing times, in blocks of nearly equal length."""
    t = t.to(torch.float64)
    return TimeGrid(t, (0, len(t) - 1)).with_blocks(num_blocks)


def piadm(process: Process, *, horizon: float, delta: float, step: float, block: float = 1.0) -> TimeGrid:
    """Return the published grid: blocks of equal forward time, with uniform steps, and shrinking steps in the last block.

    `horizon`, `delta` (early stopping), `step` and `block` are forward times theta. In the last block every step is at most
    `step` times the forward time that remains after it (Chen et al. 2024, section 3.1); steps in geometric progression meet
    that bound with equality. Raises ValueError for lengths that are not positive or a delta beyond the horizon.
    """
    mistakes = [
        message
        for bad, message in [
            (not 0 < delta < horizon, f"delta must lie between 0 and the horizon {horizon}, got {delta}"),
            (not 0 < step, f"step must be positive, got {step}"),
            (not 0 < block, f"block must be positive, got {block}"),
        ]
        if bad
    ]
    if mistakes:
        raise ValueError("; ".join(mistakes))
    num_blocks = max(1, math.ceil((horizon - delta) / block - 1e-9))
    theta, edges = [horizon], [0]
    for n in range(num_blocks - 1):
        top, bottom = horizon - n * block, horizon - (n + 1) * block
        count = math.ceil(block / step - 1e-9)
        theta += [top + (bottom - top) * m / count for m in range(1, count + 1)]
        edges.append(len(theta) - 1)
    remaining = theta[-1]
    count = max(1, math.ceil(math.log(remaining / delta) / math.log1p(step) - 1e-9))
    theta += [remaining * (delta / remaining) ** (m / count) for m in range(1, count + 1)]
    edges.append(len(theta) - 1)
    return TimeGrid(process.time(torch.tensor(theta, dtype=torch.float64)), tuple(edges))


def log_snr(process: Process, num_steps: int, *, horizon: float, delta: float, num_blocks: int = 1) -> TimeGrid:
    """Return points equally spaced in log-SNR between the forward times `horizon` and `delta`."""
    ends = torch.tensor([horizon, delta], dtype=torch.float64)
    low, high = -torch.log(torch.expm1(ends))
    snr = torch.linspace(float(low), float(high), num_steps + 1, dtype=torch.float64)
    theta = torch.log1p(torch.exp(-snr))
    theta[0], theta[-1] = ends[0], ends[1]
    return from_times(_times(process, theta), num_blocks)


def karras(process: Process, num_steps: int, *, horizon: float, delta: float, rho: float = 7.0, num_blocks: int = 1) -> TimeGrid:
    """Return points equally spaced in (sigma/alpha)^(1/rho) between forward times `horizon` and `delta` (EDM, eq. 5)."""
    high, low = torch.sqrt(torch.expm1(torch.tensor([horizon, delta], dtype=torch.float64)))
    ramp = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    level = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return from_times(_times(process, torch.log1p(level**2)), num_blocks)


@dataclass(frozen=True)
class Clock:
    """A clock that grids can be uniform on: `read` maps forward times theta to it, `theta` maps back."""

    read: Callable[[Tensor], Tensor]
    theta: Callable[[Tensor], Tensor]


def process_clock(process: Process) -> Clock:
    """Return the clock of a process's own time."""
    return Clock(process.time, lambda t: forward_time(process, t))


def phase_clock(phase: PhaseSpace) -> Clock:
    """Return the clock of phase-space time tau, which has the same effective ratio of noise to signal."""
    return Clock(lambda theta: phase.time(torch.sqrt(torch.expm1(theta))), lambda tau: torch.log1p(phase.ratio(tau) ** 2))


def power(
    process: Process, num_steps: int, *, horizon: float, delta: float, exponent: float, clock: Clock, num_blocks: int = 1
) -> TimeGrid:
    """Return points between forward times `horizon` and `delta` whose distance to the last falls like (1 - u)^exponent.

    The distance is measured on a clock, u = 0 .. 1: exponent 1 is uniform, 2 quadratic. Raises ValueError for an exponent that is
    not positive.
    """
    if not exponent > 0:
        raise ValueError(f"exponent must be positive, got {exponent}")
    ends = torch.tensor([horizon, delta], dtype=torch.float64)
    first, last = clock.read(ends)
    u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    theta = clock.theta(last + (first - last) * (1 - u) ** exponent)
    theta[0], theta[-1] = ends
    return from_times(_times(process, theta), num_blocks)


def _times(process: Process, theta: Tensor) -> Tensor:
    """Return the times of decreasing forward times; points on the same index of a schedule of whole indices become one."""
    t = process.time(theta)
    return torch.unique_consecutive(t) if isinstance(process, Tabulated) and process.whole else t
