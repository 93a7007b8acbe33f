"""Posteriors agree with closed forms: conditioned references, scores, the last step, samples of Gaussians and mixtures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from posteriors import (
    DELTA,
    F64,
    PROCESS,
    closed_form,
    denoiser,
    dense,
    draw,
    masked,
    mixture_posterior,
    observe,
    points,
    sphere,
    world,
)
from torch import Tensor

from piadm_hpc.analysis.verify.posterior import Predicted, ensemble_scores, gaussian_crps
from piadm_hpc.gaussian import conditioned
from piadm_hpc.gaussian.conditioned import Update, condition
from piadm_hpc.gaussian.harmonics import HarmonicEOF, low_degrees
from piadm_hpc.gaussian.masked import shell_degrees
from piadm_hpc.gaussian.observed import LinearObservations, conjugate_gradients
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.observations.function import FunctionObservations, linearised
from piadm_hpc.models.observations.posterior import posterior
from piadm_hpc.models.observations.scores import GuidedScore
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.theory.bases import EOF, Basis, Fourier, Identity, Pixelwise, SphericalHarmonics

GOLDEN = Path(__file__).parent / "data" / "azula-mmps.json"


def bases() -> dict[str, tuple[Basis, Tensor]]:
    """A reference in every basis."""
    generator = torch.Generator().manual_seed(0)
    harmonics = SphericalHarmonics(8, 16, 6, area_weighted=False)
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=F64))[0]
    assert len(low_degrees(harmonics, 3)) == 9
    eof = EOF(torch.linalg.qr(torch.randn(128, 10, generator=generator, dtype=F64))[0], (8, 16))
    made: dict[str, Basis] = {
        "identity": Identity((8, 16)), "pixelwise": Pixelwise((8, 16)), "eof": eof, "fourier": Fourier((8, 16)),
        "harmonics": harmonics, "harmonic eof": HarmonicEOF(harmonics, rotation, 3),
    }  # fmt: skip
    drawn = {name: torch.rand(basis.num_shells, generator=generator, dtype=F64) + 0.1 for name, basis in made.items()}
    return {name: (basis, drawn[name]) for name, basis in made.items()}


def given(reference: GaussianReference, count: int, std: float, *, seed: int = 0, correlation: float = 0.0) -> LinearObservations:
    """Observations of single points of a draw of the reference."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(1, *reference.event_shape, generator=generator, dtype=F64)
    truth = reference.draw(white, torch.ones((), dtype=F64), torch.zeros((), dtype=F64)).flatten()
    there = dense(reference).diagonal() > 1e-9
    rows = points(len(truth), count, seed, there)
    group = torch.where(torch.arange(count) < 4, 0, torch.where(torch.arange(count) < 7, 1, -1)) if correlation else None
    return observe(rows, rows @ truth + std * torch.randn(count, generator=generator, dtype=F64), std, group, correlation)


@pytest.mark.parametrize("name", list(bases()))
def test_a_conditioned_reference_is_the_textbooks(name: str) -> None:
    basis, spectrum = bases()[name]
    reference = GaussianReference(torch.linspace(-1, 1, 128, dtype=F64), basis, spectrum)
    observations = given(reference, 12, 0.2, correlation=0.5)
    made = condition(reference, observations)
    mean, spread = closed_form(reference.mean, dense(reference), observations)
    torch.testing.assert_close(made.mean, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(dense(made), spread, rtol=0, atol=1e-9)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1), dtype=F64)
    torch.testing.assert_close(made.basis.synthesise(made.basis.analyse(x)), x)


@pytest.mark.parametrize(("name", "largest"), [("eof", 30), ("harmonics", 90), ("identity", 20), ("fourier", 100)])
def test_directions_that_no_observation_sees_need_no_modes(name: str, largest: int) -> None:
    basis, spectrum = bases()[name]
    reference = GaussianReference(torch.zeros(128, dtype=F64), basis, spectrum)
    observations = given(reference, 4, 0.2)
    made = condition(reference, observations, largest=largest)
    mean, spread = closed_form(reference.mean, dense(reference), observations)
    assert made.basis.num_shells - basis.num_shells <= largest
    torch.testing.assert_close(made.mean, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(dense(made), spread, rtol=0, atol=1e-9)
    assert float(shell_degrees(made.basis).sum()) == pytest.approx(128)
    white = torch.randn(4000, 128, generator=torch.Generator().manual_seed(2), dtype=F64)
    energy = made.basis.energy(made.basis.analyse(white))
    left = shell_degrees(made.basis) > 0
    assert float((energy[left] - 1).abs().max()) < 0.25


def test_with_too_few_modes_the_mean_stays_exact_and_variances_too_large() -> None:
    basis, spectrum = bases()["harmonics"]
    reference = GaussianReference(torch.zeros(128, dtype=F64), basis, spectrum)
    observations = given(reference, 40, 0.2)
    made = condition(reference, observations, largest=20)
    mean, spread = closed_form(reference.mean, dense(reference), observations)
    torch.testing.assert_close(made.mean, mean, rtol=0, atol=1e-9)
    assert float(spread.trace()) < float(dense(made).trace()) < float(dense(reference).trace())


def test_conjugate_gradients_agree_with_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    field = sphere()
    observations = given(field.reference(), 30, 0.1)
    x, t = (
        torch.randn(4, 12, 24, generator=torch.Generator().manual_seed(0), dtype=F64),
        torch.tensor([0.1, 0.1, 2, 5], dtype=F64),
    )
    made = [posterior(field.score, None, PROCESS, field.reference(), observations)]
    scores = [made[0].score(x, t)]
    monkeypatch.setattr(conditioned, "DENSE", 10)
    made.append(posterior(field.score, None, PROCESS, field.reference(), observations))
    scores.append(made[1].score(x, t))
    update = made[1].update
    assert update is not None and not update.dense
    # the preconditioner holds its directions, their observations, and a factor for each of the three levels and for the prior
    arrays = [*update._factors.values(), *update._leading]
    assert sum(part.nbytes for part in arrays) <= update.factor_bytes(len(update._factors)) <= 8 * 288 * (4 * 288 + 30 + 288)
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(made[1].reference.mean, made[0].reference.mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(dense(made[1].reference), dense(made[0].reference), rtol=0, atol=1e-7)


def test_leading_directions_precondition_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all directions one iteration suffices, and some of them save iterations; the solution does not change."""
    reference = sphere().reference()
    observations, solutions, counts = given(reference, 100, 0.05), [], []
    monkeypatch.setattr(conditioned, "DENSE", 10)
    innovation = torch.randn(2, 100, generator=torch.Generator().manual_seed(3), dtype=F64)
    for leading in (0, 64, 288):
        monkeypatch.setattr(conditioned, "LEADING", leading)
        update, count = Update(reference, observations), [0]
        system = update._system

        def counted(gains: Tensor, u: Tensor, count: list[int] = count, system: Any = system) -> Tensor:
            count[0] += 1
            return system(gains, u)

        update._system = counted  # type: ignore[method-assign]
        solutions.append(update.increment(torch.tensor(3.0, dtype=F64), innovation))
        counts.append(count[0])
    assert counts[0] > counts[1] + 5 and counts[2] <= 2
    for other in solutions[1:]:
        torch.testing.assert_close(other, solutions[0], rtol=0, atol=1e-6)


def test_rows_of_conjugate_gradients_do_not_depend_on_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(30, 30, generator=generator, dtype=F64)
    matrix = root @ root.T + torch.eye(30, dtype=F64)
    b = torch.randn(5, 30, generator=generator, dtype=F64) * torch.tensor([1, 1e-6, 1e3, 0, 1], dtype=F64)[:, None]
    together = conjugate_gradients(lambda u: u @ matrix, b, accuracy=1e-10)
    alone = torch.cat([conjugate_gradients(lambda u: u @ matrix, row[None], accuracy=1e-10) for row in b])
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=0)
    torch.testing.assert_close(together, torch.linalg.solve(matrix, b.T).T, rtol=1e-7, atol=1e-13)


def test_errors_that_are_correlated_in_groups() -> None:
    reference = sphere().reference()
    observations = given(reference, 10, 0.3, correlation=0.6)
    matrix = observations.noise_matrix()
    assert float(matrix[0, 3]) == pytest.approx(0.6 * 0.09) and float(matrix[0, 5]) == 0 and float(matrix[8, 9]) == 0
    u = torch.randn(3, 10, generator=torch.Generator().manual_seed(0), dtype=F64)
    extra = torch.tensor([0.0, 0.5, 7.0], dtype=F64)
    wanted = [torch.linalg.solve(matrix + e * torch.eye(10), row) for e, row in zip(extra, u, strict=True)]
    torch.testing.assert_close(observations.noise_inverse(u, extra), torch.stack(wanted))
    white = torch.randn(2, 20000, 10, generator=torch.Generator().manual_seed(1), dtype=F64)
    drawn = observations.errors(white[0], white[1])
    assert float((drawn.T.cov() - matrix).abs().max()) < 0.05 * 0.09 * 2


WORLDS = [("sphere", 0.01, 0.1), ("sphere", 0.05, 1.0), ("sphere", 0.2, 0.1), ("masked", 0.05, 0.1), ("masked", 0.2, 0.5)]


@pytest.mark.parametrize(("name", "share", "noise"), WORLDS)
def test_a_gaussian_world_costs_no_round_and_has_the_right_moments(name: str, share: float, noise: float) -> None:
    field = {"sphere": sphere, "masked": masked}[name]()
    reference, members = field.reference(), 1000
    there = dense(reference).diagonal() > 1e-9
    count = max(1, round(share * int(there.sum())))
    typical = float(torch.sqrt(dense(reference).diagonal()[there].mean()))
    observations = given(reference, count, noise * typical)
    made = draw(field.score, reference, observations, members, points=5)
    assert int(made.solution.rounds.max()) <= 2 and bool(made.solution.converged.all())
    mean, covariance = closed_form(reference.mean, dense(reference), observations)
    # the samples are an exact map of their own noise, so that the error of sampling can be taken out of the comparison
    conditioned_reference = made.posterior.reference
    first = made.sampler.prior_states(list(range(members)))[:, 0]
    t = made.sampler.chain.t[:1].expand(members)
    exact = conditioned_reference.flow(PROCESS, first, t, torch.zeros_like(t)).flatten(1)
    spread = torch.sqrt(covariance.diagonal().clamp(min=0))[there]
    shift = (made.x.mean(0) - exact.mean(0))[there] / spread
    assert float(shift.square().mean().sqrt()) < 0.02
    ratio = made.x.var(0)[there] / exact.var(0)[there]
    assert float((ratio - 1).abs().max()) < 0.05
    # and with it, the moments are those of the closed form
    away = (made.x.mean(0) - mean)[there] / spread
    assert float(away.square().mean().sqrt()) < 3 / math.sqrt(members)
    assert float((made.x.var(0)[there] / spread**2).mean()) == pytest.approx(1, abs=0.05)
    assert float(made.x[:, ~there].abs().max() if bool((~there).any()) else 0) < 1e-6


def test_truths_are_exchangeable_with_members() -> None:
    """Rank histogram and chi-square are flat over many truths, each of which has its own observations."""
    field, members, truths = sphere(), 9, 60
    reference, states, noisy, values, std, chi = field.reference(), [], [], [], [], []
    rows = points(288, 14)
    watched = points(288, 6, seed=4)
    for number in range(truths):
        truth = field.sample(1, torch.Generator().manual_seed(100 + number)).flatten()
        errors = 0.1 * torch.randn(14, generator=torch.Generator().manual_seed(900 + number), dtype=F64)
        observations = observe(rows, rows @ truth + errors, 0.1)
        made = draw(field.score, reference, observations, members, points=5, seed=number)
        states.append(made.x @ watched.T)
        values.append(watched @ truth)
        chi.append(((made.x @ rows.T - observations.values) ** 2 / 0.01).mean())
    noisy = torch.cat(states, 1).numpy()
    std = torch.zeros(noisy.shape[1]).numpy()
    found = ensemble_scores(Predicted(noisy, noisy, torch.cat(values).numpy(), std))
    assert found["rank_p_value"] > 0.01
    assert 0.85 < found["spread_over_skill"] < 1.15
    assert float(torch.stack(chi).mean()) == pytest.approx(1, abs=0.1)


def test_scores_of_too_narrow_ensembles_show_it() -> None:
    generator = torch.Generator().manual_seed(0)
    values, members = (torch.randn(shape, generator=generator, dtype=F64).numpy() for shape in ((500,), (39, 500)))
    good = ensemble_scores(Predicted(members, members, values, 0 * values))
    narrow = ensemble_scores(Predicted(0.5 * members, 0.5 * members, values, 0 * values))
    assert good["rank_p_value"] > 0.01 and narrow["rank_p_value"] < 1e-6
    assert good["coverage_90"] == pytest.approx(0.9, abs=0.04) and narrow["coverage_90"] < 0.7
    assert good["spread_over_skill"] == pytest.approx(1, abs=0.1) and narrow["spread_over_skill"] < 0.6
    assert good["fair_crps"] == pytest.approx(float(gaussian_crps(0 * values, 1 + 0 * values, values).mean()), rel=0.05)
    assert narrow["fair_crps"] > good["fair_crps"]


def test_the_last_step_is_the_end_of_the_flow_however_early_it_is_taken() -> None:
    field = sphere()
    reference, observations = field.reference(), given(field.reference(), 30, 0.01)
    made = draw(field.score, reference, observations, 400, delta=0.05)
    _, covariance = closed_form(reference.mean, dense(reference), observations)
    ratio = (made.x.var(0) / covariance.diagonal()).mean()
    assert float(ratio) == pytest.approx(1, abs=0.03)
    without = (made.solution.x.flatten(1).var(0) / covariance.diagonal()).mean()
    assert float(without) > 2


@pytest.mark.parametrize("kind", ["kalman", "mmps"])
def test_scores_that_are_exact_on_gaussians(kind: str) -> None:
    field = masked()
    reference = field.reference()
    observations = given(reference, 20, 0.2, correlation=0.3)
    mean, covariance = closed_form(reference.mean, dense(reference), observations)
    made = posterior(field.score, denoiser(field.score), PROCESS, reference, observations, kind=kind)
    t = torch.tensor([0.002, 0.3, 4.0], dtype=F64)
    x = torch.randn(3, 120, generator=torch.Generator().manual_seed(0), dtype=F64) * (dense(reference).diagonal() > 0)
    found = made.score(x.reshape(3, 8, 15), t).flatten(1)
    for row in range(3):
        alpha, sigma = PROCESS.alpha(t[row]), PROCESS.sigma(t[row])
        marginal = alpha**2 * covariance + sigma**2 * torch.eye(120, dtype=F64)
        wanted = -torch.linalg.solve(marginal, x[row] - alpha * mean)
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def jacobian(target: Any, x: Tensor, t: Tensor) -> Tensor:
    """The Jacobian dD/dx [d, d] of the denoiser of a mixture, by automatic differentiation."""
    denoise = denoiser(target.score)
    return torch.func.jacrev(lambda z: denoise(z[None], t[None])[0])(x)


@pytest.mark.parametrize("kind", ["mmps", "sda", "dps", "pigdm"])
def test_guidance_is_its_formula(kind: str) -> None:
    target, process, rows, values, std = world()
    observations = observe(rows, values, std)
    x = torch.randn(2, 24, generator=torch.Generator().manual_seed(0), dtype=F64)
    t = torch.tensor([0.2, 1.5], dtype=F64)
    denoise = denoiser(target.score)
    found = GuidedScore(denoise, process, observations, kind, gamma=0.3)(x, t)
    for row in range(2):
        alpha, sigma, slope = process.alpha(t[row]), process.sigma(t[row]), jacobian(target, x[row], t[row])
        extra = {
            "mmps": sigma**2 / alpha * rows @ slope @ rows.T, "sda": 0.3 * (sigma / alpha) ** 2 * torch.eye(6), "dps": 0,
            "pigdm": sigma**2 / (alpha**2 + sigma**2) * rows @ rows.T,
        }[kind]  # fmt: skip
        away = values - rows @ denoise(x[row][None], t[row][None])[0]
        wanted = target.score(x[row][None], t[row][None])[0] + slope.T @ rows.T @ torch.linalg.solve(
            torch.diag(std**2) + extra, away
        )
        torch.testing.assert_close(found[row], wanted, rtol=1e-6, atol=1e-6)


def test_mmps_is_that_of_azula_solved_to_the_end() -> None:
    """The numbers come from MMPSDenoiser of azula 0.11.1, with six iterations of GMRES for the six values of `world`."""
    golden = json.loads(GOLDEN.read_text())
    target, process, rows, values, std = world()
    score = GuidedScore(denoiser(target.score), process, observe(rows, values, std))
    x = torch.tensor(golden["states"], dtype=F64)
    for time, estimate in zip(golden["times"], golden["estimates"], strict=True):
        t = torch.full((len(x),), time, dtype=F64)
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        found = (x + sigma**2 * score(x, t)) / alpha
        torch.testing.assert_close(found, torch.tensor(estimate, dtype=F64), rtol=0, atol=1e-5)


def test_a_mixture_world() -> None:
    target, _, rows, values, std = world()
    observations, members = observe(rows, values, std), 400
    weights, means, covariances = mixture_posterior(target, observations)
    mean = weights @ means
    spread = sum(w * (c + torch.outer(m - mean, m - mean)) for w, m, c in zip(weights, means, covariances, strict=True))
    deviation = torch.sqrt(torch.as_tensor(spread).diagonal())
    made = draw(target.score, target.reference(), observations, members, kind="mmps", points=12)
    assert float(made.solution.converged.double().mean()) > 0.97
    assert float(made.solution.rounds.median()) <= 4
    error = ((made.x.mean(0) - mean) / deviation).square().mean().sqrt()
    assert float(error) < 1.5 / math.sqrt(members) + 0.05
    assert float((made.x.std(0) / deviation).mean()) == pytest.approx(1, abs=0.12)


def test_a_function_is_observed_as_well() -> None:
    field = sphere()
    reference = field.reference()
    rows = points(288, 8)
    linear = given(reference, 8, 0.2)
    errors = (linear.std, linear.group, linear.correlation)
    # a function that is linear gives the posterior of linear observations
    function = FunctionObservations(linear.values, lambda x: x @ rows.T, *errors)
    straight = linearised(function, reference)
    torch.testing.assert_close(straight.rows.to_dense(), rows)
    made = posterior(field.score, denoiser(field.score), PROCESS, reference, function)
    wanted = posterior(field.score, None, PROCESS, reference, linear)
    x, t = torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(0), dtype=F64), torch.tensor([0.3, 2.0], dtype=F64)
    torch.testing.assert_close(made.score(x, t), wanted.score(x, t), rtol=1e-4, atol=1e-4)
    # and one that is not is taken to first order where the posterior is highest: there its gradient vanishes
    curved = FunctionObservations(linear.values.exp(), lambda x: (x @ rows.T).exp(), *errors)
    state = condition(reference, linearised(curved, reference)).mean
    pull = linearised(curved, reference).adjoint((curved.values - curved.apply(state[None])) / curved.std**2)[0]
    torch.testing.assert_close(state - reference.mean, dense(reference) @ pull, rtol=0, atol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    field, rows = sphere(), points(288, 3)
    reference = field.reference()
    with pytest.raises(ValueError, match=r"std must be positive; correlations must be at least 0"):
        observe(rows, torch.zeros(3, dtype=F64), 0.0, torch.zeros(3, dtype=torch.long), 1.0)
    with pytest.raises(ValueError, match="other units, or absolute values"):
        posterior(field.score, None, PROCESS, reference, observe(rows, torch.full((3,), 280.0, dtype=F64), 0.1))
    good = observe(rows, torch.zeros(3, dtype=F64), 0.1)
    with pytest.raises(ValueError, match="needs the derivative of the network"):
        posterior(field.score, None, PROCESS, reference, good, kind="mmps")
    with pytest.raises(ValueError, match="unknown guidance 'guess'; there are mmps"):
        posterior(field.score, denoiser(field.score), PROCESS, reference, good, kind="guess")


def test_samples_of_a_chain_of_steps_are_conditioned_too() -> None:
    """A stochastic chain with the same reference and score gives the same moments as collocation."""
    from piadm_hpc import grid, integrators
    from piadm_hpc.solvers.options import Options
    from piadm_hpc.solvers.sampler import Sampler

    field = sphere()
    reference, observations = field.reference(), given(field.reference(), 20, 0.1)
    made = posterior(field.score, None, PROCESS, reference, observations)
    steps = grid.log_snr(PROCESS, 24, horizon=8.0, delta=DELTA)
    chain = integrators.gaussian_exponential(PROCESS, steps, made.reference, eta=1.0)
    sampler = Sampler(chain, made.score, (12, 24), 0, Options(tol=1e-2, model_batch=512), reference=made.reference, dtype=F64)
    solution = sampler.draw(list(range(200)))
    assert int(solution.rounds.max()) <= 3
    x = made.last_step(solution.x, chain.t[-1]).flatten(1)
    mean, covariance = closed_form(reference.mean, dense(reference), observations)
    spread = torch.sqrt(covariance.diagonal())
    assert float(((x.mean(0) - mean) / spread).square().mean().sqrt()) < 2.5 / math.sqrt(200)
    assert float((x.var(0) / spread**2).mean()) == pytest.approx(1, abs=0.1)


def test_collocation_of_the_prior_reference_takes_more_rounds() -> None:
    field = sphere()
    reference, observations = field.reference(), given(field.reference(), 60, 0.1)
    made = draw(field.score, reference, observations, 4)
    from dataclasses import replace

    own = Collocation(PROCESS, reference, 8.0, DELTA, 10)
    plain = replace(made.sampler, chain=own, reference=reference, prior=made.posterior.reference).draw(range(4))
    assert int(made.solution.rounds.max()) <= 2 < int(plain.rounds.min())
