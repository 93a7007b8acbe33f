"""The NFE and rounds that planning predicts for a sample are those that solvers take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import F64, SIZE, chains, mixture

from piadm_hpc.run.effort import certifying_sweeps, expected_effort, expected_sweeps
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory.process import OU

PROCESS = OU()
STEPS = 48


def sampler(name: str = "gaussian sde", *, blocks: int = 1, **settings: Any) -> Sampler:
    target = mixture(PROCESS)
    reference = target.reference()
    chain = chains(PROCESS, reference, steps=STEPS, num_blocks=blocks)[name]
    scale = torch.sqrt(reference.spectrum)
    return Sampler(chain, target.score, (SIZE,), 0, Options(scale=scale, **settings), reference=reference, dtype=F64)


def flow(**settings: Any) -> Sampler:
    made = sampler("gaussian ode", **settings)
    assert made.reference is not None
    return replace(made, chain=Collocation(PROCESS, made.reference, 6.0, 0.02, 16))


@pytest.mark.parametrize("depth", [1, 5, 60])
@pytest.mark.parametrize("blocks", [1, 4])
def test_sweeps_of_a_fixed_depth_are_counted_to_the_last_call(depth: int, blocks: int) -> None:
    made = sampler(blocks=blocks, tol=None, sweeps=depth)
    effort, found = expected_effort(made, expected_sweeps(made), 1), made.draw([0])
    assert (effort.rounds, effort.calls) == (int(found.rounds), int(found.calls))
    assert effort.busiest == effort.calls and effort.sweeps == int(found.sweeps.max())


def test_all_points_of_a_collocation_are_evaluated_in_every_sweep() -> None:
    made = flow(tol=None, sweeps=5)
    effort, found = expected_effort(made, expected_sweeps(made), 4), made.draw([0])
    assert (effort.rounds, effort.calls) == (int(found.rounds), int(found.calls)) == (5, 80) and effort.busiest == 20


def test_a_front_of_a_fixed_depth_takes_one_sweep_more_for_every_block() -> None:
    made = sampler(blocks=6, pipelined=True, tol=None, sweeps=5)
    effort, found = expected_effort(made, expected_sweeps(made), 1), made.draw([0])
    assert effort.rounds == int(found.rounds) == 10
    assert int(found.calls) <= effort.calls == effort.busiest <= 1.1 * int(found.calls)


SETTINGS: dict[str, dict[str, Any]] = {
    "whole": {},
    "whole, 1e-3": {"tol": 1e-3},
    "every second point": {"alternate": True},
    "every second point, 1e-3": {"alternate": True, "tol": 1e-3},
    "window of 8": {"window": 8},
    "window of 16": {"window": 16},
    "window not certified": {"window": 8, "certify": False},
    "front": {"blocks": 6, "pipelined": True},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_effort_that_is_expected_is_about_what_is_taken(case: str) -> None:
    made = sampler(**SETTINGS[case])
    effort, found = expected_effort(made, expected_sweeps(made), 1), made.draw(range(4))
    for expected, taken in ((effort.rounds, found.rounds), (effort.calls, found.calls)):
        assert 1 / 1.8 <= expected / float(taken.double().mean()) <= 1.8, (effort, found.rounds, found.calls)


def test_a_window_costs_its_sweeps_and_those_that_certify_it() -> None:
    certified, plain = (sampler(window=8, certify=certify) for certify in (True, False))
    whole, passed = (expected_effort(made, expected_sweeps(made), 1) for made in (certified, plain))
    sweeps = certifying_sweeps(STEPS)
    assert whole.rounds - passed.rounds == sweeps and whole.calls - passed.calls == sweeps * STEPS
    assert [certifying_sweeps(steps) for steps in (16, 20, 1000)] == [3, 3, 1]


@pytest.mark.parametrize(
    "settings", [{}, {"alternate": True}, {"window": 8}, {"blocks": 4}, {"blocks": 6, "pipelined": True}], ids=str
)
def test_the_busiest_of_several_ranks_has_at_least_its_share(settings: dict[str, Any]) -> None:
    made = sampler(**settings)
    efforts = {ranks: expected_effort(made, expected_sweeps(made), ranks) for ranks in (1, 2, 3, 4, 8)}
    assert len({(effort.rounds, effort.calls) for effort in efforts.values()}) == 1
    busiest = [effort.busiest for effort in efforts.values()]
    assert busiest == sorted(busiest, reverse=True) and abs(busiest[0] - efforts[1].calls) <= 1
    assert all(efforts[1].calls / ranks <= effort.busiest + 1 for ranks, effort in efforts.items())
