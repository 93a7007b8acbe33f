"""When a sample is done: a bound on the error of its end, from quantities that a sweep leaves in memory.

A sweep evaluates the step F of every point j at the current path z. The path was made from earlier increments, so it differs
from F by the change of the increment, the *defect* d[j] = z[j+1] - F(z[j]). The last move m of the path gives the *growth*
g[j] = |F(z) - F(z - m)| / |m| of an error in a step, and the *answer* a[j] = |d[j]| / |m[j]| of the increment to a move, each
the larger of the last two. With e the error of the path,

    |e[j+1]| <= g[j] |e[j]| + |d[j]|.                                                                   (bound)

A sample that is done leaves with the path that the sweep makes next. That path moves by n, which is known, so its own defect is
a[j] |n[j]|, and the same scan bounds its error. Where sweeps contract it is better than the evaluated path, otherwise worse.
Nothing is assumed about the preconditioner or the score, except that growth and answer are not much larger than for the last
move; SAFETY allows for that. Growth is that of a linear map, so it does not describe errors that are not small: a path that
crosses to another mode of the data has a large bound at the crossing, and a small one again after many steps. The bounds of all
points, of both paths, must be small. Jumps of the score that answers have shown (`solvers.jumps`) are defects of the next path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..theory.grid import Block
from .flight import Flight
from .jumps import left_across, note_jumps
from .options import Options
from .solution import Status

SAFETY = 1 / 4  # share of the tolerance that the bound must meet: errors may grow faster than the last move did
ONCE = 1 / 64  # share of that for a bound whose growth was measured at one move: errors of up to 19 times such a bound were seen
EARLY = 1 / 2  # share of all limits for each sweep short of three that certify a window: every sweep may reveal more growth
SMALL = 0.03  # of the data's scale: larger errors are not small compared with the distance of modes, nor described by growth
ROUNDING = 16.0  # roundings of a step and its score, in units of the precision
STALLED = 3  # sweeps without a smaller bound after which rounding is taken to limit it, if defects are that small
PATIENCE = 12, 1 / 8  # sweeps, or this share of the steps, without progress after which steps are no slower than sweeps
MOVING = 2  # points per sweep at which a front of certified points is faster than steps


@dataclass(frozen=True)
class Motion:
    """Measurements of a sweep at the steps of a block, root mean squares [points, samples] in units of the data's scale.

    Attributes:
        defect: change of the increment since it was last evaluated.
        grown: the last move after the step. size: size of the terms of the step, which sets the size of rounding errors.
        move: move of the state since the last evaluation before this sweep, zero where there was none.
        now: whether the sweep evaluated the step; where it did not, `defect` and `grown` are zero.
    """

    defect: Tensor
    grown: Tensor
    size: Tensor
    move: Tensor
    now: Tensor

    def measured(self, precision: float) -> Tensor:
        """Whether the sweep evaluated the step after a move above rounding, [points, samples]."""
        return self.now & (self.move > ROUNDING * precision * self.size)

    def over_move(self, part: Tensor, before: Tensor, precision: float) -> Tensor:
        """Return `part` [points, samples] divided by the move; `before` where that is rounding, or not evaluated."""
        known = self.measured(precision)
        return torch.where(known, part / torch.where(known, self.move, 1.0), before)

    def completed(self, answer: Tensor) -> Motion:
        """Fill in the defects of the steps that the sweep left out: their answers to the moves since their last evaluation."""
        return replace(self, defect=torch.where(self.now, self.defect, _ratios(answer) * self.move))

    def is_rounding(self, precision: float) -> Tensor:
        """Whether the path of each sample [samples] reproduces its own increments to rounding."""
        return (self.defect <= ROUNDING * precision * self.size).all(0)


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
    """Decide which samples are done after a sweep, by error bounds of the path that it evaluated and of the one that it made.

    `carried` [samples] bounds the errors of the block's first states, `share` is the block's part of the tolerance, and
    `precision` the relative rounding of states and scores; `staircase` is that of scores beyond that of states. `extent`
    [points + 1] is the deviation of states in units of the data's, compared with which intermediate errors must be small. The
    first move is the error of the first path, which does not show how other errors grow: a bound from it alone must be smaller
    by ONCE. Points that a window has passed move little in the sweeps that certify them (`windowed`), so that the largest
    growth and answer ever measured count, and all bounds must be smaller by EARLY for each such sweep that is short of three.
    """
    exact = flight.exact >= block.stop
    note_jumps(flight, motion.defect, motion.move, motion.measured(precision), SMALL)
    growth, answer = _measured(motion, flight, precision, largest=windowed)
    motion = motion.completed(answer)
    # a score of lower precision than the states is a step function, on which small errors show no growth
    stairs = staircase * motion.size
    # a path that its own scores reproduce to rounding is the sequential path, however much an error would grow
    rounded = motion.is_rounding(precision) & (flight.swept >= 1)
    across = torch.where(rounded, 0.0, left_across(flight, block.start))
    missed = motion.defect + stairs, _next_defect(motion, flight, answer, block, precision) + stairs + across
    path, after = (error_bounds(growth, torch.where(exact, 0.0, each), torch.zeros_like(carried)) for each in missed)
    # answers that are older than the last moves cannot tell that the next path is better
    after = torch.maximum(path, after) if options.alternate else after
    known = flight.whole & ((flight.swept >= (1 if windowed else 2)) | rounded)
    flight.bound = torch.where(known | exact, after[-1] + inherited(growth, carried), torch.inf)
    if options.tol is None:
        status = torch.where(exact, int(Status.CONVERGED), int(Status.DEPTH_REACHED))
        return Verdict(flight.low >= block.stop, status, flight.bound)
    early = torch.pow(EARLY, (3 - flight.swept).clamp(min=0) * windowed)
    limit = SAFETY * min(options.tol, SMALL) * share * torch.where((flight.swept >= 3) | windowed, 1.0, ONCE)
    left = torch.where(known, shortfall(path, after, limit, extent), torch.inf)
    # where sweeps reveal more growth than they remove, the bound after a window rises
    falls, flight.last, left = (left <= flight.last) | (not windowed), left, left / early
    met = exact | (known & (((left <= 1) & falls) | (rounded & (after[-1] <= options.tol * share))))
    judged = known & (early == 1)  # bounds that more sweeps may raise do not measure progress
    _note_progress(flight, block, torch.where(judged, path, torch.inf), torch.where(judged, left, torch.inf), limit)
    passed = flight.whole & (flight.swept == 0) & (not options.certify)
    stalled = flight.idle >= max(PATIENCE[0], PATIENCE[1] * len(block))
    floor = known & ~met & rounded & (flight.idle >= STALLED)
    hopeless = ~(met | floor | passed) & (stalled | (flight.age >= (options.sweeps or torch.inf)))
    status = torch.where(met & (flight.bound <= options.tol), int(Status.CONVERGED), int(Status.NOT_CERTIFIED))
    status = torch.where(floor, int(Status.ROUND_OFF_FLOOR), status)
    status = torch.where(hopeless, int(Status.FINISHED_SEQUENTIALLY), status)
    return Verdict(met | floor | passed | hopeless, status, flight.bound)


def _measured(motion: Motion, flight: Flight, precision: float, *, largest: bool) -> tuple[Tensor, Tensor]:
    """Growth and answer of every step [points, samples]: the larger of the last two, or of all that were ever measured."""
    found = []
    for part, kept in ((motion.grown, flight.growth), (motion.defect, flight.answer)):
        last = motion.over_move(part, kept[0], precision)
        found.append(torch.maximum(last, kept[1]))
        # a step in a window may be measured once; where all points are swept over, the last two measurements are enough
        kept[0], kept[1] = last, torch.where(motion.now, found[-1] if largest else last, kept[1])
    return found[0], found[1]


def _next_defect(motion: Motion, flight: Flight, answer: Tensor, block: Block, precision: float) -> Tensor:
    """The defect [points, samples] of the path that the sweep made: the answer to its moves, at least a step's rounding."""
    points = block.points[:, None]
    answered = _ratios(answer) * flight.moved
    # a move within rounding is no reason for a larger defect
    still = flight.moved <= ROUNDING * precision * motion.size
    answered = torch.where(still, torch.minimum(answered, motion.defect), answered)
    return torch.where(points < flight.exact, 0.0, torch.maximum(answered, torch.minimum(motion.defect, precision * motion.size)))


def error_bounds(growth: Tensor, defect: Tensor, carried: Tensor) -> Tensor:
    """The scan (bound) from errors `carried` [samples] of the first states: [points + 1, samples]."""
    steps, defects = _ratios(growth).numpy(), defect.numpy()
    found = np.empty((len(steps) + 1, steps.shape[1]))
    found[0] = carried.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        for j in range(len(steps)):
            found[j + 1] = steps[j] * found[j] + defects[j]
    return torch.from_numpy(np.nan_to_num(found, nan=np.inf, posinf=np.inf))


def shortfall(path: Tensor, after: Tensor, limit: float | Tensor, extent: Tensor) -> Tensor:
    """The factor by which the bounds [points + 1, samples] of the evaluated path and of the next one are too large.

    At most 1 where the end of the later one meets `limit`, and all bounds of both are small.
    """
    return torch.maximum(after[-1] / limit, (torch.maximum(path, after) / extent[:, None]).amax(0) / SMALL)


def inherited(growth: Tensor, carried: Tensor) -> Tensor:
    """The errors `carried` [samples] of the first states after their growth to the end: [samples]."""
    return torch.where(carried > 0, carried * _ratios(growth).prod(0), 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _ratios(measured: Tensor) -> Tensor:
    """Growth or answer of every step; where no move was measured, an error stays as it is."""
    return torch.where(measured > 0, measured, 1.0)


def _note_progress(flight: Flight, block: Block, bounds: Tensor, left: Tensor, limit: Tensor) -> None:
    """Number of sweeps since a sample's shortfall, or its front of certified points, last made progress."""
    within = (bounds <= limit).to(torch.long).cumprod(0).sum(0) - 1
    front = torch.maximum(block.start + within, flight.exact)
    improved = (left < 0.9 * flight.best) | (front > flight.front + MOVING) | ~flight.whole | (flight.swept < 2)
    flight.idle = torch.where(improved, 0, flight.idle + 1)
    flight.best, flight.front = torch.minimum(flight.best, left), front
