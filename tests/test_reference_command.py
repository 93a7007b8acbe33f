"""Jacobian diagonals that are probed or given, references that are fitted to data, and the command `piadm reference`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from compositions import F64
from helpers import add_network, call, make_model, one_line, write_config
from problems import chains, every_method, mixture

import piadm_hpc
from piadm_hpc import integrators
from piadm_hpc.config.run import RunConfig
from piadm_hpc.gaussian.harmonics import HarmonicEOF
from piadm_hpc.gaussian.reference import GaussianReference, Response
from piadm_hpc.integrators import catalogue
from piadm_hpc.integrators.assembly import PhaseGrid
from piadm_hpc.models.card import RESPONSE, load_model
from piadm_hpc.models.packing import load_response, save_response
from piadm_hpc.run.probe import probe_response
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.solvers.linear import reference_part, response_part
from piadm_hpc.theory.bases import Basis, Fourier, Pixelwise, SphericalHarmonics
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.phase import PhaseSpace
from piadm_hpc.theory.process import EDM, OU, VP, Process, forward_time

LATITUDES = np.linspace(-80, 80, 8).tolist()


def own_gains(chain: Chain, reference: GaussianReference) -> GaussianReference:
    """Give a reference its own gains as the Jacobian diagonal, at the noise levels of a chain."""
    ratio = torch.unique(chain.ratio[:-1]).flip(0)
    variance = reference.spectrum.to(F64)
    return replace(reference, response=Response(-2 * torch.log(ratio), variance / (variance + ratio[:, None] ** 2)))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("process", [OU(), EDM()], ids=["ou", "edm"])
def test_a_response_of_the_references_own_gains_is_the_reference(process: Process) -> None:
    reference = mixture(process).reference()
    for name, chain in chains(process, reference).items():
        made, exact = response_part(chain, own_gains(chain, reference)), reference_part(chain, reference)
        assert made.A.shape == exact.A.shape == (chain.num_steps, 12, chain.channels, chain.channels)
        assert relative(made.A, exact.A) < 1e-12 and relative(made.slope, exact.slope) < 1e-12, name


@pytest.mark.parametrize("space", ["data", "phase"])
def test_so_it_is_for_every_integrator(space: str) -> None:
    """Lifted chains in phase space read one field; there is a shell for each of the twelve directions of the reference."""
    reference = mixture(VP()).reference()
    for name, chain in every_method(VP(), reference, steps=7).items():
        if catalogue.find(name).space == space:
            made, exact = response_part(chain, own_gains(chain, reference)), reference_part(chain, reference)
            assert relative(made.A, exact.A) < 1e-12, name


def test_so_it_is_for_scores_of_position_and_momentum() -> None:
    reference = mixture(VP()).reference()
    grid = PhaseGrid(PhaseSpace(), 1e-3 + 0.7 * (1 - torch.linspace(0, 1, 8, dtype=F64)) ** 2, (0, 7))
    for one in catalogue.PHASE:
        chain = integrators.native(one.name, grid)
        made, exact = response_part(chain, own_gains(chain, reference)), reference_part(chain, reference)
        assert made.slope.shape == (chain.num_steps, 12, 2, 2)
        assert relative(made.A, exact.A) < 1e-12, one.name


def harmonic_eof() -> HarmonicEOF:
    harmonics = SphericalHarmonics(8, 16, 6, LATITUDES, area_weighted=False)
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=F64, generator=torch.Generator().manual_seed(3)))[0]
    return HarmonicEOF(harmonics, rotation, 3)


BASES = {"pixelwise": Pixelwise((8, 16)), "fourier": Fourier((8, 16)), "harmonic_eof": harmonic_eof()}


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
@pytest.mark.parametrize("process", [VP(), EDM()], ids=["vp", "edm"])
def test_probing_a_gaussian_gives_its_gains(basis: Basis, process: Process) -> None:
    """The gains are lambda / (lambda + ratio^2) for every shell, up to the average over adjacent levels."""
    spectrum = torch.logspace(1, -2, basis.num_shells, dtype=F64)
    reference = GaussianReference(torch.linspace(-1, 1, 128, dtype=F64), basis, spectrum)
    states = torch.randn(2, 8, 16, dtype=F64, generator=torch.Generator().manual_seed(0))
    horizon, delta = (float(process.time(torch.tensor(theta, dtype=F64))) for theta in (6.0, 1e-2))

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return reference.score(process, x, t)

    found = probe_response(score, process, reference, states, horizon=horizon, delta=delta, levels=9, probes=1)
    ends = -torch.log(torch.expm1(forward_time(process, torch.tensor([horizon, delta], dtype=F64))))
    assert torch.allclose(found.snr[[0, -1]], ends)
    exact = spectrum / (spectrum + torch.exp(-found.snr)[:, None])
    exact[1:-1] = (exact[:-2] + 2 * exact[1:-1] + exact[2:]) / 4
    asked = seen(basis)
    assert torch.allclose(found.gain[:, asked], exact[:, asked], atol=1e-7)


def seen(basis: Basis) -> torch.Tensor:
    """Select the shells that fields contain; the last shell of the harmonics holds what the grid does not resolve."""
    unit = basis.energy(basis.analyse(torch.randn(400, 128, dtype=F64, generator=torch.Generator().manual_seed(1))))
    return unit > 1e-3


def test_responses_are_kept_and_damaged_ones_refused(tmp_path: Path) -> None:
    kept = Response(torch.linspace(-4, 4, 5, dtype=F64), torch.rand(5, 3, dtype=F64, generator=torch.Generator().manual_seed(0)))
    path = save_response(tmp_path / "response.h5", kept, "for a test")
    found = load_response(path)
    assert torch.equal(found.snr, kept.snr) and torch.allclose(found.gain, kept.gain, atol=1e-7)
    with pytest.raises(ValueError, match="no such file"):
        load_response(tmp_path / "none.h5")
    with xr.open_dataset(path, engine="h5netcdf") as stored:
        changed = stored.load()
    changed["gain"][:] = 2.0
    changed.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match="gains between 0 and 1"):
        load_response(path)
    changed.drop_vars("gain").to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match="no array gain; make it again with `piadm reference MODEL`"):
        load_response(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    add_network(make_model(folder), folder / "network")
    return folder


def test_a_model_is_probed_and_later_runs_use_it(folder: Path, tmp_path: Path) -> None:
    """The Jacobian diagonal is stored in the model's folder and used by sweeps; the samples do not change."""
    path = write_config(tmp_path / "run.toml", folder / "network", tmp_path / "run", samples=2)
    refused = one_line(call("sample", path, "--set", "solver.linear=response"), 2)
    assert "this reference has no response: probe the model (`piadm reference MODEL`)" in refused
    before = make_sampler(RunConfig(model="m", grid={"steps": 12}), load_model(folder / "network")).draw([1])
    small = ("--samples", 2, "--probes", 1, "--levels", 8)
    report = call("reference", folder / "network", *small, "--out", tmp_path / "elsewhere.h5")
    assert (
        report["code"] == 0
        and (tmp_path / "elsewhere.h5").is_file()
        and load_model(folder / "network").reference.response is None
    )
    report = call("reference", folder / "network", *small)
    assert report["code"] == 0 and report["out"] == f"response: {folder / 'network' / RESPONSE}\n"
    model = load_model(folder / "network")
    assert model.reference.response is not None and model.reference.response.gain.shape == (8, 5)
    after = make_sampler(RunConfig(model="m", grid={"steps": 12}), model).draw([1])
    assert torch.allclose(after.x, before.x, atol=0.02)
    report = call("sample", path, "--set", "solver.linear=response")
    assert report["code"] == 0, report
    (folder / "network" / RESPONSE).write_bytes(b"not HDF5")
    message = one_line(call("plan", path), 2)
    assert RESPONSE in message and "can be removed, it only saves sweeps" in message
    (folder / "network" / RESPONSE).unlink()


def test_a_reference_is_fitted_to_the_samples_of_a_run_and_used(folder: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "run.toml", folder / "network", tmp_path / "run", chain={"integrator": "ddim"})
    assert call("sample", path)["code"] == 0
    report = call("reference", folder / "network", "--data", tmp_path / "run" / "samples.h5", "--out", tmp_path / "own.h5")
    assert report["code"] == 0 and f"--set solver.reference={tmp_path / 'own.h5'}" in report["out"]
    used = call("sample", path, "--set", f"solver.reference={tmp_path / 'own.h5'}", "--out", tmp_path / "again")
    assert used["code"] == 0, used
    with piadm_hpc.open(tmp_path / "run" / "samples.h5") as first, piadm_hpc.open(tmp_path / "again" / "samples.h5") as second:
        # another preconditioner gives the same members
        assert float(abs(first["tas"] - second["tas"]).max()) < 0.05
    # the training file gives the reference with which the model was trained
    report = call("reference", folder / "gaussian", "--data", folder / "fields.nc", "--out", tmp_path / "data.h5")
    assert report["code"] == 0, report
    config = RunConfig(model="m", solver={"reference": str(tmp_path / "data.h5")}, chain={"integrator": "ddim"})
    model = load_model(folder / "gaussian")
    fitted = make_sampler(config, model).reference
    assert fitted is not None and torch.allclose(fitted.spectrum[:1], model.reference.spectrum[:1], rtol=0.1)


def bad_inputs(folder: Path, tmp_path: Path) -> list[tuple[tuple[object, ...], str]]:
    network, fields = folder / "network", folder / "fields.nc"
    with xr.open_dataset(fields) as stored:
        stored.rename(tas="pr").to_netcdf(tmp_path / "other.nc")
        stored.isel(time=slice(0, 2)).to_netcdf(tmp_path / "short.nc")
        stored.assign_coords(lat=stored.lat + 3).to_netcdf(tmp_path / "shifted.nc")
    out = ("--out", tmp_path / "out.h5")
    return [
        (("none",), "none: no such model folder"),
        ((network, "--probes", 0, "--levels", 2), "--probes must be at least 1; --levels must be at least 3"),
        ((network, "--data", fields), "--data needs --out, the file to write"),
        ((network, "--data", tmp_path / "no.nc", *out), "no.nc: no such file"),
        ((network, "--data", tmp_path / "other.nc", *out), "network needs tas on its own grid"),
        ((network, "--data", tmp_path / "shifted.nc", *out), "network needs tas on its own grid"),
        ((network, "--data", tmp_path / "short.nc", *out), "2 field(s); a mean and variances need at least three"),
        ((network, "--data", folder / "run.toml", *out), "network needs tas on its own grid"),
        ((network, "--data", fields, "--out", tmp_path / "nowhere" / "out.h5"), "there is no folder"),
    ]


def test_bad_inputs_of_the_command_are_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    write_config(folder / "run.toml", folder / "network", "run")
    for arguments, words in bad_inputs(folder, tmp_path):
        assert words in one_line(call("reference", *arguments), 2), arguments


def test_references_of_other_models_are_refused_by_a_run(folder: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "run.toml", folder / "network", tmp_path / "run")
    message = one_line(call("plan", path, "--set", f"solver.reference={tmp_path / 'none.h5'}"), 2)
    assert "none.h5: no such file" in message
    message = one_line(call("plan", path, "--set", f"solver.reference={folder / 'network' / 'reference.h5'}"), 2)
    assert "no array mean or spectrum; make it with `piadm reference MODEL --data FILE`" in message


def test_a_model_of_position_and_momentum_is_not_probed(tmp_path: Path) -> None:
    model = make_model(tmp_path, noise={"process": "psld"})
    assert "probes move the position alone" in one_line(call("reference", model), 2)
