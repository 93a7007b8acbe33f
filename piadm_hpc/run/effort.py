"""How many network function evaluations (NFE) a sample is expected to take, in all and in sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..solvers.sampler import Sampler
from ..solvers.window import Window
from ..theory.grid import Block

CERTIFYING = 2  # sweeps over all points that bound the error of what a window has passed


@dataclass(frozen=True)
class Effort:
    """The NFE of one sample.

    Attributes:
        sweeps: of the block that takes the most.
        rounds: calls that follow one another, the sequential NFE.
        calls: all of them, the NFE.
        busiest: those of the rank that makes the most.
    """

    sweeps: int
    rounds: int
    calls: int
    busiest: int


def expected_effort(sampler: Sampler, sweeps: int, time_ranks: int) -> Effort:
    """The NFE of a sample whose points are settled after `sweeps` sweeps each, on `time_ranks` ranks.

    After k sweeps the first k points of a block are exact and are not evaluated again. A window leaves a point once it is
    settled, and sweeps over all points certify the end. All points of a collocation take part in every sweep.
    """
    chain, options, lengths = sampler.chain, sampler.options, sampler.step_counts
    if options.solver == "sequential":
        return Effort(0, sum(lengths), sum(lengths), sum(lengths))
    if chain.sequential_rounds is None:
        points = chain.num_steps
        return Effort(sweeps, sweeps, sweeps * points, sweeps * -(-points // time_ranks))
    window, steps = window_of(sampler), chain.num_steps
    width = min(window.width(Block(0, 0, steps)) or steps, steps)
    if window.moves and width < steps:
        passing = -(-sweeps * steps // width) if options.window is not None else sweeps + len(chain.edges) - 2
        certifying = CERTIFYING if options.certify and options.tol is not None else 0
        busiest = passing * -(-width // time_ranks) + certifying * -(-steps // time_ranks)
        rounds = min(passing, steps) + certifying
        return Effort(rounds, rounds, (sweeps + certifying) * steps, busiest)
    exact = [(length, done) for length in lengths for done in range(min(sweeps, length))]
    return Effort(
        sweeps,
        sum(min(sweeps, length) for length in lengths),
        sum(length - done for length, done in exact),
        sum(min(-(-length // time_ranks), length - done) for length, done in exact),
    )


def expected_sweeps(sampler: Sampler) -> int:
    """Sweeps of the longest block by the Lambda law (smallest k with Lambda^k / k! below tol); 8 with a reference.

    For a Gaussian with smallest variance lam, Lambda = kappa (theta_a - theta_b + ln(v_a / v_b)); half of kappa for
    A = I, whose measured sweeps are about two thirds of those of A = P.
    """
    options, chain, longest = sampler.options, sampler.chain, max(sampler.step_counts)
    if options.tol is None:
        return min(options.sweeps or 1, longest)
    if chain.sequential_rounds is None:
        return 4
    if options.linear in ("auto", "reference"):
        return min(8, longest)
    theta = torch.log1p(chain.ratio**2)
    smallest = float(sampler.reference.spectrum.min()) if sampler.reference is not None else 0.0
    v = 1 + (smallest - 1) * torch.exp(-theta)
    stochastic = 1.0 if chain.stochastic else 0.5
    edges = torch.tensor(chain.edges)
    exponents = stochastic * (theta[edges[:-1]] - theta[edges[1:]] + torch.log(v[edges[:-1]] / v[edges[1:]]))
    worst, k = float(exponents.max()), 1
    while k * math.log(max(worst, 1e-9)) - math.lgamma(k + 1) > math.log(options.tol):
        k += 1
    return min(max(2, k if options.linear == "process" else round(2 * k / 3)), longest)


def window_of(sampler: Sampler) -> Window:
    """Which points of its blocks a sampler sweeps over at first."""
    return Window.of(sampler.options, sampler.chain.edges)
