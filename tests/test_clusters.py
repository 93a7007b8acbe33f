"""The recipe of the Lennard-Jones cluster: its energy, and configurations whose atoms are named anew."""

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


def shaken(recipe: dict[str, Any], count: int, size: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(count, 13, 3))
    return np.asarray(recipe["icosahedron"]() + size * noise)


def test_the_energy_is_the_one_its_virial_says(recipe: dict[str, Any]) -> None:
    x = shaken(recipe, 5, 0.05)
    step = 1e-5
    slope = (recipe["energy"](x * (1 + step)) - recipe["energy"](x * (1 - step))) / (2 * step)
    np.testing.assert_allclose(recipe["virial"](x), slope, rtol=1e-6, atol=1e-4)
    two = np.array([[[0.0, 0, 0], [1.0, 0, 0]]])
    np.testing.assert_allclose(recipe["energy"](two), -2 + 2 * 0.25 / 2)


def test_atoms_are_named_anew_and_nothing_else_changes(recipe: dict[str, Any]) -> None:
    x = shaken(recipe, 6, 0.03)
    generator = np.random.default_rng(1)
    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    turn[:, 0] *= np.sign(np.linalg.det(turn))
    mixed = np.stack([one[generator.permutation(13)] @ turn for one in x])
    found = recipe["tidy"](mixed)
    np.testing.assert_allclose(recipe["energy"](found), recipe["energy"](x), rtol=1e-9)
    assert np.sqrt(((found - recipe["icosahedron"]()) ** 2).sum(-1).mean()) < 0.1


def test_tables_become_trajectories(recipe: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", shaken(recipe, 12, 0.03).reshape(12, 39).astype(np.float32))
    recipe["convert"](tmp_path / "table.npy", tmp_path / "clusters", 2)
    frames = read_frames(TrajectoryConfig(trajectories=("clusters/*.h5",)), tmp_path)
    assert frames.positions.shape == (6, 13, 3) and frames.topology.bonds == ()
