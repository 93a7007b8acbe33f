"""The recipe of the Lennard-Jones cluster: its energy, and its tables as trajectories."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piadm_hpc.data.trajectories import TrajectoryConfig, read_frames

RECIPE = Path(__file__).resolve().parents[1] / "datasets" / "lj13" / "clusters.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def shaken(count: int, size: float) -> np.ndarray:
    """Return icosahedra [count, 13, 3] with their centres, edges of about one, and noise."""
    golden = (1 + 5**0.5) / 2
    corners = [np.roll([0, a, b * golden], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)]
    shape = np.concatenate([np.zeros((1, 3)), np.array(corners) / np.hypot(1, golden)])
    return np.asarray(shape + size * np.random.default_rng(0).normal(size=(count, 13, 3)))


def test_the_energy_is_the_one_its_virial_says(recipe: dict[str, Any]) -> None:
    x = shaken(5, 0.05)
    step = 1e-5
    slope = (recipe["energy"](x * (1 + step)) - recipe["energy"](x * (1 - step))) / (2 * step)
    np.testing.assert_allclose(recipe["virial"](x), slope, rtol=1e-6, atol=1e-4)
    two = np.array([[[0.0, 0, 0], [1.0, 0, 0]]])
    np.testing.assert_allclose(recipe["energy"](two), -2 + 2 * 0.25 / 2)


def test_tables_become_trajectories(recipe: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", shaken(12, 0.03).reshape(12, 39).astype(np.float32))
    recipe["convert"](tmp_path / "table.npy", tmp_path / "clusters", 2)
    frames = read_frames(TrajectoryConfig(trajectories=("clusters/*.h5",)), tmp_path)
    assert frames.positions.shape == (6, 13, 3) and frames.topology.bonds == ()
