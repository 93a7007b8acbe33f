"""Phase space: closed forms, every integrator against its composition by hand, orders, limits, and lifted scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from compositions import F64, Hand, PhaseMixture, mul
from problems import every_method, mixture, solve
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from piadm_hpc import grid, integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.integrators import Options, catalogue
from piadm_hpc.integrators.assembly import PhaseGrid, lift, phase_grid
from piadm_hpc.solvers.linear import reference_part
from piadm_hpc.solvers.moments import end_covariance
from piadm_hpc.solvers.options import Options as SolverOptions
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.phase import PhaseSpace
from piadm_hpc.theory.process import EDM, OU, VP

PHASE = PhaseSpace(gamma=0.03, kappa=0.05)
NAMES = [one.name for one in catalogue.PHASE]
FLOWS = [one.name for one in catalogue.PHASE if one.noise == "never"]
STIRRED = [one.name for one in catalogue.PHASE if one.noise == "always"]
TIMES = 1e-3 + 0.8 * (1 - torch.linspace(0, 1, 6, dtype=F64)) ** 2
GRID = PhaseGrid(PHASE, TIMES, (0, 5))


def options_of(name: str, **changes: object) -> Options:
    """Choose the options that a method reads."""
    wanted = {"lam": -0.4, "lam_s": 1.6, "score_time": "middle", **changes}
    return Options(**{key: wanted[key] for key in catalogue.find(name).reads})


@pytest.mark.parametrize("phase", [PHASE, PhaseSpace(gamma=0.0), PhaseSpace(gamma=0.25, inverse_mass=2.0, beta=5.0)])
@pytest.mark.parametrize("variance", [0.0, 0.7])
def test_covariance_solves_the_lyapunov_equation(phase: Any, variance: Any) -> None:
    F, GG = phase.drift.numpy(), phase.diffusion.numpy()

    def rate(t: Any, flat: Any) -> Any:
        S = flat.reshape(2, 2)
        return (F @ S + S @ F.T + GG).ravel()

    first = np.diag([variance, phase.kappa * phase.mass]).ravel()
    for tau in (0.01, 0.3, 1.0):
        found = solve_ivp(rate, (0, tau), first, rtol=1e-12, atol=1e-14, method="DOP853").y[:, -1].reshape(2, 2)
        time = torch.tensor(tau, dtype=F64)
        assert np.allclose(phase.covariance(time, variance).numpy(), found, rtol=1e-9, atol=1e-12)
        assert np.allclose(phase.mean_map(time).numpy(), expm(F * tau), rtol=1e-12, atol=1e-15)


def test_the_root_is_transported_by_the_flow_of_point_data() -> None:
    hand = Hand(PHASE, None, None)
    low = torch.tensor([1e-3, 0.02, 0.3], dtype=F64)
    high = torch.tensor(0.9, dtype=F64)
    roots = PHASE.root(low, -PHASE.turn(low, high.expand(3)))
    oracle = hand.roots(torch.cat([low, high[None]]), 0.9)[:3]
    assert torch.allclose(roots, oracle, atol=1e-10)
    assert torch.allclose(roots @ roots.mT, PHASE.covariance(low), atol=1e-14)


def test_gaussians_are_teleported_by_their_flow() -> None:
    """The map is compared with scipy's integration of the probability flow, in both directions and in two parts."""
    variances = torch.tensor([1e-3, 0.3, 4.0], dtype=F64)
    start, middle, end = (torch.tensor(tau, dtype=F64) for tau in (0.8, 0.3, 0.02))
    whole = PHASE.flow(start, end, variances)
    for k, variance in enumerate(variances.tolist()):

        def rate(t: Any, z: torch.Tensor, variance: Any = variance) -> Any:
            inverse = torch.linalg.inv(PHASE.covariance(torch.tensor(t, dtype=F64), variance))
            return ((PHASE.drift + PHASE.diffusion @ inverse / 2) @ torch.from_numpy(z).reshape(2, 2)).numpy().ravel()

        oracle = solve_ivp(rate, (0.8, 0.02), np.eye(2).ravel(), rtol=1e-11, atol=1e-13, method="DOP853").y[:, -1]
        assert np.allclose(whole[k].numpy(), oracle.reshape(2, 2), rtol=1e-7, atol=1e-9)
    parts = PHASE.flow(middle, end, variances) @ PHASE.flow(start, middle, variances)
    assert torch.allclose(parts, whole, atol=1e-12)
    assert torch.allclose(PHASE.flow(end, start, variances) @ whole, torch.eye(2, dtype=F64).expand(3, 2, 2), atol=1e-9)


def test_effective_noise_increases_and_is_inverted() -> None:
    tau = torch.logspace(-4, 0, 200, dtype=F64)
    ratio = PHASE.ratio(tau)
    assert bool((ratio[1:] > ratio[:-1]).all()) and torch.allclose(PHASE.time(ratio), tau, rtol=1e-9)
    with pytest.raises(ValueError, match="phase space reaches noise over signal"):
        PHASE.time(torch.tensor([1e-9], dtype=F64))
    with pytest.raises(ValueError, match="must be positive"):
        PhaseSpace(beta=-1.0)


@pytest.mark.parametrize("name", FLOWS)
def test_flows_equal_their_composition(name: str) -> None:
    """They are compared on a mixture, with the native score of two fields and with a lifted score."""
    target = mixture(EDM())
    exact = PhaseMixture(PHASE, target)
    options = options_of(name)
    hand = Hand(PHASE, exact.at, None, options.lam)
    z = torch.randn(2, 3, 12, dtype=F64) * torch.tensor([1.0, 0.5], dtype=F64)[:, None, None]
    oracle = hand.run(name, z, TIMES)
    native = integrators.native(name, GRID, options)
    rest = torch.cat([z[1][:, None], torch.zeros(3, native.channels - 2, 12, dtype=F64)], dim=1)
    found = solve(native, exact, (z[0], rest), solver="sequential").state[:, :2].movedim(1, 0)
    assert float((found - oracle).abs().max() / oracle.abs().max()) < 1e-12
    lifted = lift(native, PHASE, EDM())
    same = solve(lifted, target.score, (z[0], rest), solver="sequential").state[:, :2].movedim(1, 0)
    assert float((same - oracle).abs().max() / oracle.abs().max()) < 1e-10


@pytest.mark.parametrize("score_time", ["now", "middle", "next", "ahead"])
@pytest.mark.parametrize("name", STIRRED)
def test_stirred_methods_equal_their_composition(name: str, score_time: str) -> None:
    """The covariance on a Gaussian is compared and, without noise, the end states on a mixture."""
    options, variance = options_of(name, score_time=score_time), 0.2
    precision = {}

    def gaussian(z: torch.Tensor, tau: Any) -> Any:
        key = round(tau, 14)
        if key not in precision:
            precision[key] = torch.linalg.inv(PHASE.covariance(torch.tensor(tau, dtype=F64), variance))
        return -mul(precision[key], z)

    def append(z: torch.Tensor, root: Any) -> Any:
        return torch.cat([z, root], dim=1)

    first = torch.linalg.cholesky(PHASE.covariance(TIMES[0], variance))
    columns = Hand(PHASE, gaussian, append, options.lam, options.lam_s, options.score_time).run(name, first, TIMES)
    flat = GaussianReference(torch.zeros(1, dtype=F64), Pixelwise((1,)), torch.tensor([variance], dtype=F64))
    native = integrators.native(name, GRID, options)
    for chain in (native, lift(native, PHASE, VP())):
        assert torch.allclose(end_covariance(chain, flat)[0], columns @ columns.T, rtol=1e-12, atol=1e-12)

    exact = PhaseMixture(PHASE, mixture(EDM()))
    z = torch.randn(2, 2, 12, dtype=F64)
    quiet = Hand(PHASE, exact.at, lambda z, root: z, options.lam, options.lam_s, options.score_time)
    oracle = quiet.run(name, z, TIMES)
    still = replace(native, N=torch.zeros_like(native.noise))
    entered = mul(_leading_map(name), z)
    found = solve(still, exact, (entered[0], entered[1]), solver="sequential").state.movedim(1, 0)
    assert float((found - oracle).abs().max() / oracle.abs().max()) < 1e-12


def _leading_map(name: str) -> torch.Tensor:
    """The part of the first step before its first score, without noise."""
    hand, h = Hand(PHASE, None, lambda z, root: z), float(TIMES[0] - TIMES[1])
    if name == "sscs":
        p = PHASE
        return torch.linalg.matrix_exp(torch.tensor([[-p.gamma, -4.0], [1, -p.nu]], dtype=F64) * p.beta / 2 * h / 2)
    words = catalogue.find(name).program.split()
    return hand.O(torch.eye(2, dtype=F64), h) if words[0] == "O" else torch.eye(2, dtype=F64)


@pytest.mark.parametrize("process", [OU(), VP(), EDM()], ids=["ou", "vp", "edm"])
def test_any_network_can_be_lifted(process: Any) -> None:
    """The path in phase space does not depend on the process of the network."""
    made = grid.log_snr(process, 10, horizon=4.0, delta=0.02)
    target = mixture(process)
    chain = integrators.build("rvv", process, made, phase=PHASE)
    z = torch.linspace(-1, 1, 24, dtype=F64).reshape(1, 2, 12)
    found = solve(chain, target.score, (z[:, 0], z[:, 1]), solver="sequential").state
    native = integrators.native("rvv", phase_grid(PHASE, process, made))
    oracle = solve(native, PhaseMixture(PHASE, target), (z[:, 0], z[:, 1]), solver="sequential").state
    assert torch.allclose(found, oracle, atol=1e-9)


def weak_error(name: str, steps: int, phase: PhaseSpace, variance: float) -> float:
    """The relative error of the final variance on a Gaussian, computed by exact propagation of moments."""
    process, delta = VP(), 0.05
    method = catalogue.find(name)
    flat = GaussianReference(torch.zeros(1, dtype=F64), Pixelwise((1,)), torch.tensor([variance], dtype=F64))

    clock = grid.phase_clock(phase) if method.space == "phase" else grid.process_clock(process)
    made = grid.power(process, steps, horizon=8.0, delta=delta, exponent=1.0, clock=clock)
    chain = integrators.build(name, process, made, reference=flat, phase=phase)
    if method.space == "phase":
        exact = phase.covariance(clock.read(torch.tensor(delta, dtype=F64)), variance)[0, 0]
    else:
        exact = flat.variance(chain.alpha[-1], chain.sigma[-1])[0]
    return float(end_covariance(chain, flat)[0, 0, 0] / exact - 1)


@pytest.mark.parametrize(
    "name",
    [one.name for one in catalogue.INTEGRATORS.values() if one.order and one.name not in ("gaussian", "gaussian-ab2", "gms")],
)
def test_weak_order_on_a_gaussian(name: str) -> None:
    """Halving the step divides the error of the variance by 2^order. RVV-x is of second order without position noise."""
    phase = PhaseSpace(gamma=0.0) if name == "rvv-x" else PhaseSpace()
    errors = [abs(weak_error(name, steps, phase, 0.2)) for steps in (200, 400)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(catalogue.find(name).order, abs=0.16)


def test_without_position_noise_the_position_has_neither_score_nor_noise() -> None:
    """Gamma = 0 is critically damped Langevin diffusion, and a small Gamma gives nearly the same path."""
    still = PhaseGrid(PhaseSpace(gamma=0.0), TIMES, (0, 5))
    near = PhaseGrid(PhaseSpace(gamma=1e-9), TIMES, (0, 5))
    for name in ("rse", "nse", "nvv", "rbaoab", "psld-em"):
        chain, other = integrators.native(name, still), integrators.native(name, near)
        for table in ("P", "Q", "noise"):
            assert torch.allclose(getattr(chain, table), getattr(other, table), atol=1e-4)
    kick = integrators.native("nse", still)
    assert float(kick.Q[1::2].abs().max()) == 0
    assert float(integrators.native("psld-em", still).noise[:, 0, 0].abs().max()) == 0


def test_small_steps_of_every_flow_follow_the_probability_flow() -> None:
    """The first-order change of a state over a small step is -F z + G G^T s / 2, whatever the method."""
    tau = torch.tensor([0.3, 0.3 - 1e-5], dtype=F64)
    flat = GaussianReference(torch.zeros(1, dtype=F64), Pixelwise((1,)), torch.tensor([0.5], dtype=F64))
    expected = -PHASE.drift - PHASE.diffusion @ torch.linalg.inv(PHASE.covariance(tau[0], 0.5)) / 2
    for name in FLOWS:
        A = reference_part(integrators.native(name, PhaseGrid(PHASE, tau, (0, 1))), flat).A[:, 0]
        total = torch.eye(A.shape[-1], dtype=F64)
        for block in A:
            total = block @ total
        embed = torch.tensor([[1.0, 0], [0, 1], [0, 1]], dtype=F64)[: A.shape[-1]]
        embed = embed if name == "rvv-x" else torch.eye(A.shape[-1], 2, dtype=F64)
        moved = (total @ embed)[:2] - torch.eye(2, dtype=F64)
        assert torch.allclose(moved / 1e-5, expected, rtol=1e-2, atol=1e-2), name


def test_zero_lambda_is_gddim_and_its_quadrature_is_exact() -> None:
    closed = Hand(PHASE, lambda z, tau: z, None).gddim
    chain = integrators.native("gddim", GRID)
    z = torch.eye(2, dtype=F64)
    for j, (now, after) in enumerate(zip(TIMES.tolist(), TIMES.tolist()[1:], strict=False)):
        assert torch.allclose((chain.P[j, 0] + chain.Q[j, 0]) @ z, closed(z, now, after, now - after), atol=1e-10)
    assert torch.equal(chain.Q, integrators.native("lambda-ddim-ii-r", GRID).Q)


ALL = every_method(VP(), mixture(VP()).reference(), steps=9, num_blocks=2)


@pytest.mark.parametrize("linear", ["identity", "process", "reference"])
@pytest.mark.parametrize("name", ALL)
def test_sweeps_of_every_method_end_at_the_sequential_chain(name: str, linear: str) -> None:
    target, chain = mixture(VP()), ALL[name]
    reference = target.reference()
    gaussian = chain if chain.basis is None else replace(chain, basis=reference.basis)
    sampler = Sampler(gaussian, target.score, (12,), 3, SolverOptions(linear=linear, tol=1e-12), reference=reference, dtype=F64)
    swept = sampler.draw([0, 4])
    oracle = replace(sampler, options=SolverOptions(solver="sequential")).draw([0, 4])
    size = float(oracle.state.abs().max())
    assert float((swept.state - oracle.state).abs().max()) < 1e-10 * max(1.0, size)


def test_a_sampler_starts_phase_space_from_the_gaussian_at_its_first_point() -> None:
    """Position and momentum of the prior have the covariance of the reference's marginal there."""
    target = mixture(VP())
    reference = target.reference()
    chain = ALL["roba"]
    first = Sampler(chain, target.score, (12,), 0, reference=reference, dtype=F64).prior_states(range(4000))
    signal, spread = chain.entry()
    exact = reference.marginal(signal, spread @ spread.T)
    mean = signal[:, None] * reference.mean
    assert torch.allclose(first.mean(0), mean, atol=0.1)
    away = first - mean
    assert torch.allclose(torch.einsum("nid,nkd->dik", away, away) / 4000, exact, atol=0.1)


def test_grids_and_conditions_that_do_not_work_are_refused() -> None:
    with pytest.raises(ValueError, match="before tau = 0"):
        PhaseGrid(PHASE, torch.tensor([0.5, 0.0], dtype=F64), (0, 1))
    ends = grid.from_times(torch.tensor([2.0, 1.0, 0.0], dtype=F64))
    with pytest.raises(ValueError, match="where there is no noise"):
        integrators.build("rse", EDM(), ends)
    with pytest.raises(ValueError, match="score_time = 'later'; the score can be taken now, middle, next, ahead"):
        integrators.build("roba", OU(), grid.log_snr(OU(), 5, horizon=4.0, delta=0.1), options=Options(score_time="later"))
    with pytest.raises(ValueError, match="not an integrator of phase space"):
        integrators.native("ddim", GRID)
    with pytest.raises(ValueError, match="'rwv'; did you mean 'rvv' or"):
        catalogue.find("rwv")
