"""The baselines solve the same chains: run to convergence, each gives the chain solved step by step."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from problems import chains, mixture, solve, start

from piadm_hpc.models.analytic import target_a
from piadm_hpc.solvers.baselines.dispatch import BASELINES
from piadm_hpc.solvers.errors import ScoreError
from piadm_hpc.solvers.solution import Status
from piadm_hpc.theory.process import OU

TARGET = mixture(OU())
REFERENCE = TARGET.reference()
CHAINS = chains(OU(), REFERENCE, steps=23, num_blocks=2)
WHOLE = chains(OU(), REFERENCE, steps=23)
NAMES = [0, 3, 4]
KINDS = {
    "paradigms": {"solver": "paradigms"},
    "paradigms window": {"solver": "paradigms", "window": 5},
    "anderson": {"solver": "anderson", "linear": "process", "memory": 3},
    "anderson identity": {"solver": "anderson", "linear": "identity"},
    "newton": {"solver": "newton"},
    "parareal": {"solver": "parareal"},
    "parareal reference": {"solver": "parareal", "coarse": "reference", "parts": 7},
    "chords": {"solver": "chords"},
    "chords of four": {"solver": "chords", "parts": 4},
}


METHODS = ("ddim", "ddpm", "piadm half", "gaussian sde", "dpmpp-2m")
# without a reference, chains and coarse solvers that are built on one are left out
BLIND = [(name, kind, False) for name, kind in product(METHODS, KINDS) if "gaussian" not in name and kind != "parareal reference"]
KNOWN = [(name, kind, True) for name, kind in product(METHODS, KINDS)]


@pytest.mark.parametrize(("name", "kind", "known"), [*BLIND, *KNOWN])
def test_a_baseline_run_to_convergence_is_the_sequential_chain(name: str, kind: str, known: bool) -> None:
    chain = CHAINS[name]
    x0, noise = start(OU(), chain, NAMES)
    common = {"noise": noise, "samples": NAMES, "reference": REFERENCE if known else None}
    oracle = solve(chain, TARGET.score, x0, solver="sequential", **common)
    found = solve(chain, TARGET.score, x0, tol=1e-12, **common, **KINDS[kind])
    assert float((found.state - oracle.state).abs().max()) < 1e-10
    assert bool(found.converged.all())


@pytest.mark.parametrize("kind", ["paradigms", "anderson", "newton"])
def test_members_do_not_depend_on_who_is_in_flight(kind: str) -> None:
    chain, names = WHOLE["ddpm"], list(range(5))
    x0, noise = start(OU(), chain, names)
    common = {"noise": noise, "solver": kind, "tol": 1e-3, "window": 6 if kind == "paradigms" else None}
    together = solve(chain, TARGET.score, x0, samples=names, **common)
    few = solve(chain, TARGET.score, x0, samples=names, in_flight=2, **common)
    assert torch.equal(few.rounds, together.rounds) and torch.equal(few.calls, together.calls)
    assert float((few.x - together.x).abs().max()) < 1e-12


def test_newton_needs_hardly_a_sweep_where_coordinates_do_not_interact() -> None:
    """A product with one random vector then gives the exact diagonal, and Newton's method converges quadratically."""
    target = target_a(OU(), 12)
    chain = chains(OU(), target.reference(), steps=40)["ddpm"]
    x0, noise = start(OU(), chain, [0, 1])
    common = {"noise": noise, "tol": 1e-8}
    newton = solve(chain, target.score, x0, solver="newton", **common)
    plain = solve(chain, target.score, x0, **common)
    assert int(newton.rounds.max()) <= 8 < int(plain.rounds.min())


def test_anderson_saves_rounds_where_the_linear_part_is_poor() -> None:
    chain = WHOLE["ddim"]
    x0, noise = start(OU(), chain, NAMES)
    common = {"noise": noise, "tol": 1e-6, "linear": "process"}
    mixed = solve(chain, TARGET.score, x0, solver="anderson", memory=3, **common)
    assert int(mixed.rounds.sum()) < int(solve(chain, TARGET.score, x0, **common).rounds.sum())


def test_parareal_counts_its_coarse_and_fine_calls() -> None:
    """With 25 steps in 5 parts, a coarse sweep takes 5 calls; 5 fine rounds and the rest of the coarse sweep follow."""
    chain = chains(OU(), REFERENCE, steps=25)["ddim"]
    x0, noise = start(OU(), chain, [0])
    for sweeps in (1, 2):
        found = solve(chain, TARGET.score, x0, noise=noise, solver="parareal", tol=None, sweeps=sweeps)
        assert found.rounds.tolist() == [5 + sum(5 + 5 - p for p in range(1, sweeps + 1))]
        assert found.calls.tolist() == [5 + sum(25 - 5 * (p - 1) + 5 - p for p in range(1, sweeps + 1))]
    free = solve(
        chain,
        TARGET.score,
        x0,
        reference=REFERENCE,
        solver="parareal",
        tol=None,
        sweeps=2,
        coarse="reference",
    )
    assert free.rounds.tolist() == [10] and free.calls.tolist() == [45]


def test_chords_counts_as_published() -> None:
    """100 steps, 8 cores: ends after 27, 42, 57, .. rounds and 548 calls in all (Han et al. 2025, their 50 steps doubled)."""
    chain = chains(OU(), REFERENCE, steps=100)["ddim"]
    x0, _ = start(OU(), chain, [0])
    second = solve(chain, TARGET.score, x0, solver="chords", tol=1e9)
    assert second.rounds.tolist() == [42]  # the first result, after 27 rounds, has no earlier one to agree with
    last = solve(chain, TARGET.score, x0, solver="chords", tol=1e-300)
    oracle = solve(chain, TARGET.score, x0, solver="sequential")
    assert last.rounds.tolist() == [100] and last.calls.tolist() == [548]
    assert torch.allclose(last.x, oracle.x, rtol=1e-13, atol=1e-13)


def test_what_a_limit_leaves_is_finished_step_by_step() -> None:
    chain = WHOLE["ddpm"]
    x0, noise = start(OU(), chain, NAMES)
    common = {"noise": noise, "samples": NAMES}
    oracle = solve(chain, TARGET.score, x0, solver="sequential", **common)
    for kind in ("anderson", "newton", "parareal", "paradigms"):
        found = solve(chain, TARGET.score, x0, solver=kind, tol=1e-12, sweeps=2, **common)
        assert found.status.flatten().tolist() == [int(Status.FINISHED_SEQUENTIALLY)] * 3
        assert float((found.x - oracle.x).abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"solver": "parataa"}, "use one of picard, sequential, paradigms"),
        ({"solver": "anderson", "window": 4}, "anderson: a block is solved whole"),
        ({"solver": "newton", "pipelined": True}, "newton: a block is solved whole"),
        ({"solver": "chords", "parts": 5}, "starts are known for 4, 6, 8"),
        ({"solver": "chords", "sweeps": 3}, "give a tolerance, and no number of sweeps"),
        ({"solver": "parareal", "coarse": "reference"}, "needs a reference"),
        ({"solver": "paradigms", "tol": None, "sweeps": 3}, "needs a tolerance"),
    ],
)
def test_what_a_baseline_cannot_do_is_said(settings: dict[str, Any], words: str) -> None:
    chain = CHAINS["ddim"]
    x0, _ = start(OU(), chain, [0])
    with pytest.raises(ValueError, match=words):
        solve(chain, TARGET.score, x0, **settings)


@pytest.mark.parametrize("kind", BASELINES)
def test_a_failing_score_is_told_with_sample_and_time(kind: str) -> None:
    chain = WHOLE["ddim"]
    x0, _ = start(OU(), chain, [7])
    with pytest.raises(ScoreError, match="not finite for sample 7"):
        solve(chain, lambda x, t: x * float("nan"), x0, samples=[7], solver=kind)
