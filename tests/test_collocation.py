"""Collocation agrees with the reference's own flow, an independent ODE solver, polynomials, and itself in other orders."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import F64, drawn, mixture, solve
from scipy.integrate import solve_ivp
from torch import Tensor

from piadm_hpc.gaussian.reference import GaussianReference, Smoothness
from piadm_hpc.models.analytic import GaussianMixture, target_b, target_c
from piadm_hpc.run.probe import probe_smoothness
from piadm_hpc.solvers.adjoint import gradient
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.errors import ScoreError
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.resolution import choose, stretched
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.solvers.solve import Solution, Status
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.chebyshev import chebyshev_nodes
from piadm_hpc.theory.noise import Noise
from piadm_hpc.theory.process import EDM, OU, VP, Flow, Process
from piadm_hpc.theory.stretch import Stretch

HORIZON, DELTA = 6.0, 1e-2


def scheme(process: Process, reference: GaussianReference, points: int = 16) -> Collocation:
    return Collocation(process, reference, HORIZON, DELTA, points)


def prior(made: Collocation, samples: int, seed: int = 3) -> Tensor:
    return drawn(made, made.reference, range(samples), seed)


def flow(target: GaussianMixture, process: Process, x0: Tensor) -> Tensor:
    """Solve the probability flow by an adaptive Runge-Kutta method, in log-SNR and the process's own units."""
    made = scheme(process, target.reference())

    def velocity(snr: float, flat: np.ndarray) -> np.ndarray:
        # y = x / r with r = sqrt(alpha^2 + sigma^2) obeys dy/dtheta = -(y + s_y) / 2 while theta falls
        theta = torch.log1p(torch.exp(-torch.tensor([snr], dtype=F64)))
        t = process.time(theta)
        r = torch.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)
        y = torch.from_numpy(flat).reshape(x0.shape)
        score = r * target.score(r * y, t.expand(len(y)))
        slope = -torch.exp(-torch.tensor(snr, dtype=F64)) / (1 + torch.exp(-torch.tensor(snr, dtype=F64)))
        return ((-0.5 * slope) * (y + score)).reshape(-1).numpy()

    ends = [torch.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2) for t in made.t[[0, -1]]]
    first = (x0 / ends[0]).reshape(-1).numpy()
    found = solve_ivp(velocity, made.span, first, method="DOP853", rtol=1e-11, atol=1e-12)
    return ends[1] * torch.from_numpy(found.y[:, -1]).reshape(x0.shape)


@pytest.mark.parametrize("process", [OU(), VP(), EDM(), Flow()], ids=lambda p: type(p).__name__)
def test_a_gaussian_takes_one_sweep_and_is_exact(process: Process) -> None:
    spectrum = torch.tensor([1e-3, 0.2, 1.0, 30.0], dtype=F64)
    reference = GaussianReference(torch.arange(4, dtype=F64), Pixelwise((4,)), spectrum)
    made = scheme(process, reference, 8)
    x0 = prior(made, 3)
    found = solve(made, lambda x, t: reference.score(process, x, t), x0, tol=1e-9, reference=reference)
    ends = (made.t[:1].expand(3), made.t[-1:].expand(3))
    assert torch.allclose(found.x, reference.flow(process, x0, *ends), rtol=1e-10, atol=1e-10)
    assert found.rounds.tolist() == [1, 1, 1] and found.calls.tolist() == [8, 8, 8]


@pytest.mark.parametrize("process", [OU(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("tol", "points"), [(1e-2, 16), (1e-4, 32), (1e-6, 24)])
def test_the_flow_of_an_independent_solver_is_met_to_the_tolerance(process: Process, tol: float, points: int) -> None:
    target = mixture(process)
    made = scheme(process, target.reference(), points)
    x0 = prior(made, 4)
    found = solve(made, target.score, x0, tol=tol, reference=target.reference())
    error = (found.x - flow(target, process, x0)).square().mean(-1).sqrt()
    assert bool(found.converged.all()) and float(error.max()) < 2 * tol
    assert bool((found.residual[:, 0] < 4 * tol).all())


@given(st.integers(4, 40), st.integers(0, 2**32 - 1), st.floats(-8, 2), st.floats(0.1, 12))
def test_weights_integrate_polynomials_exactly(points: int, seed: int, low: float, width: float) -> None:
    reference = GaussianReference(torch.zeros(1, dtype=F64), Pixelwise((1,)), torch.ones(1, dtype=F64))
    made = scheme(OU(), reference, points)
    piece = made.piece(low, low + width)
    coefficients = np.random.default_rng(seed).uniform(-1, 1, points)
    polynomial = np.polynomial.Chebyshev(coefficients, domain=[low, low + width])
    nodes = low + width * (chebyshev_nodes(points) + 1) / 2
    ends = np.append(nodes, low + width)
    exact = polynomial.integ(lbnd=low)(ends) / 2
    assert np.allclose(piece.weights.numpy() @ polynomial(nodes), exact, atol=1e-10 * points)
    # a polynomial without the highest coefficients leaves nothing in doubt, and all pieces see the same polynomial
    short = np.polynomial.Chebyshev(coefficients[:-2], domain=[low, low + width])
    last, before = piece.doubt.numpy()
    assert np.allclose(last @ short(nodes), 0, atol=1e-9 * points)
    shorter = np.polynomial.Chebyshev([*coefficients[:-4], 0], domain=[low, low + width])
    assert np.allclose(before @ shorter(nodes), 0, atol=1e-9 * points)
    assert np.allclose((last + before) @ polynomial(nodes), exact - (piece.weights.numpy() @ shorter(nodes)), atol=1e-9 * points)
    half = low + width / 2
    inner = low + width / 2 * (chebyshev_nodes(points) + 1) / 2
    assert np.allclose(made.inherit(low, low + width, (low, half)).numpy() @ polynomial(nodes), polynomial(inner), atol=1e-9)


def test_too_few_points_are_made_up_for_by_halving() -> None:
    target = target_b(OU(), 64)
    few, many = (Collocation(OU(), target.reference(), 8.0, 1e-3, points) for points in (6, 32))
    x0 = prior(few, 6)
    scale = target.reference().spectrum.sqrt()
    kwargs = {"reference": target.reference(), "scale": scale}
    exact = solve(many, target.score, x0, tol=1e-7, **kwargs)
    found = solve(few, target.score, x0, tol=1e-3, **kwargs)
    assert bool(found.converged.all())
    error = ((found.x - exact.x) / scale).square().mean(-1).sqrt()
    assert float(error.max()) < 4e-3
    assert int(found.rounds.min()) > int(solve(many, target.score, x0, tol=1e-3, **kwargs).rounds.max())


def test_batches_orders_and_samples_in_flight_do_not_change_a_sample() -> None:
    target = target_c(OU(), 32)
    made = Collocation(OU(), target.reference(), 8.0, 1e-3, 12)
    x0 = prior(made, 9)
    kwargs = {"tol": 1e-3, "reference": target.reference(), "scale": target.reference().spectrum.sqrt()}
    whole = solve(made, target.score, x0, **kwargs)
    few = solve(made, target.score, x0, in_flight=2, model_batch=5, **kwargs)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    mixed = solve(made, target.score, x0[order], samples=order.tolist(), **kwargs)
    for other, rows in ((few, torch.arange(9)), (mixed, order)):
        assert torch.allclose(other.x, whole.x[rows], atol=1e-12)
        assert torch.equal(other.rounds, whole.rounds[rows]) and torch.equal(other.calls, whole.calls[rows])


def test_a_full_batch_is_kept_full() -> None:
    """Samples that are done make room at once, so that the batch takes hardly more sweeps than the work divided by its width."""
    target = target_c(OU(), 32)
    made = Collocation(OU(), target.reference(), 8.0, 1e-3, 12)
    x0, batches = prior(made, 64), [0]

    def score(x: Tensor, t: Tensor) -> Tensor:
        batches[0] += 1
        return target.score(x, t)

    found = solve(made, score, x0, tol=1e-3, reference=target.reference(), in_flight=8)
    assert int(found.rounds.max()) > int(found.rounds.min())
    assert batches[0] <= 1.15 * float(found.rounds.sum()) / 8 + int(found.rounds.max())


def test_a_fixed_depth_is_kept() -> None:
    target = mixture(OU())
    made = scheme(OU(), target.reference())
    found = solve(made, target.score, prior(made, 2), tol=None, sweeps=3, reference=target.reference())
    assert found.rounds.tolist() == [3, 3] and found.calls.tolist() == [48, 48]
    assert bool((found.status == int(Status.DEPTH_REACHED)).all())


def test_a_tolerance_below_rounding_ends_at_the_floor_and_says_so() -> None:
    target = mixture(OU())
    made = scheme(OU(), target.reference(), 24)
    found = solve(made, target.score, prior(made, 64).float(), tol=1e-12, reference=target.reference())
    assert bool((found.status == int(Status.ROUND_OFF_FLOOR)).all()) and float(found.residual.max()) < 1e-3


def test_a_score_that_no_polynomial_resolves_is_marked() -> None:
    target = mixture(OU())
    made = scheme(OU(), target.reference(), 6)

    def score(x: Tensor, t: Tensor) -> Tensor:
        rough = torch.sin(1e6 * torch.log(t))[:, None]
        return target.score(x, t) + rough * x / x.abs().clamp(min=1e-9)

    found = solve(made, score, prior(made, 1), tol=1e-6, reference=target.reference())
    assert found.status.tolist() == [[int(Status.NOT_RESOLVED)]] and not bool(found.converged.any())


def test_failures_name_sample_and_time() -> None:
    target = mixture(OU())
    made = scheme(OU(), target.reference())
    kwargs = {"reference": target.reference(), "samples": [7, 8]}
    with pytest.raises(ScoreError, match="not finite for sample 7"):
        solve(made, lambda x, t: x * math.nan, prior(made, 2), **kwargs)
    with pytest.raises(ScoreError, match="must return the same shape"):
        solve(made, lambda x, t: x[:, :3], prior(made, 2), **kwargs)
    with pytest.raises(ScoreError, match="ZeroDivisionError"):
        solve(made, lambda x, t: x * (1 // 0), prior(made, 2), **kwargs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"solver": "sequential"}, "collocation has its own sweeps"),
        ({"linear": "process"}, "collocation has its own sweeps"),
        ({"window": 4}, "no window, pipeline, alternate or corrector"),
        ({"pipelined": True}, "no window, pipeline, alternate or corrector"),
        ({"alternate": True}, "no window, pipeline, alternate or corrector"),
    ],
)
def test_what_belongs_to_chains_is_refused(change: dict[str, object], words: str) -> None:
    target = mixture(OU())
    made = scheme(OU(), target.reference())
    with pytest.raises(ValueError, match=words):
        solve(made, target.score, prior(made, 1), reference=target.reference(), **change)  # type: ignore[arg-type]


def test_a_scheme_that_cannot_be_is_refused() -> None:
    reference = mixture(OU()).reference()
    with pytest.raises(ValueError, match=r"must lie between.*at least 4"):
        Collocation(OU(), reference, 1.0, 2.0, 3)


def test_projected_states_stay_in_their_subspace() -> None:
    target = mixture(OU())
    made = scheme(OU(), target.reference())
    kept = torch.ones(12, dtype=F64)
    kept[3:5] = 0

    def run() -> Solution:
        return solve(made, target.score, prior(made, 2), reference=target.reference(), project=lambda x: x * kept)

    assert bool((run().x[:, 3:5] == 0).all()) and bool((run().x[:, 5:] != 0).all())


@pytest.mark.parametrize("tol", [1e-2, 1e-3])
def test_chosen_points_solve_other_samples_to_the_tolerance(tol: float) -> None:
    """The smoothness of four flows chooses points and start for twelve others, which need few pieces and no others."""
    process = OU()
    target = target_b(process, 64)
    reference = target.reference()
    fine = scheme(process, reference, 40)
    sampler = Sampler(
        fine, target, (64,), 0, Options(tol=1e-4, scale=torch.sqrt(reference.spectrum)),
        reference=reference, dtype=F64,
    )  # fmt: skip
    known = probe_smoothness(sampler, fine, range(4))
    low, high = fine.span
    begin, points = choose(known, tol, low, high)
    assert low <= begin < 0 and points < -8 * math.log10(tol)
    made = stretched(Collocation(process, reference, math.log1p(math.exp(-begin)), DELTA, points), known)
    found = replace(sampler, chain=made, options=replace(sampler.options, tol=tol)).draw(range(4, 16))
    truth = replace(sampler, options=replace(sampler.options, tol=1e-8)).draw(range(4, 16))
    assert float(error(found.x, truth.x, reference).max()) <= 1.5 * tol
    # with fewer points the estimated error exceeds the tolerance, and samples take more than they were given
    halved = replace(made, points=max(4, points // 2))
    fewer = replace(sampler, chain=halved, options=replace(sampler.options, tol=tol)).draw(range(4, 16))
    assert bool(((fewer.calls > halved.points * fewer.rounds) | (fewer.rounds > found.rounds + 1)).all())
    assert float(error(fewer.x, truth.x, reference).max()) <= 1.5 * tol


def error(x: Tensor, truth: Tensor, reference: GaussianReference) -> Tensor:
    return ((x - truth) / torch.sqrt(reference.spectrum)).square().mean(1).sqrt()


@given(st.integers(4, 24), st.integers(0, 2**31))
def test_smoothness_weighs_integrals_as_the_nodes_do(nodes: int, seed: int) -> None:
    """The chosen start and points depend on sizes alone, and a tighter tolerance never means fewer points or a later start."""
    rows = torch.randn(3, nodes, generator=torch.Generator().manual_seed(seed), dtype=F64)
    known = Smoothness(-8.0, 7.0, rows.T @ rows / 3)
    loose, tight = (choose(known, tol, -8.0, 7.0) for tol in (1e-1, 1e-3))
    assert tight[0] <= loose[0] and -8.0 <= loose[0] < 7.0
    assert tight[1] >= loose[1] and choose(replace(known, gram=known.gram * 100), 1.0, -8.0, 7.0) == loose


def test_draws_whose_changes_shrink_slowly_are_swept_on() -> None:
    """Near a boundary between modes changes fall below the tolerance by a third a sweep, and what is left moves the end far."""
    target, draws = target_c(OU(), 256), [19, 23, 119]
    reference = target.reference()
    scale, noise = torch.sqrt(reference.spectrum + 1e-3), Noise(0, 256, dtype=torch.float64)
    common = {"noise": noise, "reference": reference, "scale": scale, "samples": draws}
    made = Collocation(OU(), reference, 8.0, 1e-3, 16)
    first = drawn(made, reference, draws, 0)
    truth = solve(replace(made, points=64), target.score, first, tol=1e-9, **common).x
    found = solve(made, target.score, first, tol=1e-2, **common)
    assert float(((found.x - truth) / scale).square().mean(1).max().sqrt()) < 1e-2  # an end in another mode would be off by 0.5


@pytest.mark.parametrize("points", [16, 32])
def test_a_score_that_varies_from_node_to_node_is_seen(points: int) -> None:
    """A time embedding that turns a hundred times is aliased to low coefficients, which must not pass for a resolved score."""
    process, target, tol = OU(), target_c(OU(), 12), 1e-3
    draws = torch.rand(2, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    speed, phase = 40 * (1 + draws[0]), 2 * math.pi * draws[1]

    def score(x: Tensor, t: Tensor) -> Tensor:
        log_snr = 2 * torch.log(process.alpha(t) / process.sigma(t))[:, None]
        return target.score(x, t) + 0.02 * torch.sin(speed * log_snr + phase) / process.sigma(t)[:, None]

    made = scheme(process, target.reference(), points)
    x0, reference = prior(made, 3), target.reference()
    # these nodes resolve all of the variation, over the whole range
    exact = solve(replace(made, points=600), score, x0, tol=None, sweeps=12, reference=reference)
    found = solve(made, score, x0, tol=tol, reference=reference)
    assert bool(found.converged.all())
    assert float((found.x - exact.x).square().mean(1).sqrt().max()) <= tol


def test_many_points_are_reached_in_as_many_sweeps() -> None:
    """Sweeps start with eight points and add four in every sweep up to 64, and proportionally more beyond."""
    reference = target_c(OU(), 6).reference()
    assert scheme(OU(), reference, 20).point_counts == (8, 12, 16, 20)
    assert scheme(OU(), reference, 64).point_counts == (*range(8, 64, 4), 64)
    assert scheme(OU(), reference, 256).point_counts == (*range(32, 256, 16), 256)


@pytest.mark.parametrize("stretch", [Stretch(-1.0, 4.0), Stretch(1.0, 3.0)])
def test_a_stretch_moves_the_nodes_and_not_the_flow(stretch: Stretch) -> None:
    """End states, log-determinants and gradients are those of the unstretched flow, which an independent solver confirms."""
    process = OU()
    target = mixture(process)
    plain = scheme(process, target.reference(), 24)
    made, x0 = replace(plain, stretch=stretch), prior(plain, 3)
    kwargs = {"tol": 1e-7, "reference": target.reference(), "traces": "exact"}
    found, known = (solve(one, target.score, x0, **kwargs) for one in (made, plain))
    assert float((found.x - flow(target, process, x0)).abs().max()) < 1e-5
    assert found.log_det is not None and known.log_det is not None
    assert torch.allclose(found.log_det.value, known.log_det.value, atol=1e-4)
    slopes = [gradient(one, target.score, x0, lambda x: x.square().sum(-1), Options(tol=1e-7)).first for one in (made, plain)]
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-4)
    inside, before = (int(((-2 * torch.log(one.ratio) - stretch.centre).abs() < stretch.width).sum()) for one in (made, plain))
    assert made.span != plain.span and inside > before + 1


@given(st.floats(-4, 4), st.floats(2.5, 20), st.floats(-3, 3))
def test_a_stretch_is_undone_and_has_its_own_slope(centre: float, width: float, distance: float) -> None:
    snr = centre + distance * width
    stretch, at = Stretch(centre, width), torch.tensor([snr, snr + 1e-4], dtype=F64)
    u = stretch.coordinate(at)
    assert torch.allclose(stretch.log_snr(u), at, atol=1e-6)
    assert float(stretch.rate(u)[0] * u.diff() / at.diff()) == pytest.approx(1, rel=1e-2)


def test_a_stretch_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="width = 0 must be positive"):
        Stretch(0.0, 0.0)
