"""Jumps of a score, which answers to successive moves of a state give away.

A step with a continuous score answers moves that shrink with changes that shrink as much: the ratio of change and move hardly
varies once the moves are small. Where a score jumps (an estimate that is rounded, a choice between networks), the ratio is that
of the continuous pieces, and suddenly larger in the sweep in which the state crosses the jump. The size of the jump does
not shrink with the moves, so growth and answer of later moves, which stay on one side, do not show it. An error far below the
tolerance may still lie across it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .flight import Flight

PEAK = 3.0  # ratio of an answer to those before and after it; a continuous score rarely shows it once, at two points hardly ever
STILL = 1e3  # ratio of two successive answers of an estimate at which it stood still under one of the moves
SHRINKS = 2.0  # a move at most this many times the one before it says more about the same place


def note_jumps(flight: Flight, change: Tensor, move: Tensor, measured: Tensor, largest: float) -> None:
    """Note the changes of increments that were crossings of a jump, from those of this sweep [points, slots].

    The answer to the last move, of at most `largest`, was a crossing if it is PEAK times those before and after it.
    """
    last, answer, rise = flight.seen
    now = change / torch.where(measured, move, 1.0)
    crossed = measured & (last <= largest) & (move <= SHRINKS * last) & (rise > PEAK) & (answer > PEAK * now)
    flight.jump = torch.where(crossed, answer * last, flight.jump)
    risen = torch.where(last > 0, now / answer.clamp(min=torch.finfo(now.dtype).tiny), 0.0)
    flight.seen = torch.where(measured, torch.stack([move, now, risen]), flight.seen)


def left_across(flight: Flight, start: int) -> Tensor:
    """Return the defects [points, slots] of a path that lies across a noted jump at a point that is not exact.

    States that follow from one across a jump stay across it, so the jump counts at all later points as well. It counts only as
    far as another point has shown a jump of its size: a single peak may be that of moves in different directions.
    """
    points = torch.arange(start, start + len(flight.jump))[:, None]
    confirmed = flight.jump.clamp(max=flight.jump.topk(min(2, len(points)), dim=0).values[-1])
    return torch.where(points >= flight.exact, confirmed, 0.0).cummax(0).values


def largest_step(before: Tensor, now: Tensor, largest: float) -> float:
    """Return the largest change of an estimate that answers a move of at most `largest` and stands still under another one.

    `before` and `now` are moves and answers of points in two successive sweeps, [2, points], zero where nothing was measured.
    """
    low, high = torch.minimum(before[1], now[1]), torch.maximum(before[1], now[1])
    move = torch.where(now[1] > before[1], now[0], before[0])
    step = (before[0] > 0) & (now[0] > 0) & (move <= largest) & (high > STILL * low)
    return float(torch.where(step, high * move, 0.0).max())
