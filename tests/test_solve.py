"""Parallel solvers are compared with the sequential chain: fixed points, exact prefixes, stopping, safeguards, constraints."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import F64, SIZE, chains, drawn, mixture, solve, start

from piadm_hpc import grid, integrators
from piadm_hpc.gaussian.reference import GaussianReference, isotropic
from piadm_hpc.models.analytic import target_c
from piadm_hpc.run.probe import probe_response
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.errors import ScoreError
from piadm_hpc.solvers.solve import Status
from piadm_hpc.theory.bases import Fourier
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.noise import Noise
from piadm_hpc.theory.process import EDM, OU, VP, Flow

PROCESSES = {"ou": OU(), "vp": VP(), "edm": EDM(), "flow": Flow()}
NAMES = list(chains(OU(), mixture(OU()).reference()))


@pytest.mark.parametrize("linear", ["identity", "process", "reference"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_fixed_point_is_the_sequential_chain(process: Any, name: str, linear: str) -> None:
    target = mixture(process)
    reference = target.reference()
    chain = chains(process, reference, num_blocks=2)[name]
    x0, noise = start(process, chain, [0, 3, 4])
    given = {"noise": noise, "samples": [0, 3, 4], "reference": reference}
    oracle = solve(chain, target.score, x0, solver="sequential", **given)
    parallel = solve(chain, target.score, x0, tol=1e-12, linear=linear, **given)
    assert float((parallel.x - oracle.x).abs().max()) < 1e-10
    assert bool(parallel.converged.all())


@pytest.mark.parametrize("linear", ["identity", "process", "reference"])
@pytest.mark.parametrize("name", ["piadm sde", "gaussian ode", "dpmpp-2m"])
def test_points_up_to_k_are_exact_after_k_sweeps(name: str, linear: str) -> None:
    """The end of a chain that is cut after k steps is exact after k sweeps, and not after k - 1."""
    process = OU()
    target = mixture(process)
    reference = target.reference()
    whole = chains(process, reference)[name]
    x0, noise = start(process, whole, [0, 1])
    for k in (1, 3, 7):
        part = _first_steps(whole, k)
        exact = solve(part, target.score, x0, noise=noise, reference=reference, solver="sequential")
        swept = solve(
            part, target.score, x0, noise=noise, reference=reference, linear=linear, tol=None, sweeps=k, start="constant"
        )
        assert float((swept.state - exact.state).abs().max()) < 1e-12
        if k > 1 and name == "piadm sde" and linear != "reference":
            short = solve(part, target.score, x0, noise=noise, reference=reference, linear=linear, tol=None, sweeps=k - 1)
            assert float((short.x - exact.x).abs().max()) > 1e-12


def _first_steps(chain: Chain, k: int) -> Chain:
    points = slice(0, k + 1)
    return Chain(
        chain.P[:k], chain.Q[:k], chain.noise[:k], chain.t[points], chain.alpha[points], chain.sigma[points], (),
        chain.basis, chain.mean, chain.shift[:k],
    )  # fmt: skip


def test_a_gaussian_is_solved_in_one_sweep() -> None:
    process = OU()
    reference = GaussianReference(
        torch.linspace(-2, 2, 20, dtype=F64), Fourier((20,)), torch.linspace(0.1, 4, Fourier((20,)).num_shells, dtype=F64)
    )

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return reference.score(process, x, t)

    for name in ("piadm sde", "gaussian sde", "ddim", "dpmpp-2m"):
        chain = chains(process, reference)[name]
        x0, noise = start(process, chain, [0, 1], size=20)
        oracle = solve(chain, score, x0, noise=noise, reference=reference, solver="sequential")
        once = solve(chain, score, x0, noise=noise, reference=reference, tol=1e-9)
        assert once.rounds.tolist() == [1, 1]
        assert float((once.x - oracle.x).abs().max()) < 1e-11


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-5])
def test_tolerance_bounds_the_error(tol: float) -> None:
    """The error of the end state, in units of the data's deviation, stays below about the tolerance."""
    process = OU()
    target = mixture(process)
    reference = target.reference()
    names = list(range(20))
    for name in ("piadm sde", "gaussian ode"):
        chain = chains(process, reference, steps=60)[name]
        x0, noise = start(process, chain, names)
        scale = reference.spectrum.mean().sqrt()
        oracle = solve(chain, target.score, x0, noise=noise, reference=reference, solver="sequential")
        result = solve(chain, target.score, x0, noise=noise, reference=reference, tol=tol, scale=float(scale))
        error = ((result.x - oracle.x) / scale).square().mean(1).sqrt()
        assert float(error.max()) < 2 * tol
        assert bool((result.residual <= tol).all())


def test_members_do_not_depend_on_their_batch() -> None:
    process = OU()
    target = mixture(process)
    reference = target.reference()
    chain = chains(process, reference, num_blocks=3)["piadm sde"]
    everyone = list(range(6))
    x0, noise = start(process, chain, everyone)
    together = solve(chain, target.score, x0, noise=noise, reference=reference, tol=1e-3, samples=everyone)
    for member in (0, 4):
        alone = solve(chain, target.score, x0[[member]], noise=noise, reference=reference, tol=1e-3, samples=[member])
        assert torch.allclose(alone.x[0], together.x[member], atol=1e-12)
        assert alone.sweeps[0].tolist() == together.sweeps[member].tolist()
        assert alone.calls[0] == together.calls[member]


def test_sweeps_follow_the_lambda_law() -> None:
    """Smallest k with Lambda^k / k! <= tol bounds the sweeps of A = P on a Gaussian (Lambda from its smallest mode).

    The stopping test sees the change, one sweep later than the error, and at every point, not at the end alone.
    """
    process = OU()
    made = grid.piadm(process, horizon=8.0, delta=1e-3, step=1 / 16).with_blocks(1)
    for variance, eta in ((0.013, 1.0), (0.013, 0.0), (0.3, 1.0)):
        gaussian = isotropic((4,), variance)

        def score(x: torch.Tensor, t: torch.Tensor, prior: GaussianReference = gaussian) -> torch.Tensor:
            return prior.to("cpu", F64).score(process, x, t)

        chain = integrators.piadm(process, made, eta=eta)
        x0, noise = start(process, chain, [0, 1, 2], size=4)
        scale = math.sqrt(variance)
        result = solve(chain, score, x0, noise=noise, linear="process", tol=1e-2, scale=scale)
        v = [1 + (variance - 1) * math.exp(-theta) for theta in (8.0, 1e-3)]
        law = (1 + eta**2) / 2 * (8.0 - 1e-3 + math.log(v[0] / v[1]))
        predicted = next(k for k in range(1, 200) if k * math.log(law) - math.lgamma(k + 1) < math.log(1e-2))
        assert 0.6 * predicted < float(result.rounds.max()) <= predicted + 3


def test_counts_of_rounds_and_calls() -> None:
    process, target = OU(), mixture(OU())
    chain = chains(process, target.reference(), steps=10)["ddim"]
    x0, _ = start(process, chain, [0, 1])
    rows = []

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return target.score(x, t)

    fixed = solve(chain, score, x0, tol=None, sweeps=3, linear="process", check_score=False)
    # sweep k cannot change the k - 1 points that are already exact
    assert fixed.calls.tolist() == [10 + 9 + 8] * 2 and sum(rows) == 2 * 27
    assert fixed.rounds.tolist() == [3, 3] and fixed.status.tolist() == [[int(Status.DEPTH_REACHED)]] * 2
    rows.clear()
    solve(chain, score, x0, tol=None, sweeps=2, model_batch=7)
    assert max(rows) == 7


def test_unconverged_samples_are_finished_sequentially_and_marked() -> None:
    process, target = OU(), mixture(OU())
    reference = target.reference()
    chain = chains(process, reference, num_blocks=2)["gaussian sde"]
    x0, noise = start(process, chain, [0, 1, 2])
    oracle = solve(chain, target.score, x0, noise=noise, reference=reference, solver="sequential")
    result = solve(chain, target.score, x0, noise=noise, reference=reference, tol=1e-13, sweeps=2)
    assert torch.allclose(result.x, oracle.x, atol=1e-12)
    assert not bool(result.converged.any())
    assert (result.status == int(Status.FINISHED_SEQUENTIALLY)).all()
    assert result.sequential_steps.tolist() == [[10, 10]] * 3 and result.rounds.tolist() == [24] * 3


def test_round_off_floor_is_detected_and_reported() -> None:
    process, target = OU(), mixture(OU())
    reference = target.reference()
    chain = chains(process, reference, steps=80)["gaussian sde"]
    x0, noise = start(process, chain, [0, 1])
    result = solve(chain, target.score, x0.float(), noise=noise, reference=reference, tol=1e-12)
    floored = result.status[:, 0] == int(Status.ROUND_OFF_FLOOR)
    assert bool(floored.any()) and not bool(result.converged[floored].any())
    assert bool((floored | (result.residual[:, 0] == 0)).all())
    assert float(result.residual.max()) < 1e-4 and int(result.rounds.max()) < 40


def test_a_network_of_low_precision_stops_at_its_own_floor() -> None:
    process, target = OU(), mixture(OU())
    reference = target.reference()
    chain = chains(process, reference, steps=80)["gaussian sde"]
    x0, noise = start(process, chain, [0, 1])

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return target.score(x, t).bfloat16()

    result = solve(chain, score, x0.float(), noise=noise, reference=reference, tol=1e-6)
    assert result.x.dtype == torch.float32
    # rounding is a fixed function, so that a sample may also reach its fixed point exactly
    assert bool((result.status == int(Status.ROUND_OFF_FLOOR)).any()) and int(result.rounds.max()) < 40


def test_own_tables_own_noise_and_a_score_that_ignores_time() -> None:
    """The user's coefficients have no noise levels, so that the change of the state is tested instead."""
    steps = 30
    P, Q, N = torch.full((steps,), 0.98), torch.full((steps,), 0.05), torch.full((steps,), 0.1)
    chain = Chain(P, Q, N, torch.linspace(1, 0, steps + 1))
    draws, x0 = torch.randn(steps, 2, 3, 5, dtype=F64), torch.randn(2, 3, 5, dtype=F64)
    result = solve(chain, lambda x, t: -torch.tanh(x), x0, noise=draws, tol=1e-13)
    y = x0
    for j in range(steps):
        y = P[j] * y - Q[j] * torch.tanh(y) + N[j] * draws[j]
    assert torch.allclose(result.x, y, atol=1e-6)  # the tables are float32
    single = solve(chain, lambda x, t: -torch.tanh(x), x0.float(), noise=draws.float(), tol=1e-4)
    assert single.x.dtype == torch.float32 and torch.allclose(single.x.double(), y, atol=1e-3)


def two_field_chain(steps: int) -> Chain:
    """Random tables of two channels whose score reads and returns two fields, with the levels of what it reads."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=F64, generator=generator)

    eye = torch.eye(2, dtype=F64)
    P, Q, N = eye + 0.05 * normal(steps, 2, 2), 0.1 * normal(steps, 1, 2, 2), 0.2 * normal(steps, 2, 2)
    signal, factor = 1 + 0.2 * normal(steps + 1, 2), eye + 0.3 * torch.tril(normal(steps + 1, 2, 2))
    return Chain(P, Q, N, torch.linspace(1, 0, steps + 1), signal, factor, R=eye + 0.2 * normal(steps, 2, 2))


def test_a_score_that_reads_two_combinations_of_the_channels() -> None:
    """The sequential solver equals a loop, sweeps equal the sequential solver, and a Gaussian takes one sweep."""
    chain, size = two_field_chain(20), 6
    x0, momentum = torch.randn(3, size, dtype=F64), torch.randn(3, size, dtype=F64)
    draws = torch.randn(20, 3, 2, size, dtype=F64)

    def score(u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -torch.tanh(u) - 0.3 * u.flip(1) * t[:, None, None]

    z = torch.stack([x0, momentum], dim=1)
    for j in range(20):
        s = score(chain.rows[j] @ z, chain.t[j].expand(3))
        z = chain.P[j, 0] @ z + chain.Q[j, 0] @ s + chain.noise[j, 0] @ draws[j]
    first, given = (x0, momentum), {"noise": draws}
    assert torch.allclose(solve(chain, score, first, solver="sequential", **given).state, z, atol=1e-13)
    reference = GaussianReference(torch.linspace(-1, 1, size, dtype=F64), Fourier((size,)), torch.tensor([2.0, 0.7, 0.3, 0.1]))
    for linear in ("identity", "process", "reference"):
        swept = solve(chain, score, first, linear=linear, reference=reference, tol=1e-13, **given)
        assert torch.allclose(swept.state, z, atol=1e-11)

    def gaussian(u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        j = int(torch.argmin((chain.t - t[0]).abs()))
        signal, covariance = chain.levels
        slope = -torch.linalg.inv(reference.marginal(signal[j], covariance[j]))
        away = u - signal[j][:, None] * reference.mean
        gains = reference.basis.expand(slope.movedim(0, -1))
        return reference.basis.synthesise((gains * reference.basis.analyse(away)[:, None]).sum(-2))

    def by_row(u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([gaussian(row[None], time[None]) for row, time in zip(u, t, strict=True)])

    once = solve(chain, by_row, first, reference=reference, tol=1e-9, **given)
    oracle = solve(chain, by_row, first, solver="sequential", **given)
    assert once.rounds.tolist() == [1, 1, 1] and torch.allclose(once.state, oracle.state, atol=1e-11)


@pytest.mark.parametrize("in_flight", [None, 1])
def test_an_operator_that_predicts_the_path_changes_only_the_sweeps(in_flight: Any) -> None:
    process, target = OU(), mixture(OU())
    reference = target.reference()
    chain = chains(process, reference, num_blocks=2)["piadm sde"]
    x0, noise = start(process, chain, [0, 1, 2])
    given = {"noise": noise, "reference": reference, "tol": 1e-11, "in_flight": in_flight}
    oracle = solve(chain, target.score, x0, noise=noise, solver="sequential")
    known = [solve(_first_steps(chain, k), target.score, x0, noise=noise, solver="sequential").state for k in range(1, 24)]

    def exact(states: torch.Tensor, points: list[int]) -> torch.Tensor:
        return torch.stack([known[j - 1][: len(states)] for j in points])

    def wrong(states: torch.Tensor, points: list[int]) -> torch.Tensor:
        return 3 * states.expand(len(points), *states.shape)

    usual = solve(chain, target.score, x0, **given)
    for operator in (exact, wrong):
        found = solve(chain, target.score, x0, operator=operator, **given)
        assert torch.allclose(found.x, oracle.x, atol=1e-9)
        if operator is exact and in_flight is None:
            assert int(found.sweeps.max()) <= 2 < int(usual.sweeps.max())
    with pytest.raises(ValueError, match=r"the operator gave a path of shape \(3, 1, 12\); it must be \(11, 3, 1, 12\)"):
        solve(chain, target.score, x0, operator=lambda states, points: states, **{**given, "in_flight": None})


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp-2m", "gaussian sde"])
def test_a_student_gives_the_first_path_and_changes_only_the_sweeps(name: str) -> None:
    """If the student is the score, one round certifies the path; an error of 1 % saves rounds, and nonsense costs a few."""
    process, target = OU(), mixture(OU())
    reference = target.reference()
    chain = chains(process, reference, steps=32)[name]
    x0, noise = start(process, chain, list(range(16)))
    given = {"noise": noise, "reference": reference, "tol": 1e-4}
    oracle = solve(chain, target.score, x0, noise=noise, reference=reference, solver="sequential")

    def rounds(student: Any) -> tuple[float, float]:
        found = solve(chain, target.score, x0, student=student, **given)
        assert float((found.x - oracle.x).abs().max()) < 1e-3 and bool(found.converged.all())
        assert torch.equal(found.rounds, found.sweeps.sum(1)), "the student's calls are not counted"
        return float(found.rounds.double().mean()), float(found.rounds.max())

    usual = rounds(None)[0]
    assert rounds(target.score) == (1.0, 1.0)
    assert rounds(lambda x, t: target.score(x, t) * (1 + 0.01 * torch.sin(3 * x)))[0] < usual
    assert rounds(lambda x, t: torch.zeros_like(x))[0] < usual + 4


@pytest.mark.parametrize("name", ["ddim", "flow"])
def test_what_a_student_starts_is_within_the_tolerance(name: str) -> None:
    """Its small error does not measure how errors grow; samples certified after one move from it had errors of 2 `tol`."""
    process, target = OU(), mixture(OU())
    reference, tol = target.reference(), 1e-3
    flow = Collocation(process, reference, 6.0, 0.02, 24)
    scheme = flow if name == "flow" else chains(process, reference, steps=32)[name]
    x0, given = drawn(scheme, reference, range(96), 11), {"reference": reference}
    tight: dict[str, Any] = {"tol": 1e-9} if name == "flow" else {"solver": "sequential"}
    exact = solve(scheme, target.score, x0, **tight, **given)

    def rounds(student: Any, **more: Any) -> float:
        found = solve(scheme, target.score, x0, student=student, tol=tol, **given, **more)
        assert bool(found.converged.all())
        assert float((found.x - exact.x).square().mean(1).sqrt().max()) <= tol
        return float(found.rounds.double().mean())

    def bent(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return target.score(x, t) * (1 + 0.01 * torch.sin(3 * x))

    usual = rounds(None)
    assert rounds(bent) < usual
    assert rounds(bent, in_flight=5) < usual, "the student is followed by every sample that enters"
    assert rounds(lambda x, t: torch.zeros_like(x)) < usual + 4
    generator = torch.Generator().manual_seed(0)
    assert rounds(lambda x, t: 100 * torch.randn(x.shape, dtype=x.dtype, generator=generator)) < usual + 6


def test_a_student_that_cannot_be_followed_is_refused() -> None:
    process, target = OU(), mixture(OU())
    reference = target.reference()
    chain = chains(process, reference)["ddim"]
    x0, _ = start(process, chain, [0, 1])
    with pytest.raises(ScoreError, match="not finite"):
        solve(chain, target.score, x0, student=lambda x, t: x * torch.nan, reference=reference)
    with pytest.raises(ValueError, match="operator and student both give the first path"):
        solve(chain, target.score, x0, student=target.score, operator=lambda states, points: states)
    flow = Collocation(process, reference, 6.0, 0.02, 12)
    with pytest.raises(ScoreError, match="not finite"):
        solve(flow, target.score, x0, student=lambda x, t: x * torch.nan, reference=reference)


def test_a_generator_of_one_call_is_a_chain_of_one_step() -> None:
    process = OU()
    chain = integrators.one_step(process, 6.0)
    x0, _ = start(process, chain, [0, 1])
    found = solve(chain, lambda x, t: torch.tanh(x) * t[:, None], x0)
    assert torch.allclose(found.x, 6 * torch.tanh(x0)) and found.rounds.tolist() == [1, 1] and bool(found.converged.all())


@pytest.mark.parametrize("horizon", [0.5, 10.0, 14.0])
def test_short_and_long_horizons(horizon: float) -> None:
    process, target = OU(), mixture(OU())
    reference = target.reference()
    made = grid.piadm(process, horizon=horizon, delta=1e-3, step=0.1).with_blocks(1)
    chain = integrators.piadm(process, made)
    x0, noise = start(process, chain, [0, 1])
    oracle = solve(chain, target.score, x0, noise=noise, solver="sequential")
    for linear in ("identity", "process", "reference"):
        result = solve(chain, target.score, x0, noise=noise, reference=reference, linear=linear, tol=1e-11)
        assert torch.allclose(result.x, oracle.x, atol=1e-9)


def test_every_state_respects_a_projection() -> None:
    """Masked entries are zero in all inputs of the score, also if the basis of the reference does not respect the mask."""
    process, mask = OU(), torch.ones(16, dtype=F64)
    mask[3:7] = 0
    basis = Fourier((16,))
    reference = GaussianReference(torch.zeros(16, dtype=F64), basis, 1 / (1 + torch.arange(basis.num_shells, dtype=F64)))
    seen = []

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(float((x * (1 - mask)).abs().max()))
        return -torch.tanh(x) - 0.3 * x.roll(1, 1)

    chain = chains(process, reference)["piadm sde"]
    x0, noise = start(process, chain, [0, 1], size=16)
    given = {"noise": noise, "project": lambda x: x * mask}
    oracle = solve(chain, score, x0, solver="sequential", **given)
    result = solve(chain, score, x0, reference=reference, tol=1e-12, **given)
    assert max(seen) == 0 and float((result.x * (1 - mask)).abs().max()) == 0
    assert torch.allclose(result.x, oracle.x, atol=1e-10)


def test_corrector_keeps_a_gaussian_and_has_the_sequential_fixed_point() -> None:
    process = OU()
    reference = GaussianReference(torch.zeros(4, dtype=F64), isotropic((4,)).basis, torch.tensor([0.6], dtype=F64))

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return reference.score(process, x, t)

    def corrector(t: float) -> Chain:
        return integrators.underdamped(process, t, friction=2.6, length=0.8, num_steps=8, num_blocks=2)

    made = grid.piadm(process, horizon=4.0, delta=0.05, step=0.05)
    chain = integrators.piadm(process, made, eta=0.0)
    names = list(range(1500))
    x0, noise = start(process, chain, names, size=4)
    given = {"noise": noise, "corrector": corrector, "samples": names}
    result = solve(chain, score, x0, reference=reference, tol=1e-10, **given)
    oracle = solve(chain, score, x0, solver="sequential", **given)
    assert torch.allclose(result.x, oracle.x, atol=1e-9)
    assert int(result.rounds[0]) == int(result.sweeps[0].sum()) + 2 * len(chain.edges) - 2
    expected = 1 + (0.6 - 1) * math.exp(-0.05)
    # 6,000 values: standard error 1.8 %, plus the first-order bias of predictor and corrector
    assert float(result.x.var()) == pytest.approx(expected, rel=0.09)


def test_out_of_memory_halves_the_rows_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    process, target = OU(), mixture(OU())
    chain = chains(process, target.reference(), steps=10)["ddim"]
    x0, _ = start(process, chain, [0, 1])

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if len(x) > 6:
            raise torch.OutOfMemoryError("no memory")
        return target.score(x, t)

    result = solve(chain, score, x0, tol=1e-9)
    assert torch.allclose(result.x, solve(chain, target.score, x0, tol=1e-9).x, atol=1e-12)
    assert "going on with model_batch = 5" in caplog.text


def _nan_late(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.where((t < 0.1)[:, None], torch.full_like(x, float("nan")), -x)


def _broken(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    raise KeyError("weights")


@pytest.mark.parametrize(
    "score, message",
    [
        (_nan_late, r"not finite for sample 3 at time t = 0\.0\d+ on rank 0"),
        (_broken, "the score failed on rank 0: KeyError: 'weights'"),
        (lambda x, t: x[:, :2], r"the score returned \(\d+, 2\) for states of shape \(\d+, 12\)"),
        (lambda x, t: None, "the score returned NoneType"),
    ],
)
@pytest.mark.parametrize("solver", ["picard", "sequential"])
def test_failing_scores_are_named(score: Any, message: str, solver: str) -> None:
    process = OU()
    chain = chains(process, mixture(process).reference())["ddim"]
    x0, _ = start(process, chain, [3, 5])
    with pytest.raises(ScoreError, match=message):
        solve(chain, score, x0, samples=[3, 5], solver=solver)


def test_bad_arguments_are_refused_all_at_once() -> None:
    process, target = OU(), mixture(OU())
    chain = chains(process, target.reference())["piadm sde"]
    x0, noise = start(process, chain, [0, 1])
    with pytest.raises(ValueError, match=r"states are float32.*sample ids must differ.*linear = 'newton'.*need a reference"):
        solve(chain, target.score, x0.half(), samples=[1, 1], linear="newton", start="reference")
    with pytest.raises(ValueError, match="this chain is stochastic: give `noise`"):
        solve(chain, target.score, x0)
    with pytest.raises(ValueError, match=f"the reference has size 5, states {SIZE}"):
        solve(chain, target.score, x0, noise=noise, reference=isotropic((5,)))
    with pytest.raises(ValueError, match="tol must be positive, got -1"):
        solve(chain, target.score, x0, noise=noise, tol=-1)
    with pytest.raises(ValueError, match="give a tolerance `tol`, a fixed depth `sweeps`, or both"):
        solve(chain, target.score, x0, noise=noise, tol=None)
    other = mixture(process).reference()
    aware = chains(process, target.reference())["gaussian sde"]
    with pytest.raises(ValueError, match="needs the reference it was built from"):
        solve(aware, target.score, x0, noise=noise, reference=other)
    with pytest.raises(ValueError, match="not finite"):
        solve(chain, target.score, x0 * float("nan"), noise=noise)


@pytest.mark.parametrize(("rare", "published"), [(80, False), (355, True)])
def test_a_sample_near_a_boundary_between_modes_keeps_its_tolerance_too(rare: int, published: bool) -> None:
    """The changes of these draws shrink, grow and shrink again; the last ones are amplified a thousandfold at the end."""
    target, span = target_c(OU(), 256), {"horizon": 8.0, "delta": 1e-3}
    reference = target.reference()
    scale = torch.sqrt(reference.spectrum + 1e-3)
    noise = Noise(0, 256, dtype=torch.float64)
    steps = grid.log_snr(OU(), 48, **span)
    if published:
        steps = grid.piadm(OU(), step=1 / 16, **span).with_blocks(1)
        flow = Collocation(OU(), reference, 8.0, 1e-3, 16)
        pilot = solve(flow, target.score, drawn(flow, reference, range(8), 0), tol=1e-2, reference=reference, scale=scale).x
        reference = replace(reference, response=probe_response(target.score, OU(), reference, pilot, **span))
    chain = integrators.gaussian_exponential(OU(), steps, reference)
    common = {"noise": noise, "reference": reference, "scale": scale, "samples": [0, rare]}
    first = drawn(chain, reference, [0, rare], 0)
    oracle = solve(chain, target.score, first, solver="sequential", **common)
    swept = solve(chain, target.score, first, tol=1e-2, **common)
    errors = ((swept.x - oracle.x) / scale).square().mean(1).sqrt()
    assert bool(swept.converged.all()) and float(errors.max()) < 1e-2
    assert int(swept.rounds[1]) > 1.5 * int(swept.rounds[0]), "an easy draw stops where it did"
