"""Networks of position and momentum have an exact Gaussian part, are trained, and are sampled in phase space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compositions import F64
from helpers import call, make_model, one_line, write_config
from test_training import make_config, quiet, write_fields

import piadm_hpc
from piadm_hpc import grid, integrators
from piadm_hpc.config.run import RunConfig
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.models.config import NetworkConfig
from piadm_hpc.models.denoiser import DenoiserScore, GaussianDenoiser
from piadm_hpc.models.networks.unet import GridUNet
from piadm_hpc.models.phase_denoiser import PhaseDenoiser, denoiser_kind
from piadm_hpc.models.training.fields import train
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory.bases import Pixelwise
from piadm_hpc.theory.phase import PhaseSpace
from piadm_hpc.theory.process import OU, PSLD, VP, by_name

SHAPE, SPACE = (8, 16), PhaseSpace(gamma=0.05)
SMALL = NetworkConfig(width=8, multipliers=(1,), embedding=8, static_maps=1, dropout=0.0)


def reference() -> GaussianReference:
    """A reference with one variance per pixel."""
    mean = torch.randn(128, generator=torch.Generator().manual_seed(2), dtype=F64)
    return GaussianReference(mean, Pixelwise(SHAPE), torch.logspace(-3, 1, 128, dtype=F64))


def loud_network() -> GridUNet:
    """A network whose initial output is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = GridUNet(3, 2, torch.linspace(-80, 80, 8), 16, True, SMALL)
        for weights in network.head.parameters():
            torch.nn.init.normal_(weights, std=0.3)
    return network.eval().requires_grad_(False)


def states(t: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(t), 2, *SHAPE, dtype=F64, generator=generator)


def test_the_statistic_is_a_process_on_the_clock_of_phase_space() -> None:
    process = by_name("psld", gamma=0.05)
    tau = torch.logspace(-3, -0.1, 30, dtype=F64)
    assert process == PSLD(SPACE) and torch.equal(process.sigma(tau), SPACE.ratio(tau))
    assert torch.allclose(process.time(torch.log1p(process.sigma(tau) ** 2)), tau, rtol=1e-9)
    assert denoiser_kind(process) is PhaseDenoiser and denoiser_kind(OU()) is GaussianDenoiser
    with pytest.raises(ValueError, match="needs the process psld, not OU"):
        PhaseDenoiser(OU(), reference())


def test_without_a_network_score_and_denoised_are_the_gaussians() -> None:
    """They are compared with the inverse of the covariance of position and momentum, entry by entry."""
    gaussian, t = reference(), torch.tensor([1e-3, 0.05, 0.6], dtype=F64)
    denoiser, z = PhaseDenoiser(PSLD(SPACE), gaussian), states(t)
    away = z.flatten(2) - SPACE.signal(t)[..., None] * gaussian.mean
    precision = torch.linalg.inv(SPACE.covariance(t[:, None], gaussian.spectrum))
    score = -torch.einsum("rdij,rjd->rid", precision, away)
    assert torch.allclose(denoiser.score(z, t).flatten(2), score, rtol=1e-9, atol=1e-9)
    # Kalman's formula: the covariance of x_0 and z is lambda e
    posterior = gaussian.mean - gaussian.spectrum * torch.einsum("ri,rid->rd", SPACE.signal(t), score)
    assert torch.allclose(denoiser(z, t).flatten(1), posterior, rtol=1e-8, atol=1e-8)


def test_score_noise_and_denoised_of_a_network_say_the_same() -> None:
    """They satisfy s = -L^-T eps and Tweedie's formula for the sufficient statistic."""
    t = torch.tensor([2e-3, 0.1, 0.7], dtype=F64)
    denoiser, z = PhaseDenoiser(PSLD(SPACE), reference(), loud_network()), states(t)
    score, factor = DenoiserScore(denoiser)(z, t).flatten(2), SPACE.factor(t)
    assert torch.allclose(factor.mT @ -score, denoiser.noise(z, t).flatten(2), atol=1e-9)
    e, H = SPACE.signal(t)[:, None], torch.linalg.inv(SPACE.covariance(t))
    tweedie = e @ (H @ z.flatten(2) + score) / (e @ H @ e.mT)
    assert torch.allclose(denoiser(z, t).flatten(1), tweedie[:, 0], rtol=1e-7, atol=1e-7)
    silent = denoiser.without_network()
    assert float((denoiser(z, t) - silent(z, t)).abs().max()) > 1e-3


def test_points_without_data_stay_without() -> None:
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[2:4, 3:7] = False
    gaussian = GaussianReference(torch.zeros(128, dtype=F64), reference().basis, torch.where(mask.flatten(), 1.0, 0.0).to(F64))
    denoiser = PhaseDenoiser(PSLD(SPACE), gaussian, loud_network(), mask)
    t = torch.tensor([0.02, 0.5], dtype=F64)
    z = states(t)
    assert float(denoiser(z, t)[:, ~mask].abs().max()) == 0
    inverse = torch.linalg.inv(SPACE.factor(t))
    assert torch.allclose(denoiser.noise(z, t)[..., ~mask], inverse @ z[..., ~mask], atol=1e-9)


def test_the_loss_of_a_gaussian_on_its_own_data_is_one() -> None:
    gaussian = reference()
    denoiser, generator = PhaseDenoiser(PSLD(SPACE), gaussian), torch.Generator().manual_seed(0)
    clean = gaussian.draw(torch.randn(400, *SHAPE, dtype=F64, generator=generator), torch.ones(()), torch.zeros(()))
    for tau in (2e-3, 0.1, 0.6):
        t = torch.full((400,), tau, dtype=F64)
        loss = float(denoiser.loss(clean, t, denoiser.white(clean, generator).to(F64)))
        assert loss == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("name", ["rbaoab", "gddim-ab2", "rvv-x"])
def test_a_native_score_and_a_lifted_one_give_the_same_samples(name: str) -> None:
    """Both scores are known on a Gaussian; the grids agree in the ratio of noise to signal."""
    gaussian = reference()
    native = integrators.build(name, PSLD(SPACE), grid.log_snr(PSLD(SPACE), 12, horizon=6.0, delta=1e-3))
    lifted = integrators.build(name, VP(), grid.log_snr(VP(), 12, horizon=6.0, delta=1e-3), phase=SPACE)
    scores = DenoiserScore(PhaseDenoiser(PSLD(SPACE), gaussian)), DenoiserScore(GaussianDenoiser(VP(), gaussian))
    ends = [
        Sampler(chain, score, SHAPE, 1, Options(solver="sequential"), reference=gaussian, dtype=F64).draw([0, 5]).state
        for chain, score in zip((native, lifted), scores, strict=True)
    ]
    assert torch.allclose(*ends, rtol=1e-6, atol=1e-7)
    swept = Sampler(native, scores[0], SHAPE, 1, Options(tol=1e-9), reference=gaussian, dtype=F64).draw([0, 5])
    assert torch.allclose(swept.state, ends[0], atol=1e-8) and int(swept.sweeps.max()) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of fields whose strongest pattern has amplitude plus or minus four, never zero."""
    folder = tmp_path_factory.mktemp("trained")
    write_fields(folder / "a.nc")
    config = make_config(
        folder / "model",
        noise={"process": "psld", "lowest": -9.0, "highest": 6.0},
        phase={"gamma": 0.05},
        network={"width": 8, "multipliers": [1, 1], "embedding": 16, "static_maps": 1, "dropout": 0.0},
        optimiser={"steps": 120, "batch": 16, "rate": 6e-3, "warm_up": 5, "validate_every": 60, "ema": 0.95},
    )
    return load_model(train(config, root=folder, report=quiet))


def test_training_beats_the_gaussian_and_the_card_says_what_it_is(trained: Model) -> None:
    assert trained.card["process"]["name"] == "psld" and trained.card["process"]["parameters"]["gamma"] == 0.05
    assert trained.process == PSLD(SPACE) and "momentum" in trained.card["prediction"]
    scores = trained.card["scores"]["test"]
    assert min(scores["ratio"]) < 0.6 and max(scores["ratio"]) < 1.1


@pytest.mark.parametrize(("name", "calls"), [("rbaoab", 40), ("gddim", 24)])
def test_samples_have_the_moments_of_the_data(trained: Model, name: str, calls: int) -> None:
    """Amplitudes of the pattern have the data's standard deviation and a kurtosis of about one; a Gaussian has three."""
    given = {"chain": {"integrator": name}, "grid": {"calls": calls, "kind": "power"}, "solver": {"kind": "sequential"}}
    sampler = make_sampler(RunConfig(model="m", **given), trained)
    solution = sampler.draw(range(48))
    assert solution.state.shape == (48, 2, *SHAPE)
    spectrum = trained.reference.spectrum
    z = trained.reference.basis.analyse(solution.x.flatten(1).double() - trained.reference.mean)
    strongest = z[:, 0]
    assert float(strongest.square().mean().sqrt()) == pytest.approx(float(spectrum[0].sqrt()), rel=0.1)
    assert float((strongest**4).mean() / strongest.square().mean() ** 2) < 1.6
    assert float(z[:, 4:].square().mean().sqrt()) == pytest.approx(float(spectrum[-1].sqrt()), rel=0.2)


def test_sweeps_of_a_trained_network_end_at_the_chain(trained: Model) -> None:
    given = {"chain": {"integrator": "rbaoab"}, "grid": {"steps": 12}, "compute": {"precision": "float64"}}
    ends = [
        make_sampler(RunConfig(model="m", solver=solver, **given), trained).draw([3]).state
        for solver in ({"kind": "sequential"}, {"tol": 1e-6})
    ]
    assert torch.allclose(*ends, atol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gaussian model of position and momentum."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder, noise={"process": "psld"})
    return folder


def test_commands_run_such_a_model(folder: Path) -> None:
    path = write_config(folder / "run.toml", folder / "gaussian", folder / "run", chain={"integrator": "auto"})
    report = call("plan", path, "--pilot")
    assert report["code"] == 0, report
    report = call("sample", path)
    assert report["code"] == 0 and "sscs chain" in report["err"] + report["out"], report
    with piadm_hpc.open(folder / "run" / "samples.h5") as samples:
        fields = samples["tas"].values
    # the store keeps positions: temperatures, not momenta
    assert fields.shape == (6, *SHAPE) and np.abs(fields.mean() - 280) < 10
    report = call("tune", path, "--batch", 2, "--set", "grid.steps=5", "--set", "chain.integrator=lambda-ddim-i-r")
    assert report["code"] == 0 and "best:" in report["out"], report


def test_what_such_a_model_cannot_do_is_said(folder: Path) -> None:
    path = write_config(folder / "run.toml", folder / "gaussian", folder / "other", chain={"integrator": "gaussian"})
    message = one_line(call("sample", path), 2)
    assert "gaussian moves the position alone" in message and "gddim-ab2 or rbaoab" in message
    arguments = ("--set", "chain.integrator=rse", "--set", "phase.gamma=0.2")
    assert "was trained in a phase space of its own" in one_line(call("sample", path, *arguments), 2)


def test_a_phase_space_belongs_to_its_process(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the section phase belongs to noise\.process = 'psld', not 'vp'; leave one out"):
        make_config(tmp_path / "model", noise={"process": "vp"}, phase={"gamma": 0.3})
