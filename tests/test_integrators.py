"""The tables of every chain are compared with quadrature, published recursions and exact moments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm

from piadm_hpc import grid, integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.integrators.conjugate import best_lambda
from piadm_hpc.integrators.langevin import noise_covariance, step_tables
from piadm_hpc.solvers.linear import reference_part
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.process import EDM, OU, VP, Flow, forward_time

F64 = torch.float64
SPECTRUM = torch.tensor([1e-3, 0.05, 0.6, 1.0, 3.0, 80.0], dtype=F64)


def reference() -> GaussianReference:
    return GaussianReference(torch.zeros(len(SPECTRUM), dtype=F64), Pixelwise((len(SPECTRUM),)), SPECTRUM)


def final_variance(chain: Chain, spectrum: torch.Tensor) -> torch.Tensor:
    """Variance of the chain's last point on a Gaussian with the given spectrum, by exact moment propagation per mode."""
    gaussian = GaussianReference(torch.zeros(len(spectrum), dtype=F64), chain.basis or Pixelwise((len(spectrum),)), spectrum)
    step = reference_part(chain, gaussian).A[:, :, 0, 0]
    noise = chain.noise[:, :, 0, 0]
    variance = gaussian.variance(chain.alpha[0], chain.sigma[0])
    for j in range(chain.num_steps):
        variance = step[j] ** 2 * variance + noise[j] ** 2
    return variance


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_piadm_weights_against_quadrature(eta: float) -> None:
    chain = integrators.piadm(OU(), grid.from_times(torch.tensor([1.3, 0.9], dtype=F64)), eta=eta)
    step, kappa = 0.4, (1 + eta**2) / 2
    drift = quad(lambda r: kappa * math.exp(r / 2), 0, step)[0]
    variance = quad(lambda r: eta**2 * math.exp(r), 0, step)[0]
    assert chain.P.item() == pytest.approx(math.exp(step / 2), rel=1e-14)
    assert chain.Q.item() == pytest.approx(drift, rel=1e-12)
    assert chain.noise.item() == pytest.approx(math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_frozen_score_chains_are_of_first_order_in_the_variance(eta: float) -> None:
    for make in (integrators.piadm, integrators.euler_maruyama):
        errors = []
        for step in (0.04, 0.02):
            made = grid.piadm(OU(), horizon=8.0, delta=1e-3, step=step)
            target = 1 + (SPECTRUM[2:4] - 1) * math.exp(-1e-3)
            chain = make(OU(), made, eta=eta)
            errors.append(float((final_variance(chain, SPECTRUM[2:4]) / target - 1).abs().max()))
        assert 1.8 < errors[0] / errors[1] < 2.2


@pytest.mark.parametrize("process, ends", [(OU(), (8.0, 1e-3)), (EDM(), (40.0, 0.02)), (Flow(), (0.98, 0.02))])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gaussian_aware_chain_is_exact_on_a_gaussian_in_one_step(process: Any, ends: Any, eta: float) -> None:
    t = torch.tensor(ends, dtype=F64)
    chain = integrators.gaussian_exponential(process, grid.from_times(t), reference(), eta=eta)
    exact = reference().variance(process.alpha(t[1]), process.sigma(t[1]))
    assert torch.allclose(final_variance(chain, SPECTRUM), exact, rtol=1e-12)


def remainder_weight(chain: Chain) -> torch.Tensor:
    """psi [K] of a one-step chain, from Q = psi sigma^2 / alpha."""
    return chain.Q[0, :, 0, 0] * chain.alpha[0] / chain.sigma[0] ** 2


def test_remainder_weights_against_closed_forms() -> None:
    made = grid.from_times(torch.tensor([5.0, 0.01], dtype=F64))
    a, s = OU().alpha(made.t), OU().sigma(made.t)
    v = reference().variance(a, s)
    snr = (a / s) ** 2
    sde = v[1] / (a[1] * SPECTRUM) * torch.log(v[1] * s[0] ** 2 / (v[0] * s[1] ** 2))
    ode = torch.sqrt(v[1] / SPECTRUM) * (torch.asinh(torch.sqrt(SPECTRUM * snr[1])) - torch.asinh(torch.sqrt(SPECTRUM * snr[0])))
    for eta, expected in ((1.0, sde), (0.0, ode)):
        chain = integrators.gaussian_exponential(OU(), made, reference(), eta=eta)
        assert torch.allclose(remainder_weight(chain), expected, rtol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_small_and_large_spectra_reduce_to_data_and_noise_prediction(eta: float) -> None:
    made = grid.from_times(torch.tensor([1.0, 0.7], dtype=F64))
    for variance, known in ((1e-9, integrators.ddim(OU(), made, eta=eta)), (1e7, integrators.piadm(OU(), made, eta=eta))):
        flat = GaussianReference(torch.zeros(1, dtype=F64), Pixelwise((1,)), torch.tensor([variance], dtype=F64))
        chain = integrators.gaussian_exponential(OU(), made, flat, eta=eta)
        if variance < 1:
            assert torch.allclose(chain.P.flatten(), known.P.flatten(), rtol=1e-6)
            assert torch.allclose(chain.Q.flatten(), known.Q.flatten(), rtol=1e-6)
        else:
            assert torch.allclose(chain.P.flatten(), known.P.flatten(), rtol=1e-5)


def published_ddim(process: Any, grid_: Any, x: torch.Tensor, eps: Any, xi: torch.Tensor, eta: float) -> Any:
    """DDIM by Song et al. 2021, eq. 12, with the cumulative product written out."""
    bar = process.alpha(grid_.t) ** 2
    for j in range(grid_.num_steps):
        now, after = bar[j], bar[j + 1]
        c = eta * torch.sqrt((1 - after) / (1 - now)) * torch.sqrt(1 - now / after)
        x0 = (x - torch.sqrt(1 - now) * eps) / torch.sqrt(now)
        x = torch.sqrt(after) * x0 + torch.sqrt(1 - after - c**2) * eps + c * xi[j]
    return x


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_follows_the_published_recursion(eta: float) -> None:
    made = grid.log_snr(VP(), 12, horizon=6.0, delta=1e-2)
    chain = integrators.ddim(VP(), made, eta=eta)
    x, eps, xi = torch.randn(4, dtype=F64), torch.randn(4, dtype=F64), torch.randn(12, 4, dtype=F64)
    y = x
    for j in range(12):
        y = chain.P[j].item() * y + chain.Q[j].item() * (-eps / chain.sigma[j]) + chain.noise[j].item() * xi[j]
    assert torch.allclose(y, published_ddim(VP(), made, x, eps, xi, eta), rtol=1e-11)


def test_ancestral_sampling_has_the_posterior_of_ho_et_al() -> None:
    made = grid.log_snr(VP(), 8, horizon=6.0, delta=1e-2)
    chain = integrators.ddpm(VP(), made)
    bar = VP().alpha(made.t) ** 2
    beta = 1 - bar[:-1] / bar[1:]
    mean_x = torch.sqrt(1 - beta) * (1 - bar[1:]) / (1 - bar[:-1])
    mean_0 = torch.sqrt(bar[1:]) * beta / (1 - bar[:-1])
    # x0 = (x + sigma^2 s)/alpha turns the posterior mean into P x + Q s
    assert torch.allclose(chain.P.flatten(), mean_x + mean_0 / torch.sqrt(bar[:-1]), rtol=1e-11)
    assert torch.allclose(chain.Q.flatten(), mean_0 * (1 - bar[:-1]) / torch.sqrt(bar[:-1]), rtol=1e-11)
    assert torch.allclose(chain.noise.flatten() ** 2, beta * (1 - bar[1:]) / (1 - bar[:-1]), rtol=1e-11)
    large = integrators.ddpm(VP(), made, large_variance=True)
    assert torch.allclose(large.noise.flatten() ** 2, beta, rtol=1e-11)


def test_multistep_solver_follows_the_published_algorithm() -> None:
    made = grid.log_snr(VP(), 9, horizon=6.0, delta=1e-2)
    chain = integrators.dpmpp_2m(VP(), made)
    a, s = VP().alpha(made.t), VP().sigma(made.t)
    lam = torch.log(a / s)
    gaussian = reference()
    x = torch.randn(1, 6, dtype=F64)
    state, y, previous = torch.stack([x[0], torch.zeros(6, dtype=F64)]), x, None
    for j in range(9):
        score = gaussian.score(VP(), y, made.t[j : j + 1])
        data, h = (y + s[j] ** 2 * score) / a[j], lam[j + 1] - lam[j]
        ratio = None if previous is None else (lam[j] - lam[j - 1]) / h
        mixed = data if previous is None else (1 + 1 / (2 * ratio)) * data - previous / (2 * ratio)
        y, previous = s[j + 1] / s[j] * y - a[j + 1] * torch.expm1(-h) * mixed, data
        kick = gaussian.score(VP(), state[:1], made.t[j : j + 1])[0]
        state = chain.P[j, 0] @ state + chain.Q[j, 0] * kick
    assert torch.allclose(state[0], y[0], rtol=1e-12)


def quadrature(f: Any, low: float, high: float) -> float:
    return quad(lambda q: 2 * q * f(q * q), math.sqrt(low), math.sqrt(high), epsabs=0, epsrel=1e-13)[0]


@pytest.mark.parametrize("lam", [0.0, -0.5, 1.0])
def test_lambda_ddim_against_quadrature(lam: float) -> None:
    """The coefficients c and w of a step on the VP clock are compared; the integral of beta is written out."""
    made = grid.from_times(torch.tensor([0.8, 0.3, 0.001], dtype=F64))
    chain = integrators.lambda_ddim(VP(), made, lam=lam)

    def b(u: Any) -> Any:
        return 0.1 * u + 19.9 * u * u / 2

    for j, (u, v) in enumerate([(0.8, 0.3), (0.3, 0.001)]):
        grow = math.exp(lam * (u - v) + (b(u) - b(v)) / 2)
        assert chain.P[j].item() == pytest.approx(grow * (1 - lam * (u - v)), rel=1e-13)

        def rate(s: float, v: float = v) -> float:
            return math.exp(lam * (s - v) + (b(s) - b(v)) / 2) * (0.1 + 19.9 * s) / 2 / math.sqrt(-math.expm1(-b(s)))

        w = quadrature(rate, v, u)
        assert chain.Q[j].item() == pytest.approx(w * math.sqrt(-math.expm1(-b(u))), rel=1e-12)


@pytest.mark.parametrize("process", [VP(), OU(), EDM(), Flow()], ids=lambda p: type(p).__name__)
def test_lambda_zero_is_ddim(process: Any) -> None:
    made = grid.log_snr(process, 12, horizon=6.0, delta=1e-2)
    ours, known = integrators.lambda_ddim(process, made), integrators.ddim(process, made)
    assert torch.allclose(ours.P, known.P, rtol=1e-14, atol=1e-14)
    assert torch.allclose(ours.Q, known.Q, rtol=1e-13, atol=1e-14)


def test_two_step_lambda_ddim_follows_its_recursion() -> None:
    """Adams-Bashforth steps in the noise prediction of a Gaussian are compared with scipy's quadrature; the process is EDM."""
    made = grid.log_snr(EDM(), 6, horizon=5.0, delta=0.02)
    chain, lam = integrators.lambda_ddim_ab2(EDM(), made, lam=-0.3), -0.3
    gaussian, u = reference(), VP().time(forward_time(EDM(), made.t))
    x = torch.randn(1, 6, dtype=F64)
    state = torch.stack([x[0], torch.zeros(6, dtype=F64)])
    y, before = x / torch.sqrt(1 + made.t[0] ** 2), None
    for j in range(6):
        a, b = float(u[j]), float(u[j + 1])
        alpha, sigma = float(VP().alpha(u[j])), float(VP().sigma(u[j]))
        eps = -sigma * gaussian.score(VP(), y, u[j : j + 1])

        def kernel(s: float, b: float = b) -> float:
            t = torch.tensor([b, s], dtype=F64)
            ratio = float(VP().alpha(t)[0] / VP().alpha(t)[1])
            return math.exp(lam * (s - b)) * ratio * (0.1 + 19.9 * s) / 2 / float(VP().sigma(t)[1])

        c = math.exp(lam * (a - b)) * float(VP().alpha(u[j + 1])) / alpha * (1 - lam * (a - b))
        y = c * y - quadrature(kernel, b, a) * eps
        if before is not None:
            y = y - quadrature(lambda s, a=a, k=kernel: k(s) * (s - a), b, a) * (eps - before) / (a - float(u[j - 1]))
        before = eps
        kick = gaussian.score(EDM(), state[:1], made.t[j : j + 1])[0]
        state = chain.P[j, 0] @ state + chain.Q[j, 0] * kick
    assert torch.allclose(state[0], y[0] * torch.sqrt(1 + made.t[-1] ** 2), rtol=1e-10)


def test_heun_follows_the_published_algorithm() -> None:
    made = grid.karras(EDM(), 7, horizon=7.0, delta=0.01)
    chain, gaussian = integrators.heun(EDM(), made), reference()
    x = torch.randn(1, 6, dtype=F64)
    state = torch.stack([x[0], torch.zeros(6, dtype=F64)])
    for j in range(7):
        now, after = made.t[j : j + 1], made.t[j + 1 : j + 2]
        d = (x - gaussian.denoise(EDM(), x, now)) / now
        ahead = x + (after - now) * d
        x = x + (after - now) * (d + (ahead - gaussian.denoise(EDM(), ahead, after)) / after) / 2
        for node, t in ((2 * j, now), (2 * j + 1, after)):
            kick = gaussian.score(EDM(), state[:1], t)[0]
            state = chain.P[node, 0] @ state + chain.Q[node, 0] * kick
    assert torch.allclose(state[0], x[0], rtol=1e-12)


def test_best_lambda_cancels_the_second_order_error_at_high_noise() -> None:
    """Halving a step divides the local error by 8, with DDIM by 4; beyond D = 1/4 the error is (D - 1/4) / D of DDIM's."""
    variance = torch.tensor([0.2], dtype=F64)
    flat = GaussianReference(torch.zeros(1, dtype=F64), Pixelwise((1,)), variance)

    def local(u: float, h: float, best: bool) -> float:
        made = grid.from_times(torch.tensor([u, u - h], dtype=F64))
        lam = float(best_lambda(VP(), made, variance)) if best else 0.0
        step = reference_part(integrators.lambda_ddim(VP(), made, lam=lam), flat).A.item()
        v = flat.variance(VP().alpha(made.t), VP().sigma(made.t))
        return abs(step - float(torch.sqrt(v[1] / v[0])))

    assert local(0.8, 0.004, True) / local(0.8, 0.002, True) == pytest.approx(8, abs=0.8)
    assert local(0.8, 0.004, False) / local(0.8, 0.002, False) == pytest.approx(4, abs=0.3)
    u = torch.tensor(0.1, dtype=F64)
    D = float(0.2 * VP().alpha(u) ** 2 / VP().sigma(u) ** 2)
    assert D > 1 and local(0.1, 1e-4, True) / local(0.1, 1e-4, False) == pytest.approx((D - 0.25) / D, abs=0.01)


def test_best_lambda_per_shell_is_a_table_of_the_reference() -> None:
    made = grid.log_snr(OU(), 8, horizon=6.0, delta=1e-2)
    chain = integrators.build("lambda-ddim", OU(), made, reference=reference(), options=integrators.Options(lam="best"))
    assert chain.P.shape == (8, 6, 1, 1)
    alone = best_lambda(OU(), made, SPECTRUM[3])[:, 0]
    assert torch.allclose(chain.P[:, 3].flatten(), integrators.lambda_ddim(OU(), made, lam=alone).P.flatten(), rtol=1e-12)
    with pytest.raises(ValueError, match="give a number here"):
        integrators.build("lambda-ddim-ab2", OU(), made, options=integrators.Options(lam="best"))
    with pytest.raises(ValueError, match="needs the model's Gaussian reference"):
        integrators.build("lambda-ddim", OU(), made, options=integrators.Options(lam="best"))


@pytest.mark.parametrize("friction, step", [(2.0, 0.3), (0.5, 0.02), (30.0, 1e-5), (2.0, 4.9e-3), (2.0, 5.1e-3)])
def test_kinetic_step_against_the_matrix_exponential_and_quadrature(friction: float, step: float) -> None:
    generator = np.array([[0.0, 1.0], [0.0, -friction]])
    drift, weight, factor = step_tables(friction, step)
    assert np.allclose(drift.numpy(), expm(step * generator), rtol=1e-12)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    times = step * (nodes + 1) / 2
    flows = [expm(time * generator) for time in times]
    push = sum(w * flow @ [0.0, 1.0] for w, flow in zip(weights, flows, strict=True)) * step / 2
    spread = sum(w * np.outer(flow[:, 1], flow[:, 1]) for w, flow in zip(weights, flows, strict=True)) * friction * step
    assert np.allclose(weight.numpy(), push, rtol=1e-9)
    assert np.allclose(noise_covariance(friction, step).numpy(), spread, rtol=1e-8)
    assert np.allclose((factor @ factor.T).numpy(), spread, rtol=1e-8)


def test_two_half_kinetic_steps_are_one() -> None:
    drift, weight, _ = step_tables(1.7, 0.2)
    half, push, _ = step_tables(1.7, 0.1)
    covariance = noise_covariance(1.7, 0.1)
    assert torch.allclose(half @ half, drift, atol=1e-14)
    assert torch.allclose(half @ push + push, weight, atol=1e-14)
    assert torch.allclose(half @ covariance @ half.T + covariance, noise_covariance(1.7, 0.2), atol=1e-14)


@pytest.mark.parametrize("process", [VP(), EDM(), Flow()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("make", [integrators.piadm, integrators.ddim], ids=["piadm", "ddim"])
def test_chains_are_the_same_sampler_in_any_process(process: Any, make: Any) -> None:
    """On a Gaussian the map from first to last point, in units of r, does not depend on the process."""
    ends = {"horizon": 5.0, "delta": 1e-2}

    def total(p: Any) -> torch.Tensor:
        chain = make(p, grid.log_snr(p, 10, **ends))
        A = reference_part(chain, reference()).A[:, :, 0, 0].prod(0)
        r = torch.sqrt(chain.alpha**2 + chain.sigma**2)
        return A * r[0] / r[-1]

    assert torch.allclose(total(process), total(OU()), rtol=1e-9)


@pytest.mark.parametrize(
    "tables, message",
    [
        ({"P": torch.ones(3), "Q": torch.ones(2), "t": torch.arange(4.0).flip(0)}, "Q has 2 steps, the 4 times make 3"),
        (
            {"P": torch.ones(2, 5), "Q": torch.ones(2, 5), "t": torch.tensor([2.0, 1.0, 0.5]), "basis": Pixelwise((4,))},
            "tables with 5 shells need a basis",
        ),
        (
            {"P": torch.tensor([float("nan")]), "Q": torch.ones(1), "t": torch.tensor([2.0, 1.0])},
            "P contains a number that is not",
        ),
        (
            {"P": torch.ones(1), "Q": torch.ones(1), "t": torch.tensor([2.0, 1.0]), "alpha": torch.ones(2)},
            "alpha and sigma together",
        ),
        (
            {"P": torch.ones(2), "Q": torch.ones(2), "t": torch.tensor([3.0, 2.0, 1.0]), "edges": (0, 1)},
            "block edges must increase",
        ),
    ],
)
def test_bad_tables_are_refused_with_words(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chain(**{"N": None, **tables})


def test_forward_time_of_edm_is_that_of_methods() -> None:
    sigma = torch.tensor([0.5, 3.0], dtype=F64)
    assert torch.allclose(forward_time(EDM(), sigma), torch.log(1 + sigma**2))
