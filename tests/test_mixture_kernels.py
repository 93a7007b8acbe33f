"""Gaussian mixture kernels: the closed-form fit, moments from differences, the chain, and the gain in few steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import F64, mixture, solve
from torch import Tensor

from piadm_hpc import grid, integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.integrators.mixture import WEIGHT, DifferenceMoments, MixtureKernel, fit, gms, kernel
from piadm_hpc.models.analytic import GaussianField, GaussianMixture
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.process import EDM, OU, VP, Process, forward_time


def test_the_fit_meets_three_moments_up_to_a_skewness_and_two_beyond() -> None:
    variance = torch.tensor([1.7, 1.0, 0.3, 2.0], dtype=F64)
    third = torch.tensor([0.9, -0.5, 0.0, 40.0], dtype=F64)
    first, second, within = fit(variance, third)
    w, v = WEIGHT, within
    assert torch.allclose(w * first + (1 - w) * second, torch.zeros(4, dtype=F64), atol=1e-15)
    assert torch.allclose(w * (first**2 + v) + (1 - w) * (second**2 + v), variance, atol=1e-14)
    found = w * (first**3 + 3 * first * v) + (1 - w) * (second**3 + 3 * second * v)
    assert torch.allclose(found[:3], third[:3], atol=1e-14) and 0 < float(found[3]) < 40
    assert bool((within >= 0.0999 * variance).all())


def line(process: Process) -> GaussianMixture:
    """Three modes on a line."""
    means, widths = torch.tensor([[-1.2], [0.1], [1.0]], dtype=F64), torch.tensor([[0.08], [0.2], [0.05]], dtype=F64)
    return GaussianMixture(process, means, widths**2, torch.tensor([0.35, 0.4, 0.25], dtype=F64))


def posterior(x: Tensor, t: Tensor, target: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Exact variance and third cumulant of x_0 given x [rows, 1] of a mixture on a line."""
    a, s = (level(t).to(F64)[:, None] for level in (target.process.alpha, target.process.sigma))
    m, v = target.means.T, target.variances.T
    total = a**2 * v + s**2
    logs = torch.log(target.weights) - (x - a * m) ** 2 / total / 2 - torch.log(total) / 2
    share, means, within = torch.softmax(logs, 1), m + a * v / total * (x - a * m), v * s**2 / total
    mean = (share * means).sum(1, keepdim=True)
    away = means - mean
    return (share * (within + away**2)).sum(1, keepdim=True), (share * (3 * within * away + away**3)).sum(1, keepdim=True)


@pytest.mark.parametrize("process", [VP(), OU(), EDM()], ids=["vp", "ou", "edm"])
def test_differences_of_a_score_give_the_moments(process: Process) -> None:
    """In one dimension the probe has one entry, so that products with it are exact derivatives times its powers."""
    target = line(process)
    reference = target.reference()
    t = process.time(torch.tensor([0.05, 0.3, 1.0, 3.0], dtype=F64)).repeat_interleave(5)
    x = torch.linspace(-1, 1, 20, dtype=F64)[:, None]
    moments = DifferenceMoments(target.score, process, reference, step=1e-3)
    score, variance, third = moments(x, t)
    exact = posterior(x, t, target)
    assert torch.allclose(score, target.score(x, t))
    assert torch.allclose(variance, exact[0], rtol=1e-3, atol=1e-6)
    assert torch.allclose(third, exact[1], rtol=1e-2, atol=1e-4)


def test_probes_single_out_the_diagonal() -> None:
    """For coupled modes this holds on average over probes; for independent ones with every probe, also for the third cumulant."""
    generator = torch.Generator().manual_seed(0)
    J, skew = torch.randn(3, 3, dtype=F64, generator=generator), torch.tensor([0.5, -2.0, 0.0], dtype=F64)
    process, flat = EDM(), GaussianReference(torch.zeros(3, dtype=F64), Pixelwise((3,)), torch.ones(3, dtype=F64))

    def moments(J: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def score(x: Tensor, t: Tensor) -> Tensor:
            return (x @ J.T + skew * x**2 / 2 - x) / t[:, None] ** 2

        t = torch.linspace(1, 1.0001, 4000, dtype=F64)
        return DifferenceMoments(score, process, flat)(torch.zeros(4000, 3, dtype=F64), t)

    J = J + 5 * torch.eye(3, dtype=F64)  # variances are positive
    assert torch.allclose(moments(J)[1].mean(0), torch.diagonal(J), atol=0.15)
    _, variance, third = moments(torch.diag(torch.diagonal(J)))
    assert torch.allclose(variance, torch.diagonal(J).expand(4000, 3), rtol=1e-3)
    assert torch.allclose(third, skew.expand(4000, 3), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("linear", ["identity", "reference"])
def test_sweeps_end_at_the_sequential_chain(linear: str) -> None:
    target, process = mixture(VP()), VP()
    reference = target.reference()
    made = grid.log_snr(process, 8, horizon=6.0, delta=0.02)
    chain = integrators.build("gms", process, made, reference=reference)
    score = integrators.score_of("gms", target.score, process, made, reference)
    sampler = Sampler(chain, score, (12,), 1, Options(linear=linear, tol=1e-12), reference=reference, dtype=F64)
    swept, oracle = sampler.draw([0, 3]), replace(sampler, options=Options(solver="sequential")).draw([0, 3])
    assert torch.allclose(swept.x, oracle.x, atol=1e-9)


def test_a_gaussian_is_exact_in_one_sweep_and_any_number_of_steps() -> None:
    reference = GaussianReference(torch.zeros(5, dtype=F64), Pixelwise((5,)), torch.tensor([0.01, 0.1, 0.5, 1, 3], dtype=F64))
    target, process = GaussianField(OU(), reference), OU()
    made = grid.log_snr(process, 3, horizon=8.0, delta=0.01)
    names = range(3000)
    sampler = Sampler(
        gms(process, made, reference), kernel(target.score, process, made, reference), (5,), 0, Options(tol=1e-2),
        reference=reference, dtype=F64,
    )  # fmt: skip
    found = sampler.draw(names)
    # the first sweep finds the path; a bound whose growth was measured at one move may need a second one
    assert int(found.rounds.max()) <= 3
    assert torch.allclose(found.x.var(0), reference.variance(process.alpha(made.t[-1]), process.sigma(made.t[-1])), rtol=0.12)


def test_few_steps_are_nearer_to_a_mixture_than_ancestral_sampling() -> None:
    """With exact moments, Wasserstein-2 distances on a line are smaller for 3 and 5 steps of the quadratic VP grid."""
    target, process, count = line(VP()), VP(), 20_000
    reference = target.reference()
    ends = torch.tensor([1.0, 1e-3], dtype=F64)
    horizon, delta = forward_time(process, ends).tolist()
    generator = torch.Generator().manual_seed(1)
    alpha, sigma = process.alpha(ends[1]), process.sigma(ends[1])
    exact = alpha * target.sample(count, generator) + sigma * torch.randn(count, 1, generator=generator, dtype=F64)

    def moments(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (target.score(x, t), *posterior(x, t, target))

    for steps, ancestral, mixed in ((3, 0.477, 0.111), (5, 0.353, 0.074)):
        made = grid.power(process, steps, horizon=horizon, delta=delta, exponent=2.0, clock=grid.process_clock(process))
        found = []
        for chain, score in (
            (integrators.ddpm(process, made), target.score),
            (gms(process, made, reference), MixtureKernel(moments, process, reference, made.t)),
        ):
            first = torch.randn(count, chain.channels, 1, dtype=F64, generator=generator)
            noise = torch.randn(steps, count, chain.channels, 1, dtype=F64, generator=generator)
            x = solve(chain, score, (first[:, 0], first[:, 1:]), noise=noise, solver="sequential").x
            found.append(float((torch.sort(x, 0).values - torch.sort(exact, 0).values).square().mean().sqrt()))
        assert found == pytest.approx([ancestral, mixed], abs=0.03)
