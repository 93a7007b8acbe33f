"""Ten leads of Lorenz-96, pipelined and lead by lead, with exact scores.

    python benchmarks/rollouts.py

A step of 6 hours or of a day moves 40 variables by Lorenz-96 (Lorenz 1996; one unit of time is five days), then draws one of two
modes and adds white noise, so that the score given the previous field is known. States are residuals of a linear inverse model,
whose Gaussian is the reference. Every lead is compared with the tight solve from its own predecessor. Then fifty
leads of a day are drawn pipelined and step by step: members diverge by then, and the statistics of both ensembles must agree.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import torch
from common import Report, at_least, at_most, parser
from torch import Tensor

from piadm_hpc import grid, integrators
from piadm_hpc.gaussian.reference import GaussianReference, isotropic
from piadm_hpc.schema.conditions import Condition
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.rollout import Forecast, Rollout
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory.process import OU

F64 = torch.float64
SIZE, SPREAD, APART, TOL = 40, 0.5, 2.0, 1e-2
PROCESS = OU()


def advance(x: Tensor, time: float) -> Tensor:
    """Lorenz-96 with forcing 8, by Runge-Kutta steps of at most 0.025."""

    def rate(x: Tensor) -> Tensor:
        return (torch.roll(x, -1, -1) - torch.roll(x, 2, -1)) * torch.roll(x, 1, -1) - x + 8

    count = max(1, round(time / 0.025))
    h = time / count
    for _ in range(count):
        k1 = rate(x)
        k2 = rate(x + h / 2 * k1)
        k3 = rate(x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(x + h * k3))
    return x


class World:
    """x(l+1) = advance(x(l)) +- mode + noise; its states are in standard deviations of the climate."""

    def __init__(self, time: float, steps: int):
        generator = torch.Generator().manual_seed(1)
        self.time = time
        mode = torch.randn(SIZE, dtype=F64, generator=generator)
        self.mode = APART * mode / mode.norm()
        x, path = torch.randn(64, SIZE, dtype=F64, generator=generator) + 8, []
        for step in range(steps + 100):
            sign = torch.randint(0, 2, (64, 1), generator=generator) * 2.0 - 1
            x = advance(x, time) + sign * self.mode + SPREAD * torch.randn(64, SIZE, dtype=F64, generator=generator)
            if step >= 100:
                path.append(x)
        found = torch.stack(path)
        self.mean, self.scale, self.climate = found.mean((0, 1)), float(found.std(dim=(0, 1)).mean()), found
        before, after = ((part.reshape(-1, SIZE) - self.mean) / self.scale for part in (found[:-1], found[1:]))
        self.linear = torch.linalg.lstsq(before, after).solution
        self.variance = float((after - before @ self.linear).var(0).mean())

    def starts(self, count: int) -> Tensor:
        """Fields [count, 1, SIZE] of the climate, in standard deviations."""
        return ((self.climate[-1][:count] - self.mean) / self.scale)[:, None]

    def score(self, x: Tensor, t: Tensor, c: Condition) -> Tensor:
        """The score of residuals about the linear inverse model: two Gaussians about the true step."""
        assert isinstance(c, Tensor)
        alpha, sigma = (level(t.to(F64))[:, None] for level in (PROCESS.alpha, PROCESS.sigma))
        centre = (advance(c * self.scale + self.mean, self.time) - self.mean) / self.scale - c @ self.linear
        v = alpha**2 * (SPREAD / self.scale) ** 2 + sigma**2
        left = x - alpha * centre
        mode = alpha * self.mode / self.scale
        return (torch.tanh((left * mode).sum(-1, keepdim=True) / v) * mode - left) / v

    def rollout(self, threshold: float | None, tol: float, points: int) -> Rollout:
        reference: GaussianReference = isotropic((SIZE,), variance=self.variance)
        chain = Collocation(PROCESS, reference, 5.0, 1e-4, points)
        sampler = Sampler(chain, self.score, (SIZE,), 0, Options(tol=tol), reference=reference, dtype=F64)
        return Rollout(sampler, lambda past, links: past[:, -1], lambda x, c: x + c @ self.linear, threshold)


def largest_error(rollout: Rollout, starts: Tensor, found: Forecast) -> float:
    """The largest error of a lead given its own predecessor, root mean square, against a tight solve."""
    known = torch.cat([starts, found.x], dim=1)
    members, worst = list(range(len(starts))), 0.0
    for lead in range(found.x.shape[1]):
        exact = rollout.draw(known[:, lead : lead + 1], range(lead + 1, lead + 2), members=members).x[:, 0]
        worst = max(worst, float((exact - found.x[:, lead]).square().mean(1).sqrt().max()))
    return worst


def measure(report: Report, name: str, time: float, *, members: int, leads: int, steps: int, most: float) -> None:
    world = World(time, steps)
    starts = world.starts(members)
    alone = world.rollout(None, TOL, 16).draw(starts, leads, members=range(members))
    calls, rounds = (float(part.double().mean()) for part in (alone.calls.sum(1), alone.rounds))
    rows: list[list[str | float]] = [["lead by lead", rounds, calls, 1.0, 1.0]]
    best = (math.inf, math.inf)
    for threshold in (1.0, 0.3, 0.2):
        found = world.rollout(threshold, TOL, 16).draw(starts, leads, members=range(members))
        shares = float(found.rounds.double().mean()) / rounds, float(found.calls.sum(1).double().mean()) / calls
        rows.append([f"threshold {threshold:g}", shares[0] * rounds, shares[1] * calls, *shares])
        if threshold == 0.3:
            best, kept = shares, found
    report.add(f"{name}, {leads} leads", ("rollout", "rounds", "calls", "share of rounds", "share of calls"), rows)
    error = largest_error(world.rollout(None, 1e-5, 48), starts, kept)
    report.aims.append(at_most(f"{name}, threshold 0.3: share of the rounds", best[0], most))
    report.aims.append(at_most(f"{name}, threshold 0.3: share of the calls", best[1], 1.2))
    report.aims.append(at_most(f"{name}: largest error / tol given the lead before", error / TOL, 1))
    report.aims.append(at_least(f"{name}: leads that met the tolerance", float((kept.status <= 2).double().mean()), 1))


def statistics(fields: Tensor) -> Tensor:
    """STATISTICS of members [members, leads, SIZE]: [members, 4]."""
    power = torch.fft.rfft(fields).abs().square().mean(1)
    memory = (fields[:, 1:] * fields[:, :-1]).sum((1, 2)) / fields.square().sum((1, 2))
    shares = power[:, 1:5].sum(1) / power.sum(1), power[:, 8:].sum(1) / power.sum(1)
    return torch.stack([fields.flatten(1).std(1), *shares, memory], 1)


STATISTICS = ("deviation", "share of wavenumbers 1-4", "share of 8-20", "memory of one lead")


def after_many(report: Report, *, members: int, leads: int, last: int, steps: int) -> None:
    """The last leads of many, pipelined and with a chain made step by step."""
    world = World(0.2, steps)
    quick, starts = world.rollout(0.3, TOL, 16), world.starts(members)
    times = grid.log_snr(PROCESS, 48, horizon=5.0, delta=1e-4)
    chain = integrators.build("gaussian-ab2", PROCESS, times, reference=quick.sampler.reference)
    stepped = replace(quick, sampler=replace(quick.sampler, chain=chain, options=Options(solver="sequential")), threshold=None)
    ends = [rollout.draw(starts, leads, members=range(members)).x for rollout in (quick, stepped)]
    found = torch.stack([statistics(fields[:, -last:]) for fields in ends])
    mean, error = found.mean(1), (found.var(1).sum(0) / members).sqrt()
    apart = (mean[0] - mean[1]).abs() / error
    rows: list[list[str | float]] = [["pipelined", *mean[0].tolist()], ["step by step", *mean[1].tolist()]]
    rows += [["standard error of the difference", *error.tolist()], ["difference, in standard errors", *apart.tolist()]]
    gap = float((ends[0][:, -1] - ends[1][:, -1]).square().mean().sqrt())
    title = f"a day, {members} members over the last {last} of {leads} leads, whose ends are {gap:.2f} deviations apart"
    report.add(title, ("ensemble", *STATISTICS), rows)
    report.aims.append(at_most("largest difference of the statistics in standard errors", float(apart.max()), 3))


def main() -> int:
    options = parser("Ten leads of Lorenz-96, pipelined and lead by lead, with exact scores.").parse_args()
    report = Report("rollouts, quick" if options.quick else "rollouts")
    if options.quick:
        measure(report, "6 hours", 0.05, members=2, leads=3, steps=20, most=0.95)
        after_many(report, members=4, leads=3, last=2, steps=20)
    else:
        measure(report, "6 hours", 0.05, members=16, leads=10, steps=500, most=0.45)
        measure(report, "a day", 0.2, members=16, leads=10, steps=500, most=0.65)
        after_many(report, members=64, leads=50, last=20, steps=500)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
