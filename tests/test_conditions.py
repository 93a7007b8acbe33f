"""Conditions in the solvers: closed forms, every solver and window, samples alone and together, guidance, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conditional import ConditionalGaussian, ShiftedMixture
from problems import F64, SIZE, chains, every_method, solve, start

import piadm_hpc
from piadm_hpc.models.base import wrap
from piadm_hpc.models.guidance import guided
from piadm_hpc.schema.conditions import rows_of
from piadm_hpc.solvers.baselines.dispatch import BASELINES
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.solvers.solution import Stopped
from piadm_hpc.theory.process import OU

PROCESS = OU()
WORLD, MIXTURE = ConditionalGaussian(PROCESS), ShiftedMixture(PROCESS)
NAMES = [0, 1, 2, 5, 7]
TREE = MIXTURE.conditions(len(NAMES))


def design(samples: int, inputs: int) -> torch.Tensor:
    """Return normal numbers [samples, inputs] with a sample mean of exactly zero and a sample covariance of exactly one."""
    draws = torch.randn(samples, inputs, dtype=F64, generator=torch.Generator().manual_seed(2))
    orthonormal, _ = torch.linalg.qr(draws - draws.mean(0))
    return orthonormal * (samples - 1) ** 0.5


def gaussian_scheme(name: str, steps: int) -> Any:
    """Return a chain built on the residuals' reference, or the collocation of the flow."""
    if name == "collocation":
        return Collocation(PROCESS, WORLD.reference, 10.0, 1e-4, steps)
    made = piadm_hpc.grid.log_snr(PROCESS, steps, horizon=10.0, delta=1e-4)
    if name == "second order":
        return piadm_hpc.integrators.gaussian_ab2(PROCESS, made, WORLD.reference)
    return piadm_hpc.integrators.gaussian_exponential(PROCESS, made, WORLD.reference)


@pytest.mark.parametrize(
    ("name", "steps", "of_mean"), [("stochastic", 40, 800), ("second order", 60, 120), ("collocation", 24, 24)]
)
def test_samples_of_a_gaussian_world_have_its_moments_given_the_condition(name: str, steps: int, of_mean: Any) -> None:
    """In at most two rounds with all points, for two conditions in one batch, means are within 1 % and covariances within 3 %.

    The noise has exact sample moments, and the mean none, so that only the solver and the grid contribute errors.
    """
    conditions = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=F64)
    draws = steps if name == "stochastic" else 0
    white = design(2 * SIZE * (draws + 1), SIZE * (draws + 1)).reshape(-1, draws + 1, SIZE).repeat(2, 1, 1)
    still = torch.zeros(2, of_mean + 1, SIZE, dtype=F64)
    ends = []
    for count, numbers in ((steps, white), (of_mean, still)):
        chain = gaussian_scheme(name, count)
        x0 = WORLD.reference.draw_state(numbers[:, :1].expand(-1, chain.channels, -1), *chain.entry())
        found = solve(
            chain, WORLD.score, (x0[:, 0], x0[:, 1:]), noise=numbers[:, 1:].movedim(1, 0) if draws else None, tol=1e-3,
            reference=WORLD.reference, condition=conditions.repeat_interleave(len(numbers) // 2, 0),
        )  # fmt: skip
        # the first sweeps of a flow have few nodes; the last two have all of them
        most = len(chain.point_counts) + 1 if isinstance(chain, Collocation) else 2
        assert int(found.rounds.max()) <= most and bool(found.converged.all())
        ends.append(found.x)
    assert float((ends[1] - WORLD.expected(conditions)).norm() / WORLD.expected(conditions).norm()) < 0.01
    for samples in ends[0].chunk(2):
        assert float((torch.cov(samples.T) - torch.diag(WORLD.variances)).norm() / WORLD.variances.norm()) < 0.03


CASES = {
    "whole": {},
    "in flight": {"in_flight": 2},
    "window": {"window": 5},
    "front": {"pipelined": True},
    "every second point": {"alternate": True},
    "few rows": {"model_batch": 3},
    "identity": {"linear": "identity"},
    **{kind: {"solver": kind} for kind in BASELINES},
}


@pytest.mark.parametrize("case", CASES)
def test_every_solver_hands_rows_the_condition_of_their_sample(case: str) -> None:
    """Solutions equal those of every sample alone, step by step, with a score that has its one condition built in."""
    chain = chains(PROCESS, MIXTURE.target.reference(), steps=23, num_blocks=2)["ddpm"]
    x0, noise = start(PROCESS, chain, NAMES)
    given = {"noise": noise, "reference": MIXTURE.target.reference()}
    found = solve(chain, MIXTURE.score, x0, samples=NAMES, condition=TREE, tol=1e-12, **given, **CASES[case])
    for k, name in enumerate(NAMES):
        mine = rows_of(TREE, slice(k, k + 1))

        def score(x: torch.Tensor, t: Any, mine: Any = mine) -> Any:
            return MIXTURE.score(x, t, {key: _expanded(part, len(x)) for key, part in mine.items()})

        alone = solve(chain, score, x0[k : k + 1], samples=[name], solver="sequential", **given)
        assert float((found.state[k] - alone.state[0]).abs().max()) < 1e-10


def _expanded(part: Any, rows: int) -> Any:
    if isinstance(part, dict):
        return {key: _expanded(inner, rows) for key, inner in part.items()}
    return part.expand(rows, *part.shape[1:])


@pytest.mark.parametrize("name", ["heun", "gddim-ab2", "dpmpp-2m"])
def test_chains_of_several_channels_and_calls_take_conditions(name: str) -> None:
    chain = every_method(PROCESS, MIXTURE.target.reference(), steps=7)[name]
    sampler = Sampler(chain, MIXTURE.score, (SIZE,), 3, Options(tol=1e-12), reference=MIXTURE.target.reference(), dtype=F64)
    oracle = replace(sampler, options=Options(solver="sequential")).draw(NAMES, condition=TREE)
    assert float((sampler.draw(NAMES, condition=TREE).x - oracle.x).abs().max()) < 1e-10 * float(oracle.state.abs().max())


def test_mixture_kernels_and_wrapped_networks_hand_conditions_on() -> None:
    """A kernel calls the score three times a row, and its network predicts x_0 given the condition."""

    def network(x: torch.Tensor, t: Any, c: Any) -> Any:
        alpha, sigma = (level(t)[:, None] for level in (PROCESS.alpha, PROCESS.sigma))
        return (x + sigma**2 * MIXTURE.score(x, t, c)) / alpha

    reference = MIXTURE.target.reference()
    grid = piadm_hpc.grid.log_snr(PROCESS, 9, horizon=5.0, delta=0.02)
    chain = piadm_hpc.integrators.build("gms", PROCESS, grid, reference=reference)
    ends = []
    for network_score in (MIXTURE.score, wrap(network, predicts="x0", process=PROCESS)):
        score = piadm_hpc.integrators.score_of("gms", network_score, PROCESS, grid, reference)
        sampler = Sampler(chain, score, (SIZE,), 3, Options(solver="sequential"), reference=reference, dtype=F64)
        ends.append(sampler.draw(NAMES, condition=TREE).x)
    assert torch.allclose(*ends, atol=1e-9)
    alone = sampler.draw(NAMES[2:3], condition=rows_of(TREE, slice(2, 3))).x
    assert torch.allclose(alone[0], ends[1][2], atol=1e-9)


def test_a_member_is_its_seed_number_and_condition() -> None:
    """Condition k alone gives the sample of condition k in a large run, and another condition gives another sample."""
    reference = MIXTURE.target.reference()
    scheme = Collocation(PROCESS, reference, 6.0, 1e-2, 12)
    for chain in (chains(PROCESS, reference)["gaussian sde"], scheme):
        sampler = Sampler(chain, MIXTURE.score, (SIZE,), 3, Options(tol=1e-8, in_flight=3), reference=reference, dtype=F64)
        large = sampler.draw(NAMES, condition=TREE)
        for k in (0, 3):
            alone = sampler.draw([NAMES[k]], condition=rows_of(TREE, slice(k, k + 1)))
            assert float((alone.x[0] - large.x[k]).abs().max()) < 1e-7
        other = sampler.draw([NAMES[0]], condition=rows_of(TREE, slice(3, 4)))
        assert float((other.x[0] - large.x[0]).abs().max()) > 0.1


def test_samples_continue_from_the_end_of_a_block_with_their_conditions() -> None:
    """A solve that is stopped between two blocks resumes with the same conditions, in other batches of calls."""
    chain = chains(PROCESS, MIXTURE.target.reference(), steps=24, num_blocks=3)["ddpm"]
    given = {"reference": MIXTURE.target.reference(), "dtype": F64}
    sampler = Sampler(chain, MIXTURE.score, (SIZE,), 3, Options(tol=1e-12), **given)

    class Interrupting:
        unfinished = None

        def block_ended(self, block: Any, result: Any, unfinished: Any) -> None:
            self.unfinished = unfinished

        def should_stop(self, done: Any) -> Any:
            return self.unfinished is not None

    callback = Interrupting()
    with pytest.raises(Stopped):
        sampler.draw(NAMES, condition=TREE, callback=callback)
    resumed = replace(sampler, options=Options(tol=1e-12, in_flight=2)).draw(NAMES, condition=TREE, resume=callback.unfinished)
    assert torch.allclose(resumed.x, sampler.draw(NAMES, condition=TREE).x, atol=1e-10)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_guidance_is_the_formula_of_two_models_in_one_call(weight: float) -> None:
    calls = []

    def score(x: torch.Tensor, t: Any, c: Any) -> Any:
        calls.append(len(x))
        return MIXTURE.score(x, t, c)

    null = {"map": {"shift": torch.zeros(1, SIZE, dtype=F64)}, "sign": torch.zeros(1, dtype=torch.long)}
    x = torch.randn(len(NAMES), SIZE, dtype=F64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.1, 3, len(NAMES), dtype=F64)
    found = guided(score, null, weight)(x, t, TREE)
    plain, given = MIXTURE.target.score(x, t), MIXTURE.score(x, t, TREE)
    assert float((found - (plain + weight * (given - plain))).abs().max()) < 1e-6
    assert calls == [len(NAMES) if weight == 1 else 2 * len(NAMES)]
    with pytest.raises(ValueError, match="guidance = nan: give a finite number"):
        guided(score, null, float("nan"))


def test_real_numbers_take_the_precision_of_the_states_and_integers_keep_theirs() -> None:
    seen = []

    def score(x: torch.Tensor, t: Any, c: Any) -> Any:
        seen.append((c["value"].dtype, c["class"].dtype))
        return -x

    chain = chains(PROCESS, MIXTURE.target.reference())["ddim"]
    condition = {"value": torch.zeros(2, 3, dtype=F64), "class": torch.tensor([0, 1], dtype=torch.int32)}
    solve(chain, score, torch.zeros(2, SIZE), condition=condition)
    assert set(seen) == {(torch.float32, torch.int32)}


BAD = {
    "rows": (torch.zeros(3, 4), "condition is [3, 4] for 2 samples; its first dimension must count samples"),
    "a number": ({"month": torch.tensor(3)}, "condition.month is [] for 2 samples"),
    "not finite": ({"a": {"b": torch.full((2, 1), float("nan"))}}, "condition.a.b contains numbers that are not finite"),
    "a list": ([1.0, 2.0], "condition is list; give a tensor, or a dictionary of tensors"),
    "nothing": ({}, "condition is dict; give a tensor, or a dictionary of tensors with at least one entry"),
    "keys": ({3: torch.zeros(2)}, "condition has the key 3; name its tensors with words"),
    "complex": (torch.zeros(2, dtype=torch.complex64), "condition is torch.complex64; give real numbers, integers or booleans"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_conditions_are_refused_before_any_call_with_all_other_mistakes(case: str) -> None:
    condition, words = BAD[case]
    chain = chains(PROCESS, MIXTURE.target.reference())["ddim"]
    with pytest.raises(ValueError) as caught:
        solve(chain, None, torch.zeros(2, SIZE), condition=condition, tol=-1.0)
    assert words in str(caught.value) and "tol must be positive" in str(caught.value)
