"""Narrow modes far apart: a sample either agrees with the chain step by step or is marked as not converged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import F64, solve

from piadm_hpc import OU, Noise, Solution, grid, integrators
from piadm_hpc.models.analytic import GaussianMixture
from piadm_hpc.theory.noise import PRIOR

PROCESS, HORIZON, DELTA = OU(), 8.0, 2e-4
PAIR = [[1.0, 0.0], [-1.0, 0.0]]
TRIANGLE = [[1.0, 0.0], [-0.5, 0.866], [-0.5, -0.866]]


def drawn(
    name: str,
    ids: list[int],
    *,
    eta: float,
    tol: float,
    how: dict[str, Any] | None = None,
    means: list[list[float]] = PAIR,
    weights: tuple[float, ...] = (0.5, 0.5),
    spread: float = 0.02,
) -> tuple[Solution, torch.Tensor]:
    """Samples by sweeps, and their errors in units of the data's deviation."""
    centres = torch.tensor(means, dtype=F64)
    variances = torch.full((len(means), 2), spread**2, dtype=F64)
    target = GaussianMixture(PROCESS, centres, variances, torch.tensor(weights, dtype=F64))
    reference, noise = target.reference(), Noise(0, 2, dtype=F64)
    scale = float(reference.spectrum.mean().sqrt())
    start = torch.tensor(HORIZON, dtype=F64)
    x0 = reference.draw(noise.at([0], ids, stream=PRIOR)[0, :, 0], PROCESS.alpha(start), PROCESS.sigma(start))
    points = grid.log_snr(PROCESS, 48, horizon=HORIZON, delta=DELTA)
    chain = integrators.build(name, PROCESS, points, reference=reference, options=integrators.Options(eta))
    common = {"noise": noise, "samples": ids, "reference": reference, "scale": scale}
    exact = solve(chain, target, x0, solver="sequential", **common)
    found = solve(chain, target, x0, tol=tol, **(how or {}), **common)
    return found, ((found.x - exact.x) / scale).square().mean(1).sqrt()


@pytest.mark.parametrize(
    ("name", "eta", "tol", "sample", "window"),
    [
        ("gaussian-ab2", 0.0, 1e-2, 204, None),
        ("gaussian", 1.0, 1e-2, 119, None),
        ("gaussian", 1.0, 0.3, 267, None),
        ("gaussian", 1.0, 0.3, 169, 8),
    ],
)
def test_draws_that_stop_changing_on_the_wrong_mode_are_swept_further(
    name: str, eta: float, tol: float, sample: int, window: int | None
) -> None:
    """A test of small changes alone would accept them on the other mode, with errors of 7 to 27 tolerances."""
    found, errors = drawn(name, [sample], eta=eta, tol=tol, how={"window": window})
    assert float(errors[0]) <= tol
    assert bool(found.converged[0]) or window is not None, "only a window may leave it to the steps"


@pytest.mark.parametrize("how", [{}, {"window": 12}, {"alternate": True}], ids=["whole", "window", "every second point"])
@pytest.mark.parametrize(
    "world",
    [{"weights": (0.9, 0.1)}, {"spread": 0.005}, {"means": TRIANGLE, "weights": (0.2, 0.3, 0.5)}],
    ids=["uneven", "narrower", "three"],
)
def test_every_sample_is_within_its_tolerance_or_marked(world: dict[str, Any], how: dict[str, Any]) -> None:
    for name, eta in (("gaussian", 1.0), ("gaussian-ab2", 0.0)):
        found, errors = drawn(name, list(range(96)), eta=eta, tol=0.1, how=how, **world)
        wrong = found.converged & (errors > 0.1)
        assert not bool(wrong.any()), f"{name}: {torch.nonzero(wrong).ravel().tolist()}"
        assert bool((errors <= 0.1).all()), "what is marked was finished step by step"
