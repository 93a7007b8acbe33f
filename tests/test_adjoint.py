"""Gradients through a collocated flow agree with finite differences, in the first state and in the condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import F64, drawn, mixture, solve
from torch import Tensor

from piadm_hpc.models.analytic import target_a, target_b, target_c
from piadm_hpc.solvers.adjoint import gradient
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.errors import ScoreError
from piadm_hpc.solvers.options import Options
from piadm_hpc.theory.process import OU

TIGHT = Options(tol=1e-8)
STEP = 1e-4


def objective(x: Tensor) -> Tensor:
    return torch.sin(x).sum(1) + 0.3 * (x[:, 0] * x[:, 1])


@pytest.mark.parametrize("make", [target_a, target_b, target_c])
@pytest.mark.parametrize("points", [8, 32])
def test_the_gradient_in_the_first_state_is_that_of_finite_differences(make: Callable[..., Any], points: int) -> None:
    """Derivatives along random directions agree, also with so few points that flows are cut into pieces."""
    target = make(OU(), 16)
    made = Collocation(OU(), target.reference(), 8.0, 1e-3, points)
    x0 = drawn(made, target.reference(), range(3), 0)
    options = TIGHT if points > 8 else Options(tol=1e-3)
    found = gradient(made, target.score, x0, objective, options)
    assert bool((found.residual <= options.tol).all())  # type: ignore[operator]
    direction = torch.randn(16, dtype=F64, generator=torch.Generator().manual_seed(1))
    fine = Collocation(OU(), target.reference(), 8.0, 1e-3, 48)
    moved = [objective(solve(fine, target.score, x0 + sign * STEP * direction, tol=1e-8).x) for sign in (1, -1)]
    truth = (moved[0] - moved[1]) / (2 * STEP)
    assert torch.allclose(found.first @ direction, truth, rtol=1e-3 if points > 8 else 0.05, atol=1e-3 if points > 8 else 0.05)


def test_the_gradient_in_the_condition_is_that_of_finite_differences() -> None:
    """Derivatives agree entry by entry for a condition that moves and scales the target, with a projection."""
    target = mixture(OU(), 6)
    kept = torch.tensor([1.0, 1, 1, 0, 1, 1], dtype=F64)
    made = Collocation(OU(), target.reference(), 6.0, 1e-2, 32)

    def score(x: Tensor, t: Tensor, c: dict[str, Tensor]) -> Tensor:
        moved = x - OU().alpha(t)[:, None] * c["mean"]
        return target.score(moved, t) * (1 + 0.1 * c["size"][:, None] * torch.exp(-t)[:, None])

    generator = torch.Generator().manual_seed(0)
    condition = {
        "mean": torch.randn(2, 6, dtype=F64, generator=generator),
        "size": torch.rand(2, dtype=F64, generator=generator),
        "number": torch.tensor([3, 4]),
    }
    x0 = drawn(made, target.reference(), range(2), 0) * kept
    settings = {"project": lambda x: x * kept.to(x), "samples": [5, 9]}
    found = gradient(made, score, x0, objective, TIGHT, condition=condition, **settings)  # type: ignore[arg-type]
    assert isinstance(found.condition, dict) and not bool(found.condition["number"].any())
    direction = torch.randn(6, dtype=F64, generator=generator)
    for name, change, slope in (
        ("mean", direction, found.condition["mean"] @ direction),
        ("size", torch.ones(2, dtype=F64), found.condition["size"]),
    ):
        values = [
            objective(
                solve(
                    made, score, x0, tol=1e-9, condition={**condition, name: condition[name] + sign * STEP * change}, **settings
                ).x
            )
            for sign in (1, -1)
        ]
        assert torch.allclose(slope, (values[0] - values[1]) / (2 * STEP), rtol=1e-3, atol=1e-5)
    assert bool((found.first[:, 3] == 0).all())


def test_batches_do_not_change_a_gradient() -> None:
    target = target_c(OU(), 8)
    made = Collocation(OU(), target.reference(), 8.0, 1e-3, 12)
    x0 = drawn(made, target.reference(), range(5), 0)
    whole = gradient(made, target.score, x0, objective, Options(tol=1e-3))
    few = gradient(made, target.score, x0, objective, Options(tol=1e-3, model_batch=7, in_flight=2))
    assert torch.allclose(whole.first, few.first, rtol=1e-9, atol=1e-9) and torch.equal(whole.sweeps, few.sweeps)


def test_what_has_no_gradient_is_refused() -> None:
    target = mixture(OU())
    made = Collocation(OU(), target.reference(), 6.0, 1e-2, 8)
    x0 = drawn(made, target.reference(), range(1), 0)
    with pytest.raises(ValueError, match="depends on the states"):
        gradient(made, target.score, x0, lambda x: torch.zeros(1))
    with pytest.raises(ValueError, match="give `tol`"):
        gradient(made, target.score, x0, objective, Options(tol=None, sweeps=3))
    with pytest.raises(ScoreError, match="no gradient"):
        gradient(made, lambda x, t: target.score(x, t).detach(), x0, objective)
