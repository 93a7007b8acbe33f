"""The gate of a network: chosen by held-out states, never worse than the Gaussian alone, stored with the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compositions import F64
from test_models import make_folder, make_reference
from test_phase_models import SPACE, loud_network, reference
from test_training import make_config, quiet, write_fields

from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.card import load_model, save_model
from piadm_hpc.models.config import NetworkConfig
from piadm_hpc.models.denoiser import GaussianDenoiser
from piadm_hpc.models.gate import Gate, bands_of
from piadm_hpc.models.networks.unet import GridUNet
from piadm_hpc.models.packing import pack_gate, unpack_gate
from piadm_hpc.models.phase_denoiser import PhaseDenoiser
from piadm_hpc.models.record import read_card
from piadm_hpc.models.training.evaluation import denoising_table, time_of
from piadm_hpc.models.training.fields import train
from piadm_hpc.theory.bases import EOF
from piadm_hpc.theory.process import OU, PSLD

SHAPE = (8, 16)
LEVELS = (-6.0, -2.0, 2.0, 6.0)


def even_gate(factor: float) -> Gate:
    """One factor for all levels and shells."""
    return Gate(torch.zeros(1, dtype=F64), torch.full((1, 1), factor, dtype=F64))


def noisy_denoiser(size: float = 0.3, gaussian: GaussianReference | None = None) -> GaussianDenoiser:
    """A denoiser whose network adds what has nothing to do with the states that are missing."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        sizes = NetworkConfig(width=8, multipliers=(1,), embedding=8, static_maps=1, dropout=0.0)
        network = GridUNet(2, 1, torch.linspace(-80, 80, 8), 16, True, sizes)
        for weights in network.head.parameters():
            torch.nn.init.normal_(weights, std=size)
    return GaussianDenoiser(OU(), make_reference() if gaussian is None else gaussian, network.eval().requires_grad_(False))


def drawn(denoiser: GaussianDenoiser, count: int) -> torch.Tensor:
    """States of the denoiser's own Gaussian, of which no network can explain more than its Wiener filter."""
    white = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=F64)
    one = torch.ones((), dtype=F64)
    return denoiser.reference.draw(white, one, 0 * one)


def test_a_gate_passes_through_its_factors_without_kinks_and_is_constant_beyond() -> None:
    gate = Gate(torch.tensor([-2.0, 0.0, 1.0], dtype=F64), torch.tensor([[0.0, 1.0], [0.25, 0.5], [1.0, 0.5]], dtype=F64))
    ends = gate.at(torch.tensor([-9.0, -2.0, 0.0, 1.0, 30.0], dtype=F64))
    assert torch.equal(ends[:, 0], torch.tensor([0, 0, 0.25, 1, 1], dtype=F64)) and float(ends[1, 1]) == 1
    assert float(gate.at(torch.tensor([-1.0], dtype=F64))[0, 0]) == pytest.approx(0.125)
    fine = torch.linspace(-3, 2, 5001, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(gate.at(fine)[:, 0].sum(), fine)
    assert float(slope.min()) >= 0 and float(slope.diff().abs().max()) < 0.01, "it has a continuous derivative"
    assert torch.equal(even_gate(0.5).at(fine), torch.full((5001, 1), 0.5, dtype=F64))
    for levels, factor in (([0.0, 0.0], [[1.0], [1.0]]), ([0.0], [[1.5]]), ([0.0, 1.0], [[1.0]]), ([0.0], [1.0])):
        with pytest.raises(ValueError, match="levels must increase, with a row of factors between 0 and 1 for each"):
            Gate(torch.tensor(levels), torch.tensor(factor))


def test_bands_hold_every_shell_once_and_a_tail_stays_alone() -> None:
    bands = bands_of(torch.tensor([1.0] * 40 + [9000.0, 0.0]))
    assert torch.equal(bands.sum(0), torch.ones(42, dtype=F64))
    assert bands[:-2].sum(1).tolist() == [8, 8, 8, 12, 4] and bands[-2].nonzero().tolist() == [[40]]
    assert len(bands_of(torch.ones(3))) == 1


@pytest.mark.parametrize("phase", [False, True])
def test_a_gate_of_zero_is_the_wiener_filter_and_others_scale_what_the_network_adds(phase: bool) -> None:
    t = torch.tensor([0.01, 0.3, 0.8], dtype=F64)
    full = PhaseDenoiser(PSLD(SPACE), reference(), loud_network()) if phase else noisy_denoiser()
    x = torch.randn(3, *((2,) if phase else ()), *SHAPE, generator=torch.Generator().manual_seed(3), dtype=F64)
    alone = full.without_network()
    shells = torch.full((1, full.reference.basis.num_shells), 0.25, dtype=F64)
    assert float((full.score(x, t) - alone.score(x, t)).abs().max()) > 1e-3
    assert torch.equal(replace(full, gate=even_gate(0.0)).score(x, t), alone.score(x, t))
    assert torch.equal(replace(full, gate=even_gate(1.0)).score(x, t), full.score(x, t))
    for gate in (even_gate(0.25), Gate(torch.zeros(1, dtype=F64), shells)):
        for name in ("score", "__call__"):
            ends = [getattr(denoiser, name)(x, t) for denoiser in (alone, replace(full, gate=gate), full)]
            assert torch.allclose(ends[1], torch.lerp(ends[0], ends[2], 0.25), atol=1e-8)


def test_a_gate_keeps_what_the_network_adds_in_some_shells_alone() -> None:
    modes = torch.linalg.qr(torch.randn(128, 3, generator=torch.Generator().manual_seed(0), dtype=F64))[0]
    gaussian = GaussianReference(torch.zeros(128, dtype=F64), EOF(modes, SHAPE), torch.tensor([9.0, 4.0, 2.0, 0.1], dtype=F64))
    full = noisy_denoiser(gaussian=gaussian)
    part = replace(full, gate=Gate(torch.zeros(1, dtype=F64), torch.tensor([[0.0, 1.0, 0.0, 0.5]], dtype=F64)))
    t, x = torch.full((5,), 0.3, dtype=F64), drawn(full, 5)
    added, kept = ((each(x, t) - full.without_network()(x, t)).flatten(1) for each in (full, part))
    assert torch.allclose(kept @ modes, (added @ modes) * torch.tensor([0.0, 1.0, 0.0]), atol=1e-12)
    rest = [each - each @ modes @ modes.T for each in (kept, added)]
    assert torch.allclose(rest[0], rest[1] / 2) and float(rest[1].abs().max()) > 1e-3


def test_a_network_that_explains_nothing_is_taken_back() -> None:
    denoiser = noisy_denoiser()
    table = denoising_table(denoiser, drawn(denoiser, 64), LEVELS)
    assert max(table.ratios) > 1.2 and float(table.gate.factor.mean()) < 0.1
    assert max(table.with_gate().ratios) <= 1.0


def test_errors_with_a_gate_are_those_of_the_gated_denoiser() -> None:
    """On states that the network is half right about at one level of noise."""
    denoiser = noisy_denoiser(0.1)
    states = drawn(denoiser, 24)
    t = time_of(denoiser.process, torch.full((24,), 2.0))
    x = denoiser.noised(states, t, denoiser.white(states, torch.Generator().manual_seed(0)))
    states = states + 0.5 * (denoiser(x, t) - denoiser.without_network()(x, t))
    table = denoising_table(denoiser, states, LEVELS)
    assert 0 < float(table.gate.factor.max()) <= 1
    gated = denoising_table(replace(denoiser, gate=table.gate), states, LEVELS)
    assert np.allclose(gated.denoiser, table.gated, rtol=1e-6)
    assert all(with_gate <= alone for with_gate, alone in zip(table.gated, table.gaussian, strict=True))


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
    assert max(model.card["scores"]["validation"]["ratio"]) <= 1.0
    assert float(model.denoiser.gate.factor.min()) < 0.5, "some of what was learned by heart is taken back"


def test_the_gate_is_part_of_what_a_model_is(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "small")
    old = load_model(folder)
    assert old.denoiser is not None and old.denoiser.gate is None
    x, t = torch.randn(3, *SHAPE, dtype=F64), torch.tensor([0.1, 0.5, 0.9])

    def stored(gate: Gate) -> Path:
        assert old.denoiser is not None and old.denoiser.network is not None
        card, coordinates = read_card(folder / "card.toml"), old.layout.coordinates
        parts = old.reference, old.normalisation, coordinates, old.denoiser.network
        return save_model(folder, card, *parts, extra=pack_gate(gate))

    new = load_model(stored(even_gate(0.5)))
    assert old.sha256 != new.sha256
    halfway = torch.lerp(old.wiener().score(x, t), old.score(x, t), 0.5)
    assert torch.allclose(new.score(x, t), halfway, atol=1e-9)
    assert torch.equal(new.wiener().score(x, t), old.wiener().score(x, t))
    two = pack_gate(Gate(torch.zeros(1, dtype=F64), torch.ones(1, 2, dtype=F64)))
    with pytest.raises(ValueError, match="gate_factor has 2 shells, the reference 6"):
        unpack_gate(two, 6)
