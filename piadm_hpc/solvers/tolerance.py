"""When a sample is done: a bound on the error of its end, from quantities that a sweep leaves in memory.

A sweep evaluates the step F of every point j at the current path z. The path was made from increments taken earlier, so it
misses F by the change of the increment, the *defect* d[j] = z[j+1] - F(z[j]); and the last move m of the path gives the
*growth* g[j] = |F(z) - F(z - m)| / |m| of what a step does to an error, the larger of the last two. With e the error of
the path,

    |e[j+1]| <= g[j] |e[j]| + |d[j]|                                                                    (bound)

The path that the sweep makes next is better than the one that is bounded. Nothing is assumed of the linear part A or of the
score, but that a step grows an error not much more than it grew the last move; SAFETY allows for that. The growth is that
of a linear map, so it tells nothing of errors that are not small where they are: a path that crosses to another mode of the data
has a large bound at the crossing, and a small one again after many steps that contract to the modes. The bounds of all points
count, not those of the last one alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..theory.grid import Block
from .flight import Flight
from .options import Options
from .solution import Status

SAFETY = 1 / 4  # of the tolerance may be left by the bound: errors may grow faster than the last move did
SMALL = 0.03  # of the data's scale: larger errors are not small beside what separates modes, and growth tells nothing of them
ROUNDING = 16.0  # roundings of a step and its score, in units of the precision
STALLED = 3  # sweeps without a smaller bound after which it is rounding that keeps it up, where defects are as small
PATIENCE = 12, 1 / 8  # sweeps, or this share of the steps, without progress after which steps are no slower than sweeps
MOVING = 2  # points a sweep by which a front of certified points beats steps


@dataclass(frozen=True)
class Motion:
    """What a sweep measured at the steps of a block, root mean squares in units of the data's scale.

    The parts [4, points, samples] are the defect of the path at the step, the move of the state since the step was last
    evaluated, what the step makes of that move, and the size of what it adds up, by which rounding is measured.
    """

    parts: Tensor

    @classmethod
    def empty(cls, points: int, samples: int) -> Motion:
        """Nothing measured yet."""
        return cls(torch.zeros(4, points, samples, dtype=torch.float64))

    @property
    def defect(self) -> Tensor:
        """Change of the increment since it was last evaluated, [points, samples]."""
        return self.parts[0]

    @property
    def move(self) -> Tensor:
        """Last move of the state, [points, samples]."""
        return self.parts[1]

    @property
    def grown(self) -> Tensor:
        """What the step makes of the last move, [points, samples]."""
        return self.parts[2]

    @property
    def size(self) -> Tensor:
        """Size of what the step adds up, [points, samples]."""
        return self.parts[3]


@dataclass(frozen=True)
class Verdict:
    """Per sample: whether it is done, how it ended, and the bound on the error of its end."""

    done: Tensor
    status: Tensor
    bound: Tensor


def judge(
    motion: Motion,
    flight: Flight,
    block: Block,
    options: Options,
    carried: Tensor,
    *,
    share: float,
    windowed: bool,
    precision: float,
    staircase: float,
    extent: Tensor,
) -> Verdict:
    """Who is done after a sweep, by the bound on the error of the path it was made from.

    `carried` [samples] bounds the errors of the block's first states, `share` is the block's part of the tolerance, and
    `precision` the relative rounding of states and scores; `staircase` is that of scores beyond that of states. `extent`
    [points + 1] is the deviation of states in units of the data's, against which errors on the way are small. Points that
    a window has passed move little in the sweeps that certify them (`windowed`), so that their growth must be seen once
    more, and the largest ever seen counts.
    """
    exact = flight.exact >= block.stop
    last = growth_of(motion, flight.last_growth, precision)
    growth = torch.maximum(last, flight.growth)
    # a step in a window may be measured once; where all points are swept over, the last two measurements are enough
    flight.last_growth, flight.growth = last, growth if windowed else last
    # a score of lower precision than the states is a staircase, on which small errors show no growth
    defect = torch.where(exact, 0.0, motion.defect + staircase * motion.size)
    own = error_bounds(growth, defect, torch.zeros_like(carried))
    # a path that its own scores reproduce to rounding is the chain's, whatever growth would do to an error
    rounded = (motion.defect <= ROUNDING * precision * motion.size).all(0)
    known = flight.whole & ((flight.swept > (2 if windowed else 1)) | rounded)
    flight.bound = torch.where(known | exact, own[-1] + inherited(growth, carried), torch.inf)
    if options.tol is None:
        status = torch.where(exact, int(Status.CONVERGED), int(Status.DEPTH_REACHED))
        return Verdict(flight.low >= block.stop, status, flight.bound)
    limit = SAFETY * min(options.tol, SMALL) * share
    left = torch.where(known, shortfall(own, limit, extent), torch.inf)
    met = exact | (known & ((left <= 1) | (rounded & (own[-1] <= options.tol * share))))
    _note_progress(flight, block, torch.where(known, own, torch.inf), left, limit)
    passed = flight.whole & (flight.swept == 0) & (not options.certify)
    stalled = flight.idle >= max(PATIENCE[0], PATIENCE[1] * len(block))
    floor = known & ~met & rounded & (flight.idle >= STALLED)
    late = flight.age >= (options.sweeps or torch.inf)
    hopeless = ~(met | floor | passed) & (stalled | late)
    certified = flight.bound <= options.tol
    status = torch.where(met & certified, int(Status.CONVERGED), int(Status.NOT_CERTIFIED))
    status = torch.where(floor, int(Status.ROUND_OFF_FLOOR), status)
    status = torch.where(hopeless, int(Status.FINISHED_SEQUENTIALLY), status)
    return Verdict(met | floor | passed | hopeless, status, flight.bound)


def growth_of(motion: Motion, before: Tensor, precision: float) -> Tensor:
    """What steps did to the last move, [points, samples]; as `before` where a move within rounding tells nothing."""
    measured = motion.move > ROUNDING * precision * motion.size
    return torch.where(measured, motion.grown / torch.where(measured, motion.move, 1.0), before)


def error_bounds(growth: Tensor, defect: Tensor, carried: Tensor) -> Tensor:
    """The scan (bound) from errors `carried` [samples] of the first states: [points + 1, samples]."""
    steps, defects = _steps(growth).numpy(), defect.numpy()
    found = np.empty((len(steps) + 1, steps.shape[1]))
    found[0] = carried.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        for j in range(len(steps)):
            found[j + 1] = steps[j] * found[j] + defects[j]
    return torch.from_numpy(np.nan_to_num(found, nan=np.inf, posinf=np.inf))


def shortfall(bounds: Tensor, limit: float, extent: Tensor) -> Tensor:
    """How many times too large the bounds [points + 1, samples] are: at most 1 where the end meets `limit` and all are small."""
    return torch.maximum(bounds[-1] / limit, (bounds / extent[:, None]).amax(0) / SMALL)


def inherited(growth: Tensor, carried: Tensor) -> Tensor:
    """What errors `carried` [samples] of the first states become at the end: [samples]."""
    return torch.where(carried > 0, carried * _steps(growth).prod(0), 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _steps(growth: Tensor) -> Tensor:
    """The growth of every step; where no move was measured, an error stays as it is."""
    return torch.where(growth > 0, growth, 1.0)


def _note_progress(flight: Flight, block: Block, bounds: Tensor, left: Tensor, limit: float) -> None:
    """How many sweeps ago what is left of a sample's bounds, or its front of certified points, last made progress."""
    within = (bounds <= limit).to(torch.long).cumprod(0).sum(0) - 1
    front = torch.maximum(block.start + within, flight.exact)
    improved = (left < 0.9 * flight.best) | (front > flight.front + MOVING) | ~flight.whole | (flight.swept < 2)
    flight.idle = torch.where(improved, 0, flight.idle + 1)
    flight.best, flight.front = torch.minimum(flight.best, left), front
