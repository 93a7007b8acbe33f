"""The reference for any grid keeps variances, correlations and scales, on grids with gaps and of several variables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
import xarray as xr
from torch import Tensor

import piadm_hpc
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.data.geometry import lattice, rectangular
from piadm_hpc.gaussian.masked import MaskedEOF, log_likelihood, shell_degrees
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.gaussian.regional import RegionalEOF
from piadm_hpc.gaussian.shared import SharedEOF
from piadm_hpc.models.config import ReferenceConfig
from piadm_hpc.models.training import localised
from piadm_hpc.models.training.fitting import fit_reference
from piadm_hpc.models.training.localised import fit_localised_eof
from piadm_hpc.models.training.scales import FLOOR, Scales
from piadm_hpc.models.training.tapered import gaspari_cohn

ROWS, COLUMNS = 16, 24


def smooth_fields(count: int, variables: int, seed: int) -> Tensor:
    """Stationary fields [count, variables, 16, 24] whose spectrum falls as a power law, variables correlated by 0.8."""
    generator = torch.Generator().manual_seed(seed)
    y, x = np.meshgrid(np.fft.fftfreq(ROWS), np.fft.fftfreq(COLUMNS), indexing="ij")
    spectrum = torch.from_numpy((1 + (x**2 + y**2) / 0.08**2) ** -2.0)
    white = torch.randn(count, variables, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    common = white[:, :1]
    white = torch.sqrt(torch.tensor(0.8)) * common + torch.sqrt(torch.tensor(0.2)) * white.roll(1, 0)
    fields = torch.fft.ifft2(torch.fft.fft2(white) * torch.sqrt(spectrum)).real
    return fields / fields.std() + 0.1 * torch.randn(fields.shape, generator=generator, dtype=torch.float64)


def covariance(reference: GaussianReference) -> Tensor:
    """The covariance [d, d] of a reference."""
    unit = torch.eye(len(reference.mean), dtype=torch.float64)
    basis = reference.basis
    return basis.synthesise(basis.expand(reference.spectrum) * basis.analyse(unit))


@pytest.mark.parametrize("gaps", [False, True])
def test_variances_and_correlations_are_those_of_the_fields(gaps: bool) -> None:
    fields = smooth_fields(60, 2, 0)
    mask = torch.ones(2, ROWS, COLUMNS, dtype=torch.bool)
    if gaps:
        mask[:, 3:7, 5:12] = False
        fields = fields * mask
    reference = fit_localised_eof(fields, fields[:0], rectangular(ROWS, COLUMNS), mask if gaps else None)
    found, wanted = covariance(reference), torch.cov(fields.flatten(1).T)
    assert isinstance(reference.basis, MaskedEOF) == gaps
    assert torch.allclose(found.diagonal(), wanted.diagonal(), atol=1e-3)
    points = ROWS * COLUMNS
    between = lambda c: float(c.diagonal(points).sum() / c.diagonal().sum())  # noqa: E731
    assert between(found) == pytest.approx(between(wanted), abs=0.01)


def test_held_out_fields_are_likelier_than_under_plain_modes() -> None:
    train, unseen, test = (smooth_fields(n, 1, seed)[:, 0] for n, seed in ((60, 0), (20, 1), (40, 2)))
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    mask[4:8, 6:12] = False
    for gaps in (None, mask):
        parts = [part if gaps is None else part * gaps for part in (train, unseen, test)]
        scores = {
            basis: log_likelihood(fit_reference(parts[0], parts[1], ReferenceConfig(basis=basis), mask=gaps), parts[2])
            for basis in ("smooth", "eof")
        }
        assert scores["smooth"] > scores["eof"] + 10


def test_scales_keep_their_power_with_few_modes() -> None:
    fields = smooth_fields(60, 1, 3)[:, 0]
    reference = fit_localised_eof(fields, fields[:0], rectangular(ROWS, COLUMNS), count=200)
    white = torch.randn(400, ROWS, COLUMNS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = reference.draw(white, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    power = [torch.fft.rfft(f - f.mean(0)).abs().square().mean((0, 1)) for f in (drawn, fields)]
    for band in (slice(1, 3), slice(3, 6), slice(6, 13)):
        assert 0.7 < float(power[0][band].sum() / power[1][band].sum()) < 1.4


@pytest.mark.parametrize("gaps", [False, True])
def test_noise_is_stronger_where_fields_are_rougher(gaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the rows has white noise of standard deviation one, ten times that of the others."""
    rough = torch.arange(ROWS) < 5
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    mask[2:8, 6:12] = not gaps

    def drawn(count: int, seed: int) -> Tensor:
        white = torch.randn(count, ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed + 10), dtype=torch.float64)
        return (smooth_fields(count, 1, seed)[:, 0] + white * rough[:, None]) * mask

    parts = [drawn(n, seed) for n, seed in ((60, 0), (20, 1), (60, 2))]
    fit = [fit_localised_eof(*parts[:2], rectangular(ROWS, COLUMNS), mask if gaps else None, 60)]
    basis = fit[0].basis
    assert isinstance(basis, RegionalEOF)
    rougher = basis.regions.reshape(ROWS, COLUMNS) == 1
    assert float((rougher == rough[:, None])[mask].double().mean()) > 0.98
    noise = fit[0].spectrum[basis.rank :]
    assert float(noise[1]) > 2 * float(noise[0]) and (len(noise) == 3 and float(noise[2]) == 0 if gaps else len(noise) == 2)
    found, wanted = covariance(fit[0]).diagonal(), parts[0].flatten(1).var(0)
    assert torch.allclose(found, wanted, rtol=0.2), "modes take a part of the noise with them"
    monkeypatch.setattr(localised, "ROUGHER", float("inf"))
    fit.append(fit_localised_eof(*parts[:2], rectangular(ROWS, COLUMNS), mask if gaps else None, 60))
    assert not isinstance(fit[1].basis, RegionalEOF)
    assert log_likelihood(fit[0], parts[2]) > log_likelihood(fit[1], parts[2]) + 10


def test_power_is_that_of_a_known_spectrum_on_a_grid_with_gaps() -> None:
    """A taper alone makes some scales of such fields 1.8 times too strong; the truth is the mean over 2,000 fields."""
    mask = torch.ones(24, 36, dtype=torch.bool)
    mask[8:15, 10:20] = False
    mask[18:21, 28:33] = False

    def drawn(count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        y, x = np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(36), indexing="ij")
        root = torch.from_numpy((1 + (x**2 + y**2) / 0.06**2) ** -1.0)
        white = torch.randn(count, 48, 36, generator=generator, dtype=torch.float64)
        fields = torch.fft.ifft2(torch.fft.fft2(white) * root).real[:, :24]
        return fields / root.square().mean().sqrt()

    reference = fit_localised_eof(drawn(100, 0) * mask, drawn(20, 1) * mask, rectangular(24, 36, periodic=True), mask)
    white = torch.randn(400, 24, 36, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    made = reference.draw(white, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    rows = mask.all(1)
    power = [torch.fft.rfft(f[:, rows]).abs().square().mean((0, 1)) for f in (made, drawn(2000, 9))]
    for band in (slice(1, 4), slice(4, 7), slice(7, 11), slice(11, 17)):
        assert 0.75 < float(power[0][band].sum() / power[1][band].sum()) < 1.35


def test_small_scales_of_large_grids_have_their_power() -> None:
    """Bands of polynomials divide the square of a field; with the gains a covariance has in every band the power wanted."""
    points, generator = 48 * 50, np.random.default_rng(0)
    scales = Scales.of(lattice(48, 50, periodic=True), np.ones(points, dtype=bool))
    fields = generator.standard_normal((points, 400), dtype=np.float32)
    assert scales.passes is not None and len(scales.degrees) >= len(scales.edges) + 1
    assert scales.power(fields).sum() == pytest.approx(np.square(fields).sum(), rel=1e-3)
    assert scales.degrees.sum() == pytest.approx(points)
    assert np.allclose(scales.power(fields) / 400, scales.degrees, rtol=0.2)
    modes = np.linalg.qr(fields)[0]
    variances = 1 / (1 + np.arange(400.0))
    wanted = scales.degrees / (1 + np.arange(len(scales.degrees))) ** 2
    found, addition = scales.balanced(modes, variances, wanted, 0.0)
    root = np.linalg.cholesky((1 - FLOOR) * np.diag(variances) + addition + 1e-9 * np.eye(400))
    ratio = scales.power(found @ root.astype(np.float32)) / wanted
    assert np.allclose(ratio, 1, atol=0.3), ratio


def test_modes_that_variables_share_are_orthonormal() -> None:
    generator = torch.Generator().manual_seed(0)
    valid = torch.arange(40) % 5 != 0
    modes = torch.zeros(40, 6, dtype=torch.float64)
    modes[valid] = torch.linalg.qr(torch.randn(32, 6, generator=generator, dtype=torch.float64))[0]
    turns = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator, dtype=torch.float64))[0]
    for gaps in (None, valid):
        basis = SharedEOF(modes, turns, torch.tensor([0, 0, 1, 1, 1, 1]), (3, 5, 8), gaps)
        x = torch.randn(4000, 120, generator=generator, dtype=torch.float64)
        z = basis.analyse(x)
        assert torch.allclose(basis.synthesise(z), x) and torch.allclose((z**2).sum(1), (x**2).sum(1))
        assert torch.allclose(basis.energy(z), torch.ones(basis.num_shells, dtype=torch.float64), atol=0.1)
        degrees = shell_degrees(basis)
        assert float(degrees.sum()) == 120 and len(degrees) == basis.num_shells == 18 + (1 if gaps is None else 2)
        # every shell is a projection: its operator does nothing more when it is applied again
        spectrum = torch.rand(basis.num_shells, generator=generator, dtype=torch.float64)
        found = covariance(GaussianReference(torch.zeros(120), basis, spectrum))
        twice = covariance(GaussianReference(torch.zeros(120), basis, spectrum**2))
        assert torch.allclose(found @ found, twice) and float(found.trace()) == pytest.approx(float(degrees @ spectrum))
    with pytest.raises(ValueError, match="3 variables, 40 points, 6 modes and 5 bands"):
        SharedEOF(modes, turns, torch.zeros(5, dtype=torch.long), (3, 5, 8))


@pytest.mark.parametrize("gaps", [False, True])
def test_many_variables_share_modes_and_keep_their_correlations(monkeypatch: pytest.MonkeyPatch, gaps: bool) -> None:
    monkeypatch.setattr(localised, "NUMBERS", 10_000)
    generator = torch.Generator().manual_seed(0)
    y, x = np.meshgrid(np.fft.fftfreq(ROWS), np.fft.fftfreq(COLUMNS), indexing="ij")
    root = torch.from_numpy((1 + (x**2 + y**2) / 0.08**2) ** -1.5)
    white = torch.randn(12 * 80, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    steps = torch.fft.ifft2(torch.fft.fft2(white) * root).real
    steps = steps / steps.std()
    for k in range(1, len(steps)):
        steps[k] = 0.7 * steps[k - 1] + np.sqrt(1 - 0.7**2) * steps[k]
    fields = steps.reshape(80, 12, ROWS, COLUMNS)
    mask = torch.ones(12, ROWS, COLUMNS, dtype=torch.bool)
    if gaps:
        mask[:, 3:7, 5:12] = False
    train, unseen = fields[:60] * mask, fields[60:] * mask
    reference = fit_localised_eof(train, train[:0], rectangular(ROWS, COLUMNS, periodic=True), mask if gaps else None, 300)
    assert isinstance(reference.basis, SharedEOF) and reference.basis.modes.shape[1] <= 300
    white = torch.randn(800, 12, ROWS, COLUMNS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    made = reference.draw(white, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    assert float(made[:, ~mask].abs().max()) == 0 if gaps else True
    found, wanted = (torch.corrcoef(f.transpose(0, 1)[:, :, mask[0]].flatten(1)) for f in (made, train))
    assert float((found - wanted).abs().max()) < 0.05
    power = [torch.fft.rfft(f[:, :, 10:]).abs().square().mean((0, 1, 2)) for f in (made, train)]
    for band in (slice(1, 3), slice(3, 6), slice(6, 13)):
        assert 0.7 < float(power[0][band].sum() / power[1][band].sum()) < 1.4
    plain = fit_reference(train, train[:0], ReferenceConfig(basis="eof"), mask=mask if gaps else None)
    assert log_likelihood(reference, unseen) > log_likelihood(plain, unseen) + 10


def test_variables_with_data_at_different_points() -> None:
    fields = smooth_fields(40, 2, 1)
    mask = torch.ones(2, ROWS, COLUMNS, dtype=torch.bool)
    mask[0, :6] = False
    reference = fit_localised_eof(fields * mask, fields[:0], rectangular(ROWS, COLUMNS), mask)
    found = covariance(reference)
    assert float(found[~mask.flatten()].abs().max()) == 0
    wanted = torch.cov((fields * mask).flatten(1).T)
    assert torch.allclose(found.diagonal(), wanted.diagonal(), atol=1e-3)


def test_auto_takes_the_basis_that_the_grid_asks_for() -> None:
    fields, mask = smooth_fields(20, 1, 0)[:, 0], torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    whole = {"latitudes": np.linspace(-84, 84, ROWS).tolist(), "longitudes": (np.arange(COLUMNS) * 15.0).tolist()}
    part = {"latitudes": np.linspace(10, 40, ROWS).tolist(), "longitudes": np.arange(COLUMNS).tolist()}
    kinds = [type(fit_reference(fields, fields[:0], ReferenceConfig(), **grid).basis).__name__ for grid in (whole, part)]
    assert kinds == ["HarmonicEOF", "EOF"]
    mask[0, 0] = False
    assert fit_reference(fields * mask, fields[:0], ReferenceConfig(), mask=mask, **whole).basis.rank > 19
    assert fit_reference(fields, fields[:0], ReferenceConfig(rank=4), **whole).basis.rank == 4


def test_fields_off_the_grid_and_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="5 or more fields on a grid of 6 points, got 4 of 6 values"):
        fit_localised_eof(torch.randn(4, 2, 3), torch.zeros(0, 2, 3), rectangular(2, 3))


def test_the_localising_correlation_falls_to_zero() -> None:
    ratio = np.linspace(0, 2.5, 26)
    values = gaspari_cohn(ratio)
    assert values[0] == 1 and values[10] == pytest.approx(5 / 24) and (values[20:] < 1e-15).all()
    assert (np.diff(values) <= 1e-15).all()


def test_train_is_public_and_takes_a_file_or_a_mapping(tmp_path: Path) -> None:
    fields = smooth_fields(20, 1, 0)[:, 0].numpy().astype(np.float32)
    xr.Dataset({"t": (("time", "y", "x"), fields)}).to_netcdf(tmp_path / "a.nc")
    data = {"files": ["a.nc"], "variables": ["t"], "spatial_dims": ["y", "x"], "wrap": False}
    config = {"name": "m", "output": str(tmp_path / "m"), "network": "none", "data": data}
    lines: list[str] = []
    folder = piadm_hpc.train(config, root=tmp_path, report=lines.append)
    model = piadm_hpc.load_model(folder)
    assert model.reference.basis.rank > 20 and "20 training" in lines[0]
    (tmp_path / "train.toml").write_text(tomli_w.dumps(config))
    again = piadm_hpc.train(tmp_path / "train.toml", changes=["reference.rank=3"], root=tmp_path, report=lines.append)
    assert piadm_hpc.load_model(again).reference.basis.rank == 3
    with pytest.raises(ConfigError, match="network"):
        piadm_hpc.train({**config, "network": "nothing"}, root=tmp_path)
