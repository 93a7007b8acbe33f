"""Posterior samplers on signals with independent increments, compared with a Gibbs sampler that is exact.

    python benchmarks/increments.py

Signals of 64 points are sums of Gaussian or Laplace increments. Half of the points are seen (imputation), or all of them blurred
(deconvolution), with errors. Samplers work on increments, whose denoiser is known in closed form, and all use the same one.
Coverage is the share of the posterior, that is, of the Gibbs sampler's draws, in the region of highest density that holds 90 %
of a method's samples. The share of true signals in that region has the same expectation and a larger error, since a signal is
one draw of its posterior. The gap is how much larger the mean square error of a method's mean is than that of the Gibbs sampler.
DPS and DiffPIR are those of azula, with 256 steps one after the other; without azula they are left out.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import Report, at_most, between, parser
from torch import Tensor

from piadm_hpc.gaussian.observed import LinearObservations
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.observations.posterior import posterior
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.process import OU

F64, SIZE = torch.float64, 64
PROCESS, HORIZON, DELTA = OU(), 8.0, 1e-3
ZETA, LAMBDA = 0.03, 1.0  # of DPS and DiffPIR, as good as any of a few that were tried
COLUMNS = ("method", "coverage of 90 %", "standard error", "true signals covered", "MMSE gap [dB]", "rounds", "calls")


@dataclass(frozen=True)
class World:
    """Increments of variance one, observed as y = H (their sums) + e.

    `rows` [m, d] is H times the summation, `std` the deviation of the errors.
    """

    laplace: bool
    rows: Tensor
    std: float

    def log_prior(self, u: Tensor) -> Tensor:
        """Return the log-density of increments [..., d], without its constant."""
        return -(math.sqrt(2) * u.abs()).sum(-1) if self.laplace else -(u**2).sum(-1) / 2

    def log_posterior(self, u: Tensor, y: Tensor) -> Tensor:
        """Return the log-density [...] given y [..., m], without its constant."""
        return self.log_prior(u) - ((y - u @ self.rows.T) ** 2).sum(-1) / (2 * self.std**2)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return E[u | x_t] for x_t = alpha u + sigma eps, [n, d]."""
        alpha, sigma = (level(t.to(F64)).to(x)[:, None] for level in (PROCESS.alpha, PROCESS.sigma))
        return self.expected(x / alpha, sigma / alpha)

    def expected(self, z: Tensor, ratio: Tensor) -> Tensor:
        """Return E[u | u + ratio eps = z]: linear, or soft shrinkage."""
        if not self.laplace:
            return z / (1 + ratio**2)
        rate = math.sqrt(2)
        up, down = (sign * z / ratio - rate * ratio for sign in (1, -1))
        odds = torch.special.log_ndtr(up) - torch.special.log_ndtr(down) - 2 * rate * z
        return z - rate * ratio**2 * torch.tanh(odds / 2)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score of x_t."""
        alpha, sigma = (level(t.to(F64)).to(x)[:, None] for level in (PROCESS.alpha, PROCESS.sigma))
        return (alpha * self.denoise(x, t) - x) / sigma**2

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return increments [count, d]."""
        normal = torch.randn(count, SIZE, generator=generator, dtype=F64)
        if not self.laplace:
            return normal
        return normal * torch.sqrt(-torch.log(torch.rand(count, SIZE, generator=generator, dtype=F64)))


def worlds(generator: torch.Generator) -> Iterator[tuple[str, World]]:
    """The priors and operators of the benchmark."""
    sums = torch.ones(SIZE, SIZE, dtype=F64).tril()
    seen = torch.randperm(SIZE, generator=generator)[: SIZE // 2].sort().values
    reach = torch.arange(SIZE, dtype=F64)
    blur = torch.exp(-((reach[:, None] - reach) ** 2) / (2 * 2.0**2))
    blur = blur / blur.sum(1, keepdim=True)
    for laplace in (False, True):
        prior = "Laplace" if laplace else "Gaussian"
        yield f"{prior}, imputation", World(laplace, sums[seen], 0.3)
        yield f"{prior}, deconvolution", World(laplace, blur @ sums, 0.3)


def gibbs(world: World, y: Tensor, members: int, generator: torch.Generator, burn: int) -> Tensor:
    """Return increments [members, signals, d] by Gibbs sampling; Laplace increments are Gaussian given their own variances.

    Variances given increments are inverse to inverse Gaussians (Park and Casella 2008).
    """
    normal, back = world.rows.T @ world.rows / world.std**2, y @ world.rows / world.std**2
    variance, kept = torch.ones(len(y), SIZE, dtype=F64), []
    random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    for step in range(burn + members * (2 if world.laplace else 1)):
        factor = torch.linalg.cholesky(normal + torch.diag_embed(1 / variance))
        mean = torch.cholesky_solve(back[..., None], factor)
        white = torch.randn(len(y), SIZE, 1, generator=generator, dtype=F64)
        u = (mean + torch.linalg.solve_triangular(factor.mT, white, upper=True))[..., 0]
        if world.laplace:
            inverse = random.wald((math.sqrt(2) / u.abs().clamp(min=1e-12)).numpy(), 2.0)
            variance = (1 / torch.from_numpy(inverse)).clamp(1e-12, 1e6)
        if step >= burn and (step - burn) % (2 if world.laplace else 1) == 0:
            kept.append(u)
    return torch.stack(kept)


def ours(world: World, y: Tensor, ids: range, kind: str) -> tuple[Tensor, float, float]:
    """Return increments [members, d] given y [m], of samples with these ids, with the median rounds and the mean calls."""
    m = len(y)
    rows = world.rows.to_sparse().coalesce()
    none = torch.full((m,), -1), torch.zeros(m, dtype=F64)
    observations = LinearObservations(y, rows, torch.full((m,), world.std, dtype=F64), *none)
    reference = GaussianReference(torch.zeros(SIZE, dtype=F64), Pixelwise((SIZE,)), torch.ones(SIZE, dtype=F64))
    made = posterior(world.score, world.denoise, PROCESS, reference, observations, kind=kind)
    scheme = Collocation(PROCESS, made.reference, HORIZON, DELTA, 16)
    options = Options(tol=1e-2, model_batch=4096)
    sampler = Sampler(scheme, made.score, (SIZE,), 0, options, reference=made.reference, dtype=F64)
    solution = sampler.draw(list(ids))
    x = made.finished(solution.x, scheme.t[-1], None)
    return x, float(solution.rounds.double().median()), float(solution.calls.double().mean())


def theirs(world: World, y: Tensor, members: int, name: str, steps: int) -> Tensor:
    """Return increments [members, d] given y [m] by a sampler of azula on the same denoiser."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance import DiffPIRDenoiser, DPSSampler
    from azula.noise import VPSchedule
    from azula.sample import DDPMSampler

    class Exact(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return DiracPosterior(mean=world.expected(x_t / alpha, sigma / alpha))

    def operator(u: Tensor) -> Tensor:
        return u @ world.rows.T

    sampler: Any
    if name == "DPS":
        # its step is along the gradient of a norm over all members, which grows with the root of their number
        sampler = DPSSampler(Exact(), y, operator, zeta=ZETA * math.sqrt(members), steps=steps, silent=True)
    else:
        solved = DiffPIRDenoiser(Exact(), y, operator, world.std**2, lmbda=LAMBDA, solver="cg", iterations=16)
        sampler = DDPMSampler(solved, steps=steps, silent=True)
    torch.manual_seed(0)
    start = sampler.init((members, SIZE))
    return sampler(start.to(F64)).to(F64)


def measured(world: World, given: Any, generator: torch.Generator) -> list[list[Any]]:
    """One line for every method."""
    truth = world.draw(given.signals, generator)
    y = truth @ world.rows.T + world.std * torch.randn(given.signals, len(world.rows), generator=generator, dtype=F64)
    sums, level = torch.ones(SIZE, SIZE, dtype=F64).tril(), world.log_posterior(truth, y)
    gold = gibbs(world, y, given.gibbs, generator, given.gibbs // 4)
    half = len(gold) // 2  # regions of the Gibbs sampler's first half hold draws of the second
    levels = world.log_posterior(gold[half:], y)
    best = float((((gold.mean(0) - truth) @ sums.T) ** 2).mean())

    def line(name: str, samples: Tensor, rounds: float, calls: float) -> list[Any]:
        """Scores of samples [members, signals, d]."""
        # the quantile that a further draw of the same distribution exceeds in nine cases of ten, whatever the number of samples
        limit = torch.from_numpy(np.quantile(world.log_posterior(samples, y).numpy(), 0.1, axis=0, method="weibull"))
        inside, shares = (level >= limit).double(), (levels >= limit).double().mean(0)
        error = float((((samples.mean(0) - truth) @ sums.T) ** 2).mean())
        # the mean over finitely many members adds this to its error
        error -= float(((samples @ sums.T).var(0)).mean()) / len(samples)
        coverage = [float(shares.mean()), float(shares.std() / len(shares) ** 0.5), float(inside.mean())]
        return [name, *coverage, 10 * math.log10(error / best), rounds, calls]

    lines = [line("Gibbs", gold[:half], float("nan"), float("nan"))]
    for kind in ("kalman", "mmps"):
        # noise of its own for every signal: the same for all would make the error of their quantiles the same too
        ids = [range(k * given.members, (k + 1) * given.members) for k in range(len(y))]
        parts = [ours(world, one, own, kind) for one, own in zip(y, ids, strict=True)]
        costs = [float(np.median([part[k] for part in parts])) for k in (1, 2)]
        lines.append(line(kind, torch.stack([part[0] for part in parts], dim=1), costs[0], costs[1]))
    if importlib.util.find_spec("azula") is not None:
        for name in ("DPS", "DiffPIR"):
            parts = [theirs(world, one, given.members, name, given.steps) for one in y]
            lines.append(line(f"{name} (azula)", torch.stack(parts, dim=1), given.steps, given.steps))
    return lines


def main() -> int:
    options = parser(str(__doc__))
    options.add_argument("--signals", type=int, default=60)
    options.add_argument("--members", type=int, default=60)
    options.add_argument("--gibbs", type=int, default=1000, help="samples of the Gibbs sampler")
    options.add_argument("--steps", type=int, default=256, help="steps of DPS and DiffPIR")
    given = options.parse_args()
    if given.quick:
        given.signals, given.members, given.gibbs, given.steps = 2, 8, 40, 4
    torch.set_num_threads(1)
    report, generator = Report("increments"), torch.Generator().manual_seed(0)
    for name, world in worlds(generator):
        lines = measured(world, given, generator)
        report.add(name, COLUMNS, lines)
        found = {line[0]: line for line in lines}
        if given.quick:
            report.aims.append(at_most(f"{name}, rounds of kalman", found["kalman"][5], 40))
            continue
        report.aims.append(at_most(f"{name}, gap of mmps [dB]", found["mmps"][4], 0.1))
        for kind in ("kalman", "mmps"):
            report.aims.append(between(f"{name}, coverage of {kind}", found[kind][1], 0.87, 0.93))
    return report.finish(given.json)


if __name__ == "__main__":
    sys.exit(main())
