"""Problems with observations whose posterior is known in closed form, and functions that sample from their posteriors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from piadm_hpc.gaussian.conditioned import covariance
from piadm_hpc.gaussian.masked import MaskedEOF
from piadm_hpc.gaussian.observed import LinearObservations
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.analytic import GaussianField, GaussianMixture, sphere_field
from piadm_hpc.models.observations.posterior import Posterior, posterior
from piadm_hpc.models.observations.scores import Denoise
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.evaluate import Score
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.solvers.solution import Solution
from piadm_hpc.theory.process import OU, Process

F64 = torch.float64
PROCESS = OU()
HORIZON, DELTA = 8.0, 1e-3


def observe(
    rows: Tensor, values: Tensor, std: Tensor | float, group: Tensor | None = None, correlation: float = 0.0
) -> LinearObservations:
    """Return observations of states through dense rows [m, d]."""
    m = len(values)
    group = torch.full((m,), -1) if group is None else group
    correlations = torch.where(group < 0, 0.0, torch.tensor(correlation)).to(F64)
    spread = torch.as_tensor(std, dtype=F64).expand(m).clone()
    return LinearObservations(values, rows.to_sparse().coalesce(), spread, group, correlations)


def points(size: int, count: int, seed: int = 0, among: Tensor | None = None) -> Tensor:
    """Return rows [count, size] that read single entries."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(size) if among is None else torch.nonzero(among).flatten()
    chosen = places[torch.randperm(len(places), generator=generator)[:count]]
    return torch.eye(size, dtype=F64)[chosen]


def sphere() -> GaussianField:
    """Return a Gaussian field on a sphere of 12 x 24 points, with variance in every direction."""
    return sphere_field(PROCESS, 12, 24, (1 + torch.arange(12, dtype=F64)) ** -2)


def masked() -> GaussianField:
    """Return a Gaussian field on 8 x 15 points, 40 of them without data."""
    generator = torch.Generator().manual_seed(5)
    valid = torch.ones(120, dtype=torch.bool)
    valid[torch.randperm(120, generator=generator)[:40]] = False
    noise = torch.randn(120, 12, generator=generator, dtype=F64) * valid[:, None]
    modes = torch.linalg.qr(noise)[0]
    spectrum = torch.cat([torch.linspace(4, 0.4, 12, dtype=F64), torch.tensor([0.05, 0.0], dtype=F64)])
    mean = torch.randn(120, generator=generator, dtype=F64) * valid
    return GaussianField(PROCESS, GaussianReference(mean, MaskedEOF(modes, (8, 15), valid), spectrum))


def dense(reference: GaussianReference) -> Tensor:
    """Return the covariance of a reference, [d, d]."""
    return covariance(reference, reference.spectrum.to(F64), torch.eye(len(reference.mean), dtype=F64))


def closed_form(mean: Tensor, prior: Tensor, observations: LinearObservations) -> tuple[Tensor, Tensor]:
    """Return mean [d] and covariance [d, d] of a Gaussian given observations, by the formula for a joint Gaussian."""
    rows = observations.rows.to_dense()
    gain = prior @ rows.T @ torch.linalg.inv(rows @ prior @ rows.T + observations.noise_matrix())
    return mean + gain @ (observations.values - rows @ mean), prior - gain @ rows @ prior


def denoiser(score: Score, process: Process = PROCESS) -> Denoise:
    """Return the estimate E[x_0 | x_t] of a score as a function, differentiable where the score is."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = (level(t.to(F64)).reshape(shape).to(x.dtype) for level in (process.alpha, process.sigma))
        return (x + sigma**2 * score(x, t)) / alpha

    return denoise


@dataclass(frozen=True)
class Drawn:
    """Samples [n, d] of a posterior after its last step, with the solution, the posterior and the sampler."""

    x: Tensor
    solution: Solution
    posterior: Posterior
    sampler: Sampler


def draw(
    score: Score, reference: GaussianReference, observations: LinearObservations, count: int, *, kind: str = "auto",
    points: int = 10, delta: float = DELTA, seed: int = 0,
) -> Drawn:  # fmt: skip
    """Draw samples of the posterior by collocation."""
    made = posterior(score, denoiser(score), PROCESS, reference, observations, kind=kind)
    scheme = Collocation(PROCESS, made.reference, HORIZON, delta, points)
    options = Options(tol=1e-2, scale=torch.sqrt((dense(reference)).diagonal()).clamp(min=1e-3), model_batch=256)
    sampler = Sampler(scheme, made.score, reference.event_shape, seed, options, reference=made.reference, dtype=F64)
    solution = sampler.draw(list(range(count)))
    return Drawn(made.last_step(solution.x, scheme.t[-1]).flatten(1), solution, made, sampler)


def world(size: int = 24, seen: int = 6) -> tuple[GaussianMixture, Process, Tensor, Tensor, Tensor]:
    """Return a mixture of three components and observations of rotated coordinates: target, process, rows, values, std."""
    generator = torch.Generator().manual_seed(5)
    spectrum = torch.arange(1, size + 1, dtype=F64) ** -1.5
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    means = torch.zeros(3, size, dtype=F64)
    means[:, :6] = torch.randn(3, 6, generator=generator, dtype=F64) * spectrum[:6].sqrt()
    means -= weights @ means
    variances = torch.stack([spectrum * factor for factor in (0.6, 1.0, 0.8)])
    target = GaussianMixture(PROCESS, means, variances, weights)
    rows = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=F64))[0][:seen]
    std = 0.3 * torch.sqrt(rows**2 @ target.reference().spectrum)
    truth = target.sample(1, torch.Generator().manual_seed(11))[0]
    values = rows @ truth + std * torch.randn(seen, generator=torch.Generator().manual_seed(12), dtype=F64)
    return target, PROCESS, rows, values, std


def mixture_posterior(target: GaussianMixture, observations: LinearObservations) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights [C], means [C, d] and covariances [C, d, d] of a mixture with diagonal covariances given observations."""
    rows, logs, means, covariances = observations.rows.to_dense(), [], [], []
    for weight, mean, variance in zip(target.weights, target.means, target.variances, strict=True):
        seen = rows * variance @ rows.T + observations.noise_matrix()
        away = observations.values - rows @ mean
        logs.append(torch.log(weight) - 0.5 * torch.logdet(seen) - 0.5 * away @ torch.linalg.solve(seen, away))
        centre, spread = closed_form(mean, torch.diag(variance), observations)
        means.append(centre)
        covariances.append(spread)
    return torch.softmax(torch.stack(logs), 0), torch.stack(means), torch.stack(covariances)
