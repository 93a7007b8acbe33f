"""The gate of a network: chosen by held-out states, never worse than the Gaussian alone, stored on the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import F64
from test_models import edit_card, make_folder, make_reference
from test_phase_models import SPACE, loud_network, reference
from test_training import make_config, quiet, write_fields

from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import NetworkConfig
from piadm_hpc.models.denoiser import Gate, GaussianDenoiser
from piadm_hpc.models.networks.unet import GridUNet
from piadm_hpc.models.phase_denoiser import PhaseDenoiser
from piadm_hpc.models.training.evaluation import denoising_table
from piadm_hpc.models.training.fields import train
from piadm_hpc.theory.process import OU, PSLD

SHAPE = (8, 16)
LEVELS = (-6.0, -2.0, 2.0, 6.0)


def noisy_denoiser(size: float = 0.3, mask: torch.Tensor | None = None) -> GaussianDenoiser:
    """A denoiser whose network adds what has nothing to do with the states that are missing."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        sizes = NetworkConfig(width=8, multipliers=(1,), embedding=8, static_maps=1, dropout=0.0)
        network = GridUNet(2, 1, torch.linspace(-80, 80, 8), 16, True, sizes)
        for weights in network.head.parameters():
            torch.nn.init.normal_(weights, std=size)
    return GaussianDenoiser(OU(), make_reference(), network.eval().requires_grad_(False), mask)


def drawn(denoiser: GaussianDenoiser, count: int) -> torch.Tensor:
    """States of the denoiser's own Gaussian, of which no network can explain more than its Wiener filter."""
    white = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=F64)
    one = torch.ones((), dtype=F64)
    return denoiser.reference.draw(white, one, 0 * one)


def test_a_gate_passes_through_its_factors_without_kinks_and_is_constant_beyond() -> None:
    gate = Gate((-2.0, 0.0, 1.0), (0.0, 0.25, 1.0))
    assert torch.equal(gate(torch.tensor([-9.0, -2.0, 0.0, 1.0, 30.0], dtype=F64)), torch.tensor([0, 0, 0.25, 1, 1], dtype=F64))
    assert float(gate(torch.tensor([-1.0], dtype=F64))) == pytest.approx(0.125)
    fine = torch.linspace(-3, 2, 5001, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(gate(fine).sum(), fine)
    assert float(slope.min()) >= 0 and float(slope.diff().abs().max()) < 0.01, "it has a continuous derivative"
    assert torch.equal(Gate((3.0,), (0.5,))(fine), torch.full_like(fine, 0.5))


@pytest.mark.parametrize("phase", [False, True])
def test_a_gate_of_zero_is_the_wiener_filter_and_others_scale_what_the_network_adds(phase: bool) -> None:
    t = torch.tensor([0.01, 0.3, 0.8], dtype=F64)
    full = PhaseDenoiser(PSLD(SPACE), reference(), loud_network()) if phase else noisy_denoiser()
    x = torch.randn(3, *((2,) if phase else ()), *SHAPE, generator=torch.Generator().manual_seed(3), dtype=F64)
    alone, part = full.without_network(), replace(full, gate=Gate((0.0,), (0.25,)))
    assert float((full.score(x, t) - alone.score(x, t)).abs().max()) > 1e-3
    assert torch.equal(replace(full, gate=Gate((0.0,), (0.0,))).score(x, t), alone.score(x, t))
    assert torch.equal(replace(full, gate=Gate((0.0,), (1.0,))).score(x, t), full.score(x, t))
    for name in ("score", "__call__"):
        ends = [getattr(denoiser, name)(x, t) for denoiser in (alone, part, full)]
        assert torch.allclose(ends[1], torch.lerp(ends[0], ends[2], 0.25), atol=1e-9)


def test_a_network_that_explains_nothing_is_taken_back() -> None:
    denoiser = noisy_denoiser()
    table = denoising_table(denoiser, drawn(denoiser, 64), LEVELS)
    assert max(table.ratios) > 1.2 and max(table.factor) < 0.2
    assert max(table.with_gate().ratios) <= 1.0


def test_errors_with_a_gate_are_those_of_the_gated_denoiser() -> None:
    """On states that the network is half right about, and with points without data."""
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)) > 0.2
    denoiser = noisy_denoiser(0.1, mask)
    states = drawn(denoiser, 24) * mask
    # states moved towards what the network says at one level make it useful there
    t = torch.full((24,), float(denoiser.process.time(torch.log1p(torch.exp(-torch.tensor(2.0, dtype=F64))))), dtype=F64)
    white = denoiser.white(states, torch.Generator().manual_seed(0))
    x = denoiser.noised(states, t, white)
    states = states + 0.5 * (denoiser(x, t) - denoiser.without_network()(x, t))
    table = denoising_table(denoiser, states, LEVELS)
    assert 0 < max(table.factor) <= 1
    gated = denoising_table(replace(denoiser, gate=table.gate), states, LEVELS)
    assert torch.allclose(torch.tensor(gated.denoiser), torch.tensor(table.gated), rtol=1e-5)
    assert all(own <= min(full, gaussian) * (1 + 1e-9) or factor == 0 for own, full, gaussian, factor in zip(
        table.gated, table.denoiser, table.gaussian, table.factor, strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def memorised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose network has learned eight fields by heart."""
    folder = tmp_path_factory.mktemp("gate")
    write_fields(folder / "a.nc")
    parts: dict[str, Any] = {"validation_fraction": 0.5, "test_fraction": 0.42}
    options = {"steps": 80, "validate_every": 80, "rate": 1e-2, "weight_decay": 0.0}
    config = make_config(folder / "small", data=parts, optimiser=options, network={"dropout": 0.0})
    return train(config, root=folder, report=quiet)


def test_a_network_that_overfits_is_never_worse_than_the_gaussian_on_held_out_fields(memorised: Path) -> None:
    model = load_model(memorised)
    assert model.denoiser is not None and model.denoiser.gate is not None
    assert model.card["gate"] == {"log_snr": [*model.denoiser.gate.log_snr], "factor": [*model.denoiser.gate.factor]}
    assert max(model.card["scores"]["validation"]["ratio"]) <= 1.0
    assert min(model.denoiser.gate.factor) < 0.5, "some of what was learned by heart is taken back"


def test_the_gate_is_part_of_what_a_model_is(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "small")
    old = load_model(folder)
    assert old.denoiser is not None and old.denoiser.gate is None
    x, t = torch.randn(3, *SHAPE, dtype=F64), torch.tensor([0.1, 0.5, 0.9])
    edit_card(folder, gate={"log_snr": [0.0], "factor": [0.5]})
    new = load_model(folder)
    assert old.sha256 != new.sha256
    halfway = torch.lerp(old.wiener().score(x, t), old.score(x, t), 0.5)
    assert torch.allclose(new.score(x, t), halfway, atol=1e-9)
    assert torch.equal(new.wiener().score(x, t), old.wiener().score(x, t))
    for gate, words in (
        ({"log_snr": [0.0, 1.0], "factor": [0.5]}, "one factor for every log-SNR"),
        ({"log_snr": [1.0, 0.0], "factor": [0.5, 0.5]}, "which increases"),
        ({"log_snr": [0.0], "factor": [1.5]}, "less than or equal to 1"),
    ):
        edit_card(folder, gate=gate)
        with pytest.raises(ValueError, match=words):
            load_model(folder)
