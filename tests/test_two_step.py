"""The two-step Gaussian-aware integrator with noise: exact moments, its recursion, published limits, order and sweeps."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from problems import F64, HORIZONS, SIZE, drawn, mixture, solve
from scipy.integrate import quad

from piadm_hpc import grid, integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.integrators.exponential import gaussian_flow
from piadm_hpc.models.analytic import GaussianField, GaussianMixture
from piadm_hpc.solvers.linear import reference_part
from piadm_hpc.solvers.solution import Status
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import EDM, OU, VP, Flow, Process, forward_time

PROCESSES = [OU(), VP(), EDM(), Flow()]
ETAS = [0.0, 0.5, 1.0]
SPECTRUM = torch.tensor([1e-3, 0.05, 0.6, 1.0, 3.0, 80.0], dtype=F64)


def reference(spectrum: torch.Tensor = SPECTRUM) -> GaussianReference:
    mean = torch.linspace(-1, 2, len(spectrum), dtype=F64)
    return GaussianReference(mean, Pixelwise((len(spectrum),)), spectrum)


def named(process: Process) -> str:
    return type(process).__name__


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize("eta", ETAS)
def test_moments_on_its_gaussian_are_exact_for_any_steps(process: Process, eta: float) -> None:
    gaussian = reference()
    made = grid.log_snr(process, 3, horizon=HORIZONS[type(process)], delta=0.02)
    chain = integrators.gaussian_ab2(process, made, gaussian, eta=eta)
    step, covariance = reference_part(chain, gaussian).A, torch.zeros(len(SPECTRUM), 2, 2, dtype=F64)
    covariance[:, 0, 0] = gaussian.variance(chain.alpha[0], chain.sigma[0])
    for j in range(3):
        noise = chain.noise[j] @ chain.noise[j].mT
        covariance = step[j] @ covariance @ step[j].mT + noise
    assert torch.allclose(covariance[:, 0, 0], gaussian.variance(chain.alpha[-1], chain.sigma[-1]), rtol=1e-11)
    assert chain.stochastic == (eta > 0) and chain.drawn == 1
    field = GaussianField(process, gaussian)
    still = torch.zeros(3, 1, len(SPECTRUM), dtype=F64)
    centre = (chain.alpha[0] * gaussian.mean)[None]
    end = solve(chain, field.score, centre, reference=gaussian, noise=still, solver="sequential").x
    assert torch.allclose(end[0], chain.alpha[-1] * gaussian.mean, atol=1e-11)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("variance", [0.3, 5.0])
def test_it_follows_its_recursion(eta: float, variance: float) -> None:
    """With one variable and a non-Gaussian score, weights of remainder and slope are compared with scipy's quadrature."""
    gaussian, made = reference(torch.tensor([variance], dtype=F64)), grid.log_snr(EDM(), 6, horizon=5.0, delta=0.02)
    chain, kappa, mean = integrators.gaussian_ab2(EDM(), made, gaussian, eta=eta), (1 + eta**2) / 2, float(gaussian.mean)
    xi = torch.randn(6, 1, 1, dtype=F64, generator=torch.Generator().manual_seed(2))

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(x) - x) / (1 + t.reshape(-1, 1) ** 2)

    theta = forward_time(EDM(), made.t).tolist()

    def v(u: float) -> float:
        return variance * math.exp(-u) - math.expm1(-u)

    def log_snr(u: float) -> float:
        return -math.log(math.expm1(u))

    def weight(a: float, b: float, power: int) -> float:
        def integrand(snr: float) -> float:
            u = math.log1p(math.exp(-snr))
            carry = math.exp((0.5 - kappa) * (u - b)) * (v(b) / v(u)) ** kappa
            return kappa * carry * math.exp(-u / 2) * (snr - log_snr(a)) ** power

        return float(quad(integrand, log_snr(a), log_snr(b), epsabs=0, epsrel=1e-12)[0])

    x = torch.tensor([[0.7]], dtype=F64) * made.t[0]
    y, before = float(x) / math.exp(theta[0] / 2), 0.0
    for j, (a, b) in enumerate(pairwise(theta)):
        alpha, sigma2 = math.exp(-a / 2), -math.expm1(-a)
        state = torch.tensor([[y * math.exp(a / 2)]], dtype=F64)
        own = math.exp(a / 2) * float(score(state, made.t[j : j + 1]))
        centred = y - alpha * mean
        remainder = sigma2 / alpha * (own + centred / v(a))
        phi = math.exp((0.5 - kappa) * (a - b)) * (v(b) / v(a)) ** kappa
        spread = v(b) * (1 - (math.exp(b - a) * v(b) / v(a)) ** (eta**2))
        centred = phi * centred + weight(a, b, 0) * remainder + math.sqrt(spread) * float(xi[j])
        if j:
            centred += weight(a, b, 1) * (remainder - before) / (log_snr(a) - log_snr(theta[j - 1]))
        y, before = centred + math.exp(-b / 2) * mean, remainder
    given = {"reference": gaussian, "noise": xi, "solver": "sequential"}
    end = solve(chain, score, (x, torch.ones_like(x)), **given).x
    assert float(end) == pytest.approx(y * math.exp(theta[-1] / 2), rel=1e-9)


def test_a_reference_without_variance_makes_it_the_stochastic_dpm_solver() -> None:
    """The solver is SDE-DPM-Solver++(2M) with the exact weight of the slope (Lu et al. 2022; "heun" in diffusers)."""
    flat, made = reference(torch.tensor([1e-13], dtype=F64)), grid.log_snr(VP(), 5, horizon=5.0, delta=0.02)
    chain = integrators.gaussian_ab2(VP(), made, flat, eta=1.0)
    alpha, sigma = VP().alpha(made.t), VP().sigma(made.t)
    half = torch.log(alpha / sigma)
    for j in range(5):
        h = half[j + 1] - half[j]
        whole = -alpha[j + 1] * torch.expm1(-2 * h)
        slope = alpha[j + 1] * (1 + torch.expm1(-2 * h) / (2 * h)) * (h / (half[j] - half[j - 1]) if j else 0.0)
        weight = (whole + slope) * sigma[j] ** 2 / alpha[j]
        assert float(chain.Q[j, 0, 0, 0]) == pytest.approx(float(weight), rel=1e-9)
        assert float(chain.noise[j, 0, 0, 0]) == pytest.approx(float(sigma[j + 1] * torch.sqrt(-torch.expm1(-2 * h))), rel=1e-9)
        if j + 1 < 5:
            after = half[j + 2] - half[j + 1]
            kept = alpha[j + 2] * (1 + torch.expm1(-2 * after) / (2 * after)) * after / h * sigma[j] ** 2 / alpha[j]
            assert float(chain.Q[j, 0, 1, 0]) == pytest.approx(float(kept), rel=1e-9)


def one_step_noise(steps: int, gaussian: GaussianReference, eta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors [steps, d] of the state and of the draws in exact steps on the Gaussian."""
    made = grid.log_snr(OU(), steps, horizon=HORIZONS[OU], delta=0.02)
    phi, deviation, _ = gaussian_flow(made.t, gaussian, eta)
    return gaussian.basis.expand(phi), gaussian.basis.expand(deviation)


@pytest.mark.parametrize(("eta", "low", "high"), [(0.0, 1.8, 2.4), (0.2, 0.9, 2.4), (1.0, 0.8, 1.5)])
def test_strong_order(eta: float, low: float, high: float) -> None:
    """Compared with a fine chain along the same Brownian path, the order is two without noise, and one with it."""
    target = mixture(OU())
    gaussian, samples = target.reference(), list(range(24))
    fine, levels = 1024, (256, 128, 64, 32)
    xi = Noise(3, SIZE, dtype=F64).at(range(fine), samples)[:, :, 0]
    draws, ends = gaussian.basis.analyse(xi), dict[int, torch.Tensor]()
    for steps in (fine, 512, *levels):
        if steps < fine and eta:
            phi, single = (table[:, None] for table in one_step_noise(2 * steps, gaussian, eta))
            joined = phi[1::2] * single[::2] * draws[::2] + single[1::2] * draws[1::2]
            draws = joined / one_step_noise(steps, gaussian, eta)[1][:, None]
        made = grid.log_snr(OU(), steps, horizon=HORIZONS[OU], delta=0.02)
        chain = integrators.gaussian_ab2(OU(), made, gaussian, eta=eta)
        given = gaussian.basis.synthesise(draws) if eta else None
        x0 = drawn(chain, gaussian, samples, 5)
        ends[steps] = solve(chain, target.score, x0, noise=given, reference=gaussian, solver="sequential").x
    errors = [float((ends[steps] - ends[fine]).square().mean().sqrt()) for steps in levels]
    orders = [math.log2(b / a) for a, b in pairwise(errors)]
    assert low < sum(orders) / len(orders) < high, (errors, orders)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("how", [{}, {"window": 6}, {"pipelined": True}, {"alternate": True}], ids=str)
def test_sweeps_find_its_steps(eta: float, how: dict[str, object]) -> None:
    target = mixture(EDM())
    gaussian, samples = target.reference(), [4, 9, 2]
    made = grid.log_snr(EDM(), 18, horizon=HORIZONS[EDM], delta=0.02, num_blocks=3 if "pipelined" in how else 1)
    chain, noise = integrators.gaussian_ab2(EDM(), made, gaussian, eta=eta), Noise(1, SIZE, dtype=F64)
    x0 = drawn(chain, gaussian, samples, 1)
    given = {"noise": noise, "samples": samples, "reference": gaussian}
    found = solve(chain, target.score, (x0, torch.randn_like(x0)), tol=1e-6, **given, **how)
    steps = solve(chain, target.score, x0, solver="sequential", **given)
    assert bool(found.converged.all()) and float((found.x - steps.x).abs().max()) < 1e-5
    assert int(found.rounds.max()) <= 18 + 3 * bool(how)


def test_a_path_that_sweeps_make_worse_is_not_certified() -> None:
    """Without a preconditioner a sweep can turn a path within the tolerance into one far outside of it."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64)
    target = GaussianMixture(OU(), means, torch.full_like(means, 4e-4), torch.ones(2, dtype=F64))
    reference, tol, samples = target.reference(), 1e-2, list(range(64))
    chain = integrators.gaussian_ab2(OU(), grid.log_snr(OU(), 48, horizon=8.0, delta=2e-4), reference, eta=0.5)
    noise = Noise(0, 2, dtype=F64)
    x0 = reference.draw_state(noise.at([0], samples, 2, PRIOR)[0], *chain.entry())
    x0 = (x0[:, 0], x0[:, 1:])
    common = {"noise": noise, "samples": samples, "reference": reference}
    truth = solve(chain, target.score, x0, solver="sequential", **common)
    for window in (32, None):
        found = solve(chain, target.score, x0, tol=tol, linear="identity", window=window, **common)
        error = (found.x - truth.x).square().mean(1).sqrt()
        assert float(torch.where(found.converged, error, 0.0).max()) <= 2 * tol
        assert float(error[~found.converged].max()) < 1e-9 and int(found.status.max()) == Status.FINISHED_SEQUENTIALLY


def test_growth_that_was_measured_once_certifies_no_sample() -> None:
    """The first path of a wrong reference misses a distant, narrow mode; one move does not measure how its errors grow."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64)
    target = GaussianMixture(OU(), means, torch.full_like(means, 4e-4), torch.tensor([0.99, 0.01], dtype=F64))
    own, tol, samples = target.reference(), 1e-3, list(range(64))
    scale = float(own.spectrum.mean().sqrt())
    reference = replace(own, spectrum=own.spectrum / 100)
    chain = integrators.gaussian_ab2(OU(), grid.log_snr(OU(), 100, horizon=8.0, delta=2e-4), reference, eta=1.0)
    noise = Noise(0, 2, dtype=F64)
    first = own.draw_state(noise.at([0], samples, 2, PRIOR)[0], *chain.entry())
    common = {"noise": noise, "samples": samples, "reference": reference}
    truth = solve(chain, target.score, (first[:, 0], first[:, 1:]), solver="sequential", **common)
    found = solve(chain, target.score, (first[:, 0], first[:, 1:]), tol=tol, scale=scale, **common)
    assert bool(found.converged.all())
    assert float((found.x - truth.x).square().mean(1).sqrt().max()) <= scale * tol
