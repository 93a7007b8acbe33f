"""First nodes that sweeps over a flow leave out save calls, and count in the bounds as what they may have missed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import F64, drawn, solve

from piadm_hpc.models.analytic import target_c
from piadm_hpc.solvers import collocate
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.settled import Settled
from piadm_hpc.solvers.solution import Solution
from piadm_hpc.solvers.tolerance import error_bounds
from piadm_hpc.theory.process import OU

TARGET = target_c(OU(), 32)
REFERENCE = TARGET.reference()
SCALE = torch.sqrt(REFERENCE.spectrum)


def solved(samples: int, points: int = 16, **how: Any) -> Solution:
    """Flows of a mixture of modes."""
    made = Collocation(OU(), REFERENCE, 8.0, 1e-3, points)
    first = drawn(made, REFERENCE, range(samples), 3)
    return solve(made, TARGET.score, first, reference=REFERENCE, scale=SCALE, **how)


def apart(found: Solution, other: Solution) -> float:
    """The largest distance of two samples in units of the data."""
    return float(((found.x - other.x) / SCALE).square().mean(1).sqrt().max())


def test_nodes_are_left_out_and_ends_stay_within_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve flows take 1,391 calls, and 1,612 where no node is left out."""
    found = solved(12, tol=1e-3)
    truth = solved(12, points=48, tol=None, sweeps=30)
    monkeypatch.setattr(collocate, "LEFT", -1.0)
    whole = solved(12, tol=1e-3)
    assert bool(found.converged.all()) and apart(found, truth) < 1e-3
    assert int(found.calls.sum()) < 0.95 * int(whole.calls.sum())
    assert int(found.rounds.sum()) <= 1.05 * int(whole.rounds.sum())


def test_flows_whose_nodes_are_used_later_are_evaluated_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = solved(3, tol=1e-3, traces="exact")
    monkeypatch.setattr(collocate, "LEFT", -1.0)
    whole = solved(3, tol=1e-3, traces="exact")
    assert torch.equal(found.x, whole.x) and torch.equal(found.calls, whole.calls)


def test_nodes_that_are_never_evaluated_again_certify_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that such nodes may have missed counts: the end is right, and not certified."""
    monkeypatch.setattr(collocate, "LEFT", 1e9)
    found = solved(1, tol=1e-3, sweeps=4)
    truth = solved(1, points=48, tol=None, sweeps=30)
    assert apart(found, truth) < 1e-3 and not bool(found.converged.any())


def test_the_change_of_a_node_is_its_answer_to_all_moves_since_its_evaluation() -> None:
    settled = Settled.none(2)
    assert bool(settled.expected(torch.ones(2, dtype=F64)).isinf().all())  # before a move was measured
    settled.completed(torch.tensor([0.5, 0.2], dtype=F64), torch.tensor([2.0, 1.0], dtype=F64))
    settled.count = 1
    for sweep in (1, 2):
        missed, since = settled.completed(torch.tensor([0.0, 0.1], dtype=F64), torch.tensor([0.4, 1.0], dtype=F64))
        assert torch.allclose(since, torch.tensor([0.4 * sweep, 1.0], dtype=F64))
        assert torch.allclose(missed, torch.tensor([0.1 * sweep, 0.1], dtype=F64))
    assert torch.allclose(settled.expected(torch.tensor([0.2, 1.0], dtype=F64)), torch.tensor([0.25, 0.1], dtype=F64))


@given(st.integers(1, 12), st.integers(0, 2**31), st.floats(0, 10))
def test_nodes_that_are_left_out_add_to_the_bound_what_they_may(nodes: int, seed: int, allowed: float) -> None:
    """The bound's own recurrence gives what they add; one node more would be too much."""
    draws = torch.Generator().manual_seed(seed)
    steps = torch.randn(nodes + 1, nodes, generator=draws, dtype=F64)
    expected, growth = (torch.rand(size, generator=draws, dtype=F64) + 0.01 for size in (nodes, nodes + 1))
    settled = Settled.none(nodes)
    settled.settle(expected, steps, growth, allowed)

    def added(count: int) -> float:
        defect = steps.abs()[:, :count] @ expected[:count]
        return float(error_bounds(growth[:, None], defect[:, None], torch.zeros(1, dtype=F64))[-1])

    assert added(settled.count) <= allowed * (1 + 1e-9)
    assert settled.count == nodes or added(settled.count + 1) > allowed * (1 - 1e-9)
