"""The expected number of network function evaluations of a sample: its NFE and its sequential NFE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..solvers.sampler import Sampler
from ..solvers.window import Window
from ..theory.grid import Block

ADDED = 2  # rounds that a pipelined lead adds where its range is not cut (docs/rollouts.md)
MORE = 3  # sweeps that evaluating every second point takes beyond those that evaluate all (docs/methods.md)
SETTLED = 3  # last sweeps over a whole block, which move points by less than a window lets them move


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
    """Estimate the NFE of a sample that takes `sweeps` sweeps over a whole block, shared by `time_ranks` ranks.

    After k sweeps the first k points of a block are exact and are not evaluated again. All points of a collocation take part
    in every sweep but the first few. Sweeps over every second point are MORE sweeps longer.
    """
    chain, options, lengths = sampler.chain, sampler.options, sampler.step_counts
    if options.solver == "sequential":
        return Effort(0, sum(lengths), sum(lengths), sum(lengths))
    if chain.sequential_rounds is None:
        first = chain.point_counts[:sweeps] if options.tol is not None else ()
        counts = [*first, *[chain.num_steps] * (sweeps - len(first))]
        return Effort(sweeps, sweeps, sum(counts), sum(-(-points // time_ranks) for points in counts))
    if window_of(sampler).moves:
        return _moving(sampler, sweeps, time_ranks)
    sweeps, stride = (sweeps + MORE, 2) if options.alternate else (sweeps, 1)
    left = [(length, length - done, stride if done else 1) for length in lengths for done in range(min(sweeps, length))]
    return Effort(
        sweeps,
        sum(min(sweeps, length) for length in lengths),
        sum(-(-points // every) for _, points, every in left),
        sum(min(-(-length // (time_ranks * every)), -(-points // every)) for length, points, every in left),
    )


def rollout_rounds(rounds: int, leads: int, *, pipelined: bool) -> int:
    """Rounds of a forecast whose leads take `rounds` each; pipelined, a further lead adds the rounds of its final condition."""
    return rounds + (leads - 1) * (min(ADDED, rounds) if pipelined else rounds)


def open_leads(sweeps: int, leads: int, *, pipelined: bool) -> int:
    """Leads of a forecast that are swept at once: the next begins no earlier than after the second sweep of the one before."""
    return min(leads, 1 + math.ceil(sweeps / ADDED)) if pipelined else 1


def _moving(sampler: Sampler, sweeps: int, time_ranks: int) -> Effort:
    """The effort of a window or front, which leaves points as they settle; sweeps over all points then certify the end.

    The points of a narrow window settle in fewer sweeps than those of the whole chain: one, and a number proportional to its
    share of the chain. At a fixed depth every point takes part in all sweeps, and nothing is certified.
    """
    options, steps, fronts = sampler.options, sampler.chain.num_steps, len(sampler.chain.edges) - 1
    width = min(window_of(sampler).width(Block(0, 0, steps)) or steps, steps)
    approach = sweeps if options.tol is None else max(1, sweeps - SETTLED)
    certifying = certifying_sweeps(steps) if options.certify and options.tol is not None else 0
    settling = sweeps if options.tol is None else 1 + approach * width / steps
    passing = 0 if options.window is None else math.ceil(settling * steps / width)
    if options.pipelined:
        passing = max(passing, approach + fronts - 1)
    rounds = min(passing, steps) + certifying
    busiest = math.ceil(settling * steps * -(-width // time_ranks) / width) + certifying * -(-steps // time_ranks)
    return Effort(rounds, rounds, round((settling + certifying) * steps), busiest)


def certifying_sweeps(steps: int) -> int:
    """Sweeps over all points that bound the error of a sample after its window has passed.

    The shorter the steps, the less the points that were passed leave behind: 2.3 and 2.7 sweeps certify the chains of 16 and 20
    steps of the shipped models, 1.1 those of 48 steps of a mixture and of 1,000 of DDPM (docs/benchmarks.md).
    """
    return 1 + round(32 / steps)


def expected_sweeps(sampler: Sampler) -> int:
    """Sweeps of the longest block: those of a fixed depth, or one and 2.75 for every digit of the tolerance, two for a flow.

    That is the number with a reference (docs/scale.md). Without one the Lambda law applies, the smallest k with Lambda^k / k!
    below the tolerance: for a Gaussian with smallest variance lam, Lambda = kappa (theta_a - theta_b + ln(v_a / v_b)) with half
    of kappa for the flow. For A = I, whose measured sweeps are about two thirds of those of A = P, it is two thirds of that.
    """
    options, chain, longest = sampler.options, sampler.chain, max(sampler.step_counts)
    if options.tol is None:
        return min(options.sweeps or 1, longest)
    if options.linear not in ("identity", "process"):
        digits = -math.log10(options.tol)
        return min(max(2, 1 + round((2.75 if chain.stochastic else 2) * digits)), longest)
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
    """The points of its blocks over which a sampler sweeps at first."""
    return Window.of(sampler.options, sampler.chain.edges)
