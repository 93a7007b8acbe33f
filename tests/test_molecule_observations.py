"""Positions of atoms as observations, in any orientation, and ensemble averages, met by weights of maximum entropy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, one_line
from scipy.stats import norm

from piadm_hpc.analysis.weights.averages import Averages, read_averages, tilt
from piadm_hpc.analysis.weights.importance import normalised
from piadm_hpc.config.run import RunConfig
from piadm_hpc.data.observations import read_observations
from piadm_hpc.data.superpose import superposed
from piadm_hpc.models.card import HELD_OUT, load_model
from piadm_hpc.models.observations.geometry import geometry_of
from piadm_hpc.models.observations.placement import Placement
from piadm_hpc.models.registry import find_model
from piadm_hpc.run.resolve import resolve

ATOMS = (6, 1, 3, 4, 0)


def random_placement(*, even: bool = True) -> tuple[Placement, np.ndarray, np.ndarray]:
    """A placement of five atoms, their observed positions [5, 3], and conformers [4, 8, 3]."""
    generator = np.random.default_rng(0)
    target, positions = 0.3 * generator.normal(size=(5, 3)), 0.3 * generator.normal(size=(4, 8, 3))
    std = np.full(5, 0.1) if even else np.array([0.1, 0.1, 0.1, 1e4, 1e4])
    rows = np.repeat(ATOMS, 3).tolist(), [0, 1, 2] * 5, target.ravel(), np.repeat(std, 3)
    return Placement.of(*rows), target, positions


def test_observed_atoms_are_superposed_and_their_derivative_is_that_of_the_superposition() -> None:
    """They are compared with Kabsch's rotation and with finite differences, which include the change of the rotation."""
    placement, target, positions = random_placement()
    x = torch.from_numpy(positions)
    expected = superposed(positions[:, list(ATOMS)], target) + target.mean(0)
    np.testing.assert_allclose(placement(x).numpy(), expected, atol=1e-12)
    direction, step = torch.from_numpy(np.random.default_rng(1).normal(size=(8, 3))), 1e-6
    jacobian = torch.func.jacrev(lambda z: placement(z[None])[0].flatten())(x[0]).flatten(1)
    ends = [placement((x[0] + sign * step * direction)[None])[0].flatten() for sign in (1, -1)]
    assert float((jacobian @ direction.flatten() - (ends[0] - ends[1]) / (2 * step)).abs().max()) < 1e-6
    turn = torch.linalg.qr(torch.from_numpy(np.random.default_rng(2).normal(size=(3, 3))))[0]
    turn = turn * torch.linalg.det(turn)
    torch.testing.assert_close(placement(x @ turn + 2.0), placement(x))


def test_atoms_with_large_errors_do_not_turn_the_molecule() -> None:
    placement, target, positions = random_placement(even=False)
    found = placement(torch.from_numpy(positions)).numpy()
    here = positions[:, list(ATOMS)]
    expected = superposed(here[:, :3], target[:3])
    np.testing.assert_allclose(found[:, :3] - found[:, :3].mean(1, keepdims=True), expected, atol=1e-6)


def positions_file(path: Path, atoms: tuple[int, ...], target: np.ndarray, std: float, more: str = "") -> Path:
    """Write a table of positions in angstrom, and further rows."""
    rows = [f"{atom},{x},{y},{z},,{10 * std},angstrom" for atom, (x, y, z) in zip(atoms, 10 * target, strict=True)]
    path.write_text("\n".join(["atoms,x,y,z,value,std,units", *rows, more]))
    return path


def test_tables_of_positions_may_hold_distances_too(tmp_path: Path) -> None:
    _, target, positions = random_placement()
    file = positions_file(tmp_path / "ca.csv", ATOMS, target, 0.01, "2 5,,,,4.5,0.2,angstrom")
    table = read_observations(file, ["coordinates"], placed=False)
    geometry, values, std = geometry_of(table, 8)
    found = geometry(torch.from_numpy(positions)).numpy()
    assert found.shape == (4, 16)
    np.testing.assert_allclose(found[:, 0], np.linalg.norm(positions[:, 2] - positions[:, 5], axis=1))
    expected = superposed(positions[:, list(ATOMS)], target) + target.mean(0)
    np.testing.assert_allclose(found[:, 1:].reshape(4, 3, 5), expected.transpose(0, 2, 1), atol=1e-6)
    np.testing.assert_allclose(values[0], 0.45)
    np.testing.assert_allclose(std[1:], 0.01, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("0,0,0,0,,0.1\n1,1,0,0,,0.1", "positions of 2 atoms leave the molecule free to turn"),
        ("0,0,0,0,,0.1\n1,1,0,0,,0.1\n2,2,0,0,,0.1", "three or more that are on no line"),
        ("0,0,0,0,,0.1\n1,1,,0,,0.1\n2,2,1,0,,0.1", "need x, y and z of each atom, once: atoms 1 have others"),
        ("0,0,0,0,,0.1\n0,1,0,0,,0.1\n2,2,1,0,,0.1", "atoms 0 have others"),
        ("0 1,0,0,0,,0.1\n2,,,,0.4,0.1", r"one atom has a position, x, y and z, and two or three have one value: row 2, row 1 x"),
    ],
)  # fmt: skip
def test_positions_that_cannot_be_meant_are_refused(tmp_path: Path, rows: str, words: str) -> None:
    (tmp_path / "bad.csv").write_text(f"atoms,x,y,z,value,std\n{rows}\n")
    with pytest.raises(ValueError, match=words):
        geometry_of(read_observations(tmp_path / "bad.csv", ["coordinates"], placed=False), 8)


def test_conformers_given_positions_have_them_however_these_are_turned(tmp_path: Path) -> None:
    """The backbone of a held-out frame is rotated and moved; samples lie within its errors, and other frames do not."""
    model, atoms = load_model("alanine-dipeptide"), (4, 6, 8, 10, 16)
    with xr.open_dataset(find_model("alanine-dipeptide") / HELD_OUT) as stored:
        frames = stored.coordinates.values[100::900, list(atoms)].astype(np.float64)
    target = frames[0][:, [1, 2, 0]] + 5.0
    file = positions_file(tmp_path / "backbone.csv", atoms, target, 0.02)
    run = resolve(RunConfig(model="alanine-dipeptide", chain={"eta": 0.0}, observations={"file": str(file)}), model)
    solution = run.sampler.draw([0, 1])
    positions = model.decode(run.finished(solution.x))["coordinates"].astype(np.float64)
    assert bool(solution.converged.all())

    def apart(conformers: np.ndarray) -> np.ndarray:
        away = superposed(conformers, target) - (target - target.mean(0))
        return np.asarray(np.sqrt((away**2).mean((1, 2))))

    assert apart(positions[:, list(atoms)]).max() < 0.02 < np.median(apart(frames[1:]))


def test_a_tilted_gaussian_is_the_closed_form() -> None:
    """For the average of a unit Gaussian, observed as y with error s, the weights shift the mean to y / (1 + theta s^2)."""
    f = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    for y, s, theta in ((0.5, 0.1, 1.0), (-0.8, 0.6, 1.0), (0.4, 0.5, 8.0)):
        given = Averages(f[:, None], np.array([y]), np.array([s]), np.ones(1), np.array(["row 1"], dtype=object))
        found = tilt(given, np.zeros(len(f)), theta)
        expected = y / (1 + theta * s**2)
        assert abs(found.after[0] - expected) < 2e-3 and abs(found.entropy - expected**2 / 2) < 2e-3
        assert np.ptp(found.log_weight - found.log_weight[0] - expected * (f - f[0])) < 0.02


def test_two_states_get_their_shares_and_start_weights_count() -> None:
    """There are 30 conformers at 0 and 70 at 1; an exact average fixes the two shares, not the weights within them."""
    f = np.repeat([0.0, 1.0], [30, 70])
    start = np.where(np.arange(100) % 2 == 0, 0.0, np.log(3.0))
    start[5] = -np.inf
    given = Averages(f[:, None], np.array([0.4]), np.array([1e-5]), np.ones(1), np.array(["row 1"], dtype=object))
    found = tilt(given, start, 1.0)
    weight = normalised(found.log_weight)
    assert abs(weight[f == 1].sum() - 0.4) < 1e-6 and weight[5] == 0
    for state in (0.0, 1.0):
        here = (f == state) & (weight > 0)
        assert here.sum() == (29 if state == 0 else 70) and np.ptp(weight[here] / normalised(start)[here]) < 1e-9
    far = Averages(f[:, None], np.array([1.2]), np.array([0.01]), np.ones(1), np.array(["row 7"], dtype=object))
    with pytest.raises(ValueError, match="no conformer comes within 5 errors of row 7"):
        tilt(far, start, 1.0)


def test_distances_are_averaged_as_their_effect_is(tmp_path: Path) -> None:
    """Distances are averaged as r^-6 by default, with their errors transformed; angles are averaged directly."""
    positions = np.random.default_rng(0).normal(size=(5, 6, 3))
    (tmp_path / "noe.csv").write_text(
        "atoms,value,std,units,average\n0/1 4,4,0.4,angstrom,\n0 3,0.5,0.05,nm,r-3\n2 5,0.5,0.05,nm,mean\n0 1 2,90,5,,\n"
    )
    found = read_averages(tmp_path / "noe.csv", positions)
    pairs = np.stack([np.linalg.norm(positions[:, k] - positions[:, 4], axis=1) for k in (0, 1)])
    np.testing.assert_allclose(found.observables[:, 0], (pairs**-6).mean(0))
    np.testing.assert_allclose(found.observables[:, 1], np.linalg.norm(positions[:, 0] - positions[:, 3], axis=1) ** -3)
    np.testing.assert_allclose(found.measured, [0.4**-6, 0.5**-3, 0.5, 90], rtol=1e-6)
    np.testing.assert_allclose(found.std / found.measured, [0.6, 0.3, 0.1, 5 / 90], rtol=1e-6)
    np.testing.assert_allclose(found.back(found.measured), [0.4, 0.5, 0.5, 90], rtol=1e-6)
    for rows, words in (
        ("0 1,0.4,0.1,nm,r-4", "average must be r-6, r-3, mean, and mean for angles: row 1"),
        ("0 1 2,90,5,,r-6", "mean for angles: row 1"),
        ("0 1,-0.4,0.1,nm,", "distances must be positive: row 1"),
    ):
        (tmp_path / "bad.csv").write_text(f"atoms,value,std,units,average\n{rows}\n")
        with pytest.raises(ValueError, match=words):
            read_averages(tmp_path / "bad.csv", positions)


def test_a_run_is_weighed_towards_measured_averages(tmp_path: Path) -> None:
    """The command needs no densities; it refuses a table of averages as observations of single conformers."""
    table = tmp_path / "noe.csv"
    table.write_text("atoms,value,std,average\n1 18,0.60,0.01,\n6 8 14,111,1,mean\n")
    run = tmp_path / "run"
    sampled = ["sample", "--model", "alanine-dipeptide", "--samples", 60, "--out", run, "--set", "grid.steps=8"]
    assert call(*sampled)["code"] in (0, 3)
    done = call("weigh", run, "--averages", table)
    assert done["code"] == 0 and "chi^2 for each average" in done["out"] and "mean energy" not in done["out"]
    with xr.open_dataset(run / "samples.h5") as samples, xr.open_dataset(run / "weights.h5") as weights:
        positions, weight = samples.coordinates.values.astype(np.float64), normalised(weights.log_weight.values)
        assert weights.attrs["averages"] == "noe.csv" and "reduced_energy" not in weights
    distance = np.linalg.norm(positions[:, 1] - positions[:, 18], axis=1)
    before, after = ((share * distance**-6.0).sum() ** (-1 / 6) for share in (np.full(60, 1 / 60), weight))
    assert abs(after - 0.60) < 0.01 < abs(before - 0.60)
    assert "--theta 0.0: give a theta above zero" in one_line(call("weigh", run, "--averages", table, "--theta", 0), 2)
    assert "have no log_density" in one_line(call("weigh", run, "--averages", table, "--energy", "lennard-jones"), 2)
    refused = call(*sampled[:-4], "--out", tmp_path / "given", "--observations", table)
    assert refused["code"] == 2 and "give the table to `piadm weigh --averages`" in refused["err"]
