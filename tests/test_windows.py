"""Sliding windows, pipelined blocks and refilled batches give the samples of the chain step by step, in any batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import F64, chains, mixture, solve, start

from piadm_hpc.integrators import ddim, ddpm, gaussian_ab2, gaussian_exponential
from piadm_hpc.models.analytic import target_c
from piadm_hpc.solvers.distribution import Rows
from piadm_hpc.solvers.flight import Flight
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.solution import Status
from piadm_hpc.solvers.tolerance import SAFETY, Motion, error_bounds, inherited, judge
from piadm_hpc.theory.grid import Block, log_snr
from piadm_hpc.theory.process import OU

TARGET = mixture(OU())
REFERENCE = TARGET.reference()
CHAINS = chains(OU(), REFERENCE, steps=23, num_blocks=4)
MOVING = {"window 5": {"window": 5}, "window 1": {"window": 1}, "pipelined": {"pipelined": True}}
MOVING["both"] = {"window": 9, "pipelined": True}


@pytest.mark.parametrize("moving", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize("linear", ["identity", "denoised", "reference"])
@pytest.mark.parametrize("name", ["piadm sde", "gaussian ode", "gaussian sde"])
def test_moving_points_reach_the_sequential_chain(name: str, linear: str, moving: Any) -> None:
    chain, given_reference = CHAINS[name], REFERENCE if linear == "reference" or "gaussian" in name else None
    x0, noise = start(OU(), chain, [0, 3, 4])
    common = {"noise": noise, "samples": [0, 3, 4], "reference": given_reference}
    oracle = solve(chain, TARGET.score, x0, solver="sequential", **common)
    moved = solve(chain, TARGET.score, x0, tol=1e-12, linear=linear, **common, **moving)
    assert float((moved.x - oracle.x).abs().max()) < 1e-10
    assert bool(moved.converged.all())
    assert moved.sweeps.shape == (3, 1)


def test_a_window_of_one_point_is_the_sequential_solver() -> None:
    chain = CHAINS["gaussian sde"]
    x0, noise = start(OU(), chain, [0, 1])
    steps = solve(chain, TARGET.score, x0, noise=noise, reference=REFERENCE, window=1, tol=1e-9)
    assert steps.rounds.tolist() == [chain.num_steps] * 2 and steps.calls.tolist() == [chain.num_steps] * 2


@pytest.mark.parametrize("method", [ddpm, ddim], ids=["noise", "flow"])
def test_a_window_calls_the_network_little_more_than_once_a_step(method: str) -> None:
    chain = method(OU(), log_snr(OU(), 400, horizon=6.0, delta=0.01))
    x0, noise = start(OU(), chain, list(range(6)))
    common = {"noise": noise, "reference": REFERENCE}
    oracle = solve(chain, TARGET.score, x0, solver="sequential", **common)
    moved = solve(chain, TARGET.score, x0, window=16, tol=1e-2, certify=False, **common)
    assert int(moved.calls.max()) <= 1.4 * chain.num_steps and int(moved.rounds.max()) <= 1.4 * chain.num_steps / 16
    assert float((moved.x - oracle.x).square().mean(1).sqrt().max()) < 1e-2


@pytest.mark.parametrize("linear", ["identity", "denoised", "reference"])
@pytest.mark.parametrize("name", ["piadm sde", "gaussian ode", "gaussian sde"])
def test_every_second_point_by_turns_reaches_the_sequential_chain(name: str, linear: str) -> None:
    """A point that a sweep leaves out keeps its increment; after as many sweeps as steps all points are exact all the same."""
    chain = chains(OU(), REFERENCE, steps=23, num_blocks=2)[name]
    given_reference, ids = REFERENCE if linear == "reference" or "gaussian" in name else None, [0, 3, 4]
    x0, noise = start(OU(), chain, ids)
    common = {"noise": noise, "samples": ids, "reference": given_reference}
    oracle = solve(chain, TARGET.score, x0, solver="sequential", **common)
    found, full = (
        solve(chain, TARGET.score, x0, tol=1e-12, linear=linear, alternate=by_turns, **common) for by_turns in (True, False)
    )
    assert float((found.x - oracle.x).abs().max()) < 1e-10 and bool(found.converged.all())
    assert bool((found.sweeps <= torch.tensor([len(block) for block in chain.grid.blocks()])).all())
    assert float(found.calls.double().mean()) < 0.75 * float(full.calls.double().mean())


def test_sweeps_after_the_first_evaluate_every_second_point() -> None:
    chain = chains(OU(), REFERENCE, steps=23)["gaussian sde"]
    x0, noise = start(OU(), chain, [0])
    times: list[list[int]] = []

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append([int(torch.argmin((chain.t - one).abs())) for one in t.expand(len(x))])
        return TARGET.score(x, t)

    given = {"noise": noise, "reference": REFERENCE, "tol": 1e-6, "check_score": False}
    found = solve(chain, score, x0, alternate=True, **given)
    expected = [list(range(23))] + [list(range(sweep, 23, 2)) for sweep in range(1, int(found.rounds))]
    assert times == expected and int(found.calls) == sum(map(len, expected))


@pytest.mark.parametrize(
    "settings", [{"window": 4}, {"pipelined": True}, {"tol": None, "sweeps": 3}, {"solver": "anderson"}], ids=str
)
def test_points_are_left_out_of_whole_blocks_only(settings: dict[str, Any]) -> None:
    chain = CHAINS["ddim"]
    x0, _ = start(OU(), chain, [0])
    with pytest.raises(ValueError, match="alternate: every second point of a whole block"):
        solve(chain, TARGET.score, x0, alternate=True, **settings)


@pytest.mark.parametrize("moving", [{}, {"alternate": True}, *MOVING.values()], ids=["whole", "every second point", *MOVING])
def test_members_do_not_depend_on_who_is_in_flight(moving: Any) -> None:
    chain, names = CHAINS["gaussian sde"], list(range(7))
    x0, noise = start(OU(), chain, names)
    common = {"noise": noise, "reference": REFERENCE, "tol": 1e-2, **moving}
    together = solve(chain, TARGET.score, x0, samples=names, **common)
    for width in (1, 2, 5):
        few = solve(chain, TARGET.score, x0, samples=names, in_flight=width, **common)
        assert torch.equal(few.rounds, together.rounds) and torch.equal(few.calls, together.calls)
        assert float((few.x - together.x).abs().max()) < 1e-12
        assert torch.allclose(few.residual, together.residual)


def test_no_sample_waits_for_another() -> None:
    """A sample enters as soon as another one leaves, so that slots are hardly ever idle with easy and hard samples."""
    target, names, slots, num_calls = target_c(OU(), 64), list(range(64)), 8, 0
    grid = log_snr(OU(), 32, horizon=8.0, delta=1e-3)
    chain = gaussian_exponential(OU(), grid, target.reference())
    x0, noise = start(OU(), chain, names, size=64)

    def score(x: torch.Tensor, t: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        return target.score(x, t)

    common = {"noise": noise, "reference": target.reference(), "tol": 1e-2}
    refilled = solve(chain, score, x0, samples=names, in_flight=slots, **common)
    ideal, with_refill, num_calls = float(refilled.rounds.sum()) / slots, num_calls, 0
    for low in range(0, 64, slots):
        batch = slice(low, low + slots)
        solve(chain, score, x0[batch], samples=names[batch], **common)
    assert with_refill <= 1.15 * ideal < num_calls


def test_pipelined_blocks_at_fixed_depth_count_as_published() -> None:
    """N blocks of K sweeps take N + K - 1 rounds (Zhou and Sugiyama), and each block has exactly K sweeps."""
    chain = CHAINS["piadm sde"]
    x0, noise = start(OU(), chain, [0, 1])
    blocks = len(chain.edges) - 1
    result = solve(chain, TARGET.score, x0, noise=noise, linear="process", tol=None, sweeps=6, pipelined=True)
    assert result.rounds.tolist() == [blocks + 5] * 2
    deep = solve(chain, TARGET.score, x0, noise=noise, linear="process", tol=None, sweeps=23, pipelined=True)
    oracle = solve(chain, TARGET.score, x0, noise=noise, solver="sequential")
    assert float((deep.x - oracle.x).abs().max()) < 1e-10


@given(st.integers(1, 60), st.integers(1, 6), st.one_of(st.none(), st.integers(1, 70)), st.integers(0, 9))
@settings(deadline=None)
def test_rows_share_out_every_step_once(steps: int, size: int, window: Any, first: Any) -> None:
    """This also holds for more ranks than steps, when some ranks own none."""
    block = Block(0, first, first + steps)
    ranks = [Rows.of(block, window=window, size=size, rank=rank) for rank in range(size)]
    owned = sorted(j for rows in ranks for j in rows.points)
    assert owned == list(range(first, first + steps))
    for rows in ranks:
        assert all(rows.owner(j) == rows.rank for j in rows.points)
        assert [rows.points[i] for r in range(rows.count) for i in rows.local(r)] == list(rows.points)
        assert list(rows.spanning(first, first + steps)) == list(range(rows.count))
    for r in range(ranks[0].count - 1):
        counts = [len(rows.slice(r, rows.rank)) for rows in ranks]
        assert max(counts) - min(counts) <= 1


def test_the_bound_is_a_scan_of_growth_and_defects() -> None:
    growth, defect = torch.tensor([[2.0], [0.5], [3.0]], dtype=F64), torch.tensor([[0.1], [0.2], [0.0]], dtype=F64)
    bounds = error_bounds(growth, defect, torch.tensor([1.0], dtype=F64))
    assert torch.allclose(bounds[:, 0], torch.tensor([1.0, 2.1, 1.25, 3.75], dtype=F64))
    alone = error_bounds(growth, defect, torch.zeros(1, dtype=F64))
    assert torch.allclose(alone[-1] + inherited(growth, torch.tensor([1.0], dtype=F64)), bounds[-1])
    endless = error_bounds(growth, torch.full_like(defect, torch.inf), torch.zeros(1, dtype=F64))
    assert bool(torch.isinf(endless[1:]).all())


def test_a_window_that_is_not_certified_is_marked_and_costs_fewer_calls() -> None:
    chain = CHAINS["gaussian sde"]
    x0, noise = start(OU(), chain, list(range(4)))
    common = {"noise": noise, "reference": REFERENCE, "window": 8, "tol": 1e-2}
    certified, passed = (solve(chain, TARGET.score, x0, certify=certify, **common) for certify in (True, False))
    assert bool(certified.converged.all()) and float(certified.residual.max()) <= 1e-2
    assert passed.status.unique().tolist() == [Status.NOT_CERTIFIED] and not bool(passed.converged.any())
    assert int(passed.calls.max()) < int(certified.calls.min())


def test_a_window_over_a_long_chain_is_certified_by_about_one_sweep() -> None:
    chain = ddpm(OU(), log_snr(OU(), 400, horizon=6.0, delta=0.01))
    x0, noise = start(OU(), chain, list(range(12)))
    common = {"noise": noise, "reference": REFERENCE}
    oracle = solve(chain, TARGET.score, x0, solver="sequential", **common)
    found, passed = (solve(chain, TARGET.score, x0, window=16, certify=certify, **common) for certify in (True, False))
    assert bool(found.converged.all()) and float((found.x - oracle.x).square().mean(1).sqrt().max()) < 1e-2
    sweeps = (found.rounds - passed.rounds).double()
    assert float(sweeps.min()) >= 1 and float(sweeps.mean()) <= 2
    assert bool((found.calls - passed.calls > 0.9 * chain.num_steps * sweeps).all())


@pytest.mark.parametrize(("sweeps", "share"), [(1, 1 / 4), (2, 1 / 2), (3, 1.0), (4, 1.0)])
def test_a_bound_from_fewer_than_three_certifying_sweeps_must_be_smaller(sweeps: int, share: float) -> None:
    """The bounds of three samples are within, just above, and far above what this many sweeps may certify."""
    block, options = Block(0, 0, 4), Options(tol=1e-2)
    limit = share * SAFETY * 1e-2
    flight = Flight.of([0, 1, 2], 0, torch.full((3,), 4), 4, whole=True)
    flight.now[:] = True
    flight.swept[:] = sweeps
    flight.moved[:] = torch.tensor([0.9, 1.1, 100.0], dtype=F64) * limit / 4
    still = torch.zeros(4, 3, dtype=F64)
    motion = Motion(torch.full_like(still, limit / 8), still, torch.ones_like(still), still, flight.now)
    zero, extent = torch.zeros(3, dtype=F64), torch.ones(5, dtype=F64)
    given = {"share": 1.0, "windowed": True, "precision": 1e-16, "staircase": 0.0, "extent": extent}
    verdict = judge(motion, flight, block, options, zero, **given)
    assert verdict.done.tolist() == [True, False, False] and bool(torch.isfinite(verdict.bound).all())
    assert torch.allclose(verdict.bound, 4 * flight.moved[0])


def test_a_bound_that_rises_from_one_certifying_sweep_to_the_next_certifies_nothing() -> None:
    """Near a boundary between modes each sweep reveals more growth. Of two samples with the same bound, one's has risen."""
    block, options = Block(0, 0, 4), Options(tol=1e-2)
    flight = Flight.of([0, 1], 0, torch.full((2,), 4), 4, whole=True)
    flight.now[:] = True
    still = torch.zeros(4, 2, dtype=F64)
    motion = Motion(torch.full_like(still, 1e-5), still, torch.ones_like(still), still, flight.now)
    zero, extent = torch.zeros(2, dtype=F64), torch.ones(5, dtype=F64)
    given = {"share": 1.0, "windowed": True, "precision": 1e-16, "staircase": 0.0, "extent": extent}
    flight.swept[:], flight.moved[:] = 2, torch.tensor([4e-4, 7e-4], dtype=F64)
    assert not bool(judge(motion, flight, block, options, zero, **given).done.any())
    flight.swept[:], flight.moved[:] = 3, 5e-4
    verdict = judge(motion, flight, block, options, zero, **given)
    assert verdict.done.tolist() == [False, True] and float(verdict.bound.diff().abs().max()) < 1e-12


@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize("tol", [1e-2, 0.1])
def test_the_last_points_of_a_window_cannot_vouch_for_those_before_them(tol: float, window: int) -> None:
    """Where the score is the reference's own at the end, the last window reproduces itself to rounding, whatever came before."""
    chain = gaussian_ab2(OU(), log_snr(OU(), 48, horizon=6.0, delta=2e-4), REFERENCE, eta=0.0)
    ids = list(range(32))
    x0, noise = start(OU(), chain, ids)

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = OU().alpha(t)[:, None], OU().sigma(t)[:, None]
        rippled = TARGET.score(x, t) + 0.3 * alpha / sigma * torch.sin(8 * x)
        return torch.where(t[:, None] < 0.02, -(x - alpha * REFERENCE.mean) / (alpha**2 * REFERENCE.spectrum + sigma**2), rippled)

    common = {"noise": noise, "samples": ids, "reference": REFERENCE, "window": window, "tol": tol}
    oracle = solve(chain, score, x0, solver="sequential", **{**common, "window": None})
    found, passed = (solve(chain, score, x0, certify=certify, **common) for certify in (True, False))
    assert bool((passed.status == int(Status.NOT_CERTIFIED)).all())
    swept = found.status[:, 0] == int(Status.CONVERGED)
    assert bool((found.calls - passed.calls > 0.8 * chain.num_steps)[swept].all()) and bool(swept.any())
    error = (found.x - oracle.x).square().mean(1).sqrt()
    assert float(error[found.converged].max()) <= 2 * tol


def test_what_cannot_move_is_refused_all_at_once() -> None:
    chain = replace(CHAINS["piadm sde"], alpha=None, sigma=None)
    x0, noise = start(OU(), CHAINS["piadm sde"], [0])
    with pytest.raises(ValueError, match=r"in_flight must be at least 1.*when points meet `tol`.*give alpha and sigma"):
        solve(chain, TARGET.score, x0, noise=noise, tol=None, sweeps=3, window=4, in_flight=0)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        solve(chain, TARGET.score, x0, noise=noise, window=0)
