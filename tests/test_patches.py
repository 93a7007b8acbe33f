"""Domains of overlapping patches: their tiling, their Gaussian, seams, runs from the command line, and refused settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import call, one_line

import piadm_hpc
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.gaussian.stationary import stationary
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.patches import patched
from piadm_hpc.models.tiling import Tiling
from piadm_hpc.models.training.fields import train
from piadm_hpc.theory.bases import EOF

F64 = torch.float64
SIDE, WIDE = 16, 48


def power(size: int) -> torch.Tensor:
    """The power of a smooth, anisotropic, stationary field of variance one, whose waves fit into a patch."""
    k = torch.fft.fftfreq(size, 1 / size, dtype=F64) * 64 / size
    found = torch.exp(-((k[:, None] ** 2 + 1.7 * k[None] ** 2) / 64)) + 1e-3
    return found / found.mean()


def windows(count: int) -> np.ndarray:
    """Cut windows [count, SIDE, SIDE] from such fields on WIDE x WIDE points."""
    white = torch.randn(count, WIDE, WIDE, dtype=F64, generator=torch.Generator().manual_seed(2))
    fields = torch.fft.irfft2(torch.fft.rfft2(white) * power(WIDE)[:, : WIDE // 2 + 1].sqrt(), s=(WIDE, WIDE))
    return fields[:, :SIDE, :SIDE].numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Gaussian models of windows: one is unconditional, and one is given the window before."""
    folder = tmp_path_factory.mktemp("patches")
    axes = {name: np.arange(SIDE, dtype=np.float64) for name in "yx"}
    times = np.datetime64("2000-01-01", "ns") + np.arange(400) * np.timedelta64(1, "D")
    q = (("time", "y", "x"), windows(400), {"units": "s-1"})
    xr.Dataset({"q": q}, {"time": times, **axes}).to_netcdf(folder / "windows.nc")
    for name, more in (("plain", {}), ("given", {"condition": {"inputs": {"before": {"kind": "lag"}}}}), ("wrapped", {})):
        data = {"files": ["windows.nc"], "variables": ["q"], "spatial_dims": ["y", "x"], "scale": "global"}
        data |= {"wrap": "both" if name == "wrapped" else False}
        record: dict[str, Any] = {"name": name, "output": str(folder / name), "network": "none", "data": data}
        record |= {"reference": {"basis": "eof", "rank": 100}, **more}
        train(TrainConfig.model_validate(record), root=folder, report=lambda line: None)
    return folder


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("shape", "overlap"), [((40, 52), 6), ((16, 17), 15), ((33, 16), 1)])
def test_patches_cover_a_domain_and_blend_to_what_was_cut(shape: tuple[int, int], overlap: int, periodic: bool) -> None:
    tiling = Tiling(shape, (SIDE, SIDE), overlap, periodic)
    x = torch.randn(2, 3, *shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    patches = tiling.cut(x)
    assert patches.shape == (2 * len(tiling.places), 3, SIDE, SIDE)
    assert torch.equal(patches[0], x[0, :, :SIDE, :SIDE])
    assert float((tiling.blend(patches) - x).abs().max()) < 1e-12
    for axis in (0, 1):
        begins = tiling.begins(axis)
        apart = np.diff([*begins, begins[0] + shape[axis]] if periodic and len(begins) > 1 else begins)
        assert all(1 <= step <= SIDE - overlap for step in apart)
        assert periodic or begins[-1] == shape[axis] - SIDE


def test_the_stationary_gaussian_has_the_spectrum_that_the_windows_come_from() -> None:
    """It is computed from the exact covariance of a window and compared at all waves that a taper of this size resolves."""
    true = power(WIDE)
    covariance = torch.fft.ifft2(true).real
    row, column = torch.arange(SIDE).repeat_interleave(SIDE), torch.arange(SIDE).repeat(SIDE)
    variances, modes = torch.linalg.eigh(covariance[(row[:, None] - row) % WIDE, (column[:, None] - column) % WIDE])
    window = GaussianReference(torch.ones(SIDE**2, dtype=F64), EOF(modes[:, 1:], (SIDE, SIDE)), variances.roll(-1))
    found = stationary(window, (WIDE, WIDE))
    assert float((found.spectrum / true[:, : WIDE // 2 + 1].flatten() - 1).abs().max()) < 0.05
    assert torch.allclose(found.mean, torch.ones(WIDE**2, dtype=F64))
    white = torch.randn(200, WIDE, WIDE, dtype=F64, generator=torch.Generator().manual_seed(0))
    drawn = found.draw(white, torch.ones((), dtype=F64), torch.zeros((), dtype=F64))
    assert float(drawn.var()) == pytest.approx(1, abs=0.03)


def test_a_gaussian_model_on_a_periodic_domain_is_the_gaussian_of_the_domain(folder: Path) -> None:
    model = load_model(folder / "plain")
    large = patched(model, (40, 52), overlap=6)
    x, t = torch.randn(2, 40, 52, dtype=F64), torch.tensor([0.3, 2.0], dtype=F64)
    assert torch.allclose(large.score(x, t), large.reference.score(large.process, x, t), atol=1e-8)
    fields = {"q": np.random.default_rng(0).normal(size=(2, 40, 52))}
    assert np.allclose(large.decode(large.encode(fields))["q"], fields["q"], atol=1e-5)


def test_no_seams_are_seen_where_a_domain_ends(folder: Path) -> None:
    """With averaged scores, samples have the same mean squares and gradients at the seams as elsewhere."""
    large = patched(load_model(folder / "plain"), (WIDE, WIDE), periodic=False)
    grid = piadm_hpc.grid.log_snr(large.process, 24, horizon=large.horizon, delta=large.delta)
    chain = piadm_hpc.integrators.build("gaussian-ab2", large.process, grid, reference=large.reference)
    options = piadm_hpc.Options(solver="sequential")
    sampler = piadm_hpc.Sampler(chain, large.score, (WIDE, WIDE), seed=0, options=options, reference=large.reference)
    x = sampler.draw(range(24)).x
    gradient = torch.diff(x, dim=-1).square().mean((0, 1))
    seams = [8 * k - 1 for k in range(1, WIDE // 8)]
    ratio = float(gradient[seams].mean() / gradient.mean())
    assert 0.9 < ratio < 1.1 and 0.8 < float(x.var()) < 1.2


def test_a_run_samples_a_domain_and_conditions_are_cut_with_it(folder: Path, tmp_path: Path) -> None:
    """The command samples it; if the domain is a single patch, conditions are encoded as by the model itself."""
    arguments = ["--model", folder / "plain", "--set", "domain.shape=[32, 40]"]
    done = call("sample", *arguments, "--samples", 2, "--out", tmp_path / "run")
    assert done["code"] == 0, done
    with piadm_hpc.open(tmp_path / "run") as dataset:
        assert dict(dataset.q.sizes) == {"realization": 2, "y": 32, "x": 40}
        assert dataset.x.values.tolist() == list(range(40)) and bool(np.isfinite(dataset.q).all())
        assert 0.5 < float(dataset.q.std()) < 1.5
    assert call("check", tmp_path / "run")["code"] == 0
    assert "MB per rank" in call("plan", *arguments)["out"]
    axes = {name: np.arange(size, dtype=np.float64) for name, size in (("y", SIDE), ("x", 24))}
    before = xr.Dataset({"before": (("y", "x"), windows(1)[0].repeat(2, 1)[:, :24], {"units": "s-1"})}, axes)
    before.to_netcdf(tmp_path / "wide.nc")
    run: dict[str, Any] = {"model": str(folder / "given"), "condition": {"file": str(tmp_path / "wide.nc")}, "samples": 1}
    run |= {"domain": {"shape": [SIDE, 24], "periodic": False}, "out": str(tmp_path / "wide"), "solver": {"kind": "sequential"}}
    with piadm_hpc.sample(piadm_hpc.RunConfig(**run)) as dataset:
        assert dataset.q.shape == (1, SIDE, 24) and bool(np.isfinite(dataset.q).all())
    model = load_model(folder / "given")
    one = patched(model, (SIDE, SIDE), periodic=False)
    values = {"before": windows(3)}
    assert model.conditioning is not None and one.conditioning is not None
    expected, found = model.conditioning.encode(values), one.conditioning.encode(values)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    x, t = torch.randn(3, SIDE, SIDE), torch.full((3,), 0.5)
    assert torch.allclose(one.score(x, t, found), model.score(x, t, expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("plain", ["domain.shape=[8, 64]"], "domain.shape: 8 rows are fewer than the 16 of a patch; give at least 16"),
        ("plain", ["domain.shape=[1000000, 1000000]"], "are 1,000,000,000,000 points; give at most"),
        ("plain", ["domain.shape=[32, 32]", "domain.overlap=16"], "domain.overlap = 16: patches of 16 x 16 share 1 to 15 points"),
        ("plain", ["domain.shape=[32, 32]", "density.enabled=true"], "patches have no densities"),
        ("wrapped", ["domain.shape=[32, 32]"], "train on windows with data.wrap = false"),
        ("ccsm-temperature", ["domain.shape=[128, 256]"], "is one of the globe"),
        ("alanine-dipeptide", ["domain.shape=[128, 256]"], "is not one of fields of one variable on rows and columns"),
    ],
)
def test_domains_that_cannot_be_are_refused(folder: Path, tmp_path: Path, name: str, settings: list[str], words: str) -> None:
    given = [part for setting in settings for part in ("--set", setting)]
    model = folder / name if (folder / name).exists() else name
    assert words in one_line(call("sample", "--model", model, *given, "--out", tmp_path / "run"), 2)
