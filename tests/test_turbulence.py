"""The simulation in datasets/turbulence: invariants of the equation, its waves, and stationary statistics."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import fft

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets" / "turbulence"))

from barotropic import Barotropic, dataset

IDEAL = {"stirring": 0.0, "growth": 0.0, "drag": 0.0, "damping": 0.0}


def spectrum(world: Barotropic, seed: int = 0) -> np.ndarray:
    """A random field of few wavenumbers."""
    white = fft.rfft2(np.random.default_rng(seed).standard_normal((world.points, world.points)))
    return np.asarray(white * (world.square > 0) * (world.square < 100) / 10, dtype=np.complex64)


def test_energy_and_enstrophy_are_kept_without_forcing_and_friction() -> None:
    world = Barotropic(32, **IDEAL)
    q = moved = spectrum(world)
    for _ in range(24):
        moved = world.advance(moved, None)

    def sums(q: np.ndarray) -> np.ndarray:
        squares = 2 * np.abs(q) ** 2
        squares[:, [0, -1]] /= 2
        return np.array([squares.sum(), (squares[world.square > 0] / world.square[world.square > 0]).sum()])

    assert np.abs(moved - q).max() > 0.1 * np.abs(q).max()
    assert sums(moved) == pytest.approx(sums(q), rel=5e-3)


def test_a_single_wave_moves_westward_at_its_phase_speed() -> None:
    """A plane wave of any amplitude is a solution, with frequency -beta k / (k^2 + l^2) (Rossby)."""
    world = Barotropic(32, **IDEAL)
    q = np.zeros((32, 17), dtype=np.complex64)
    q[1, 1] = 100.0  # wavenumber 2 along both directions
    moved = q
    for _ in range(48):
        moved = world.advance(moved, None)
    assert moved[1, 1] / q[1, 1] == pytest.approx(np.exp(1j * world.beta * 2 / 8), abs=1e-3)


def test_turbulence_saturates_and_fields_follow_from_the_seed() -> None:
    first, again, other = (list(Barotropic(16).fields(6, 48, seed, spin_up=6)) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.allclose(first[-1], other[-1])
    assert all(1 < np.std(field) < 1.1 * Barotropic().saturation for field in first)
    made = dataset(np.stack(first), 1.0)
    assert made.vorticity.attrs["units"] == "day-1"
    assert (np.diff(made.time.values) == np.timedelta64(1, "D")).all()
