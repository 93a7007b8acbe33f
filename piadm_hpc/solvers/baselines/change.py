"""The stopping rule of published iterations: a sample is done when a sweep changes no state by more than the tolerance."""

from __future__ import annotations

import torch

from ..flight import Flight
from ..options import Options
from ..solution import Status
from ..tolerance import Motion, Verdict


def judge_by_change(motion: Motion, flight: Flight, options: Options, stop: int) -> Verdict:
    """Decide which samples are done, by the largest move of a state (root mean square, in units of the data's scale)."""
    exact = flight.exact >= stop
    flight.bound = torch.where(flight.swept > 1, motion.move.max(0).values, torch.inf)
    if options.tol is None:
        status = torch.where(exact, int(Status.CONVERGED), int(Status.DEPTH_REACHED))
        return Verdict(flight.low >= flight.high, status, flight.bound)
    met = exact | (flight.bound <= options.tol)
    late = ~met & (flight.age >= (options.sweeps or torch.inf))
    return Verdict(met | late, torch.where(met, int(Status.CONVERGED), int(Status.FINISHED_SEQUENTIALLY)), flight.bound)
