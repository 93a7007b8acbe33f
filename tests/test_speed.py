"""A compiled or bfloat16 network: only the network is rounded, not the Gaussian part; without settings it is unchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from piadm_hpc import load_model
from piadm_hpc.config.run import INDEPENDENT_KEYS, RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.models.card import Model
from piadm_hpc.models.compiled import with_compilation
from piadm_hpc.run.resolve import make_sampler


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("ccsm-temperature")


def states(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, *model.event_shape, generator=torch.Generator().manual_seed(1)), torch.tensor([2.0, 0.05])


def test_without_settings_it_is_the_model_itself(model: Model) -> None:
    assert with_compilation(model) is model


def test_bfloat16_rounds_what_the_network_adds_and_nothing_else(model: Model) -> None:
    x, t = states(model)
    lower = with_compilation(model, autocast="bfloat16")
    assert model.denoiser is not None and lower.denoiser is not None
    linear = model.denoiser.without_network()(x, t)
    exact, rounded = model.denoiser(x, t) - linear, lower.denoiser(x, t) - linear
    away = float((rounded - exact).norm() / exact.norm())
    assert 1e-4 < away < 0.05
    assert lower.denoiser(x, t).dtype == torch.float32 and torch.equal(lower.denoiser.without_network()(x, t), linear)


def test_networks_of_other_packages_are_left_to_them(model: Model) -> None:
    with pytest.raises(ConfigError, match="network of another package"):
        with_compilation(replace(model, denoiser=None), autocast="bfloat16")


def test_compilation_is_asked_for_in_the_mode_given(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation takes minutes on a processor, so that another function takes the place of the compiler."""
    asked: list[dict[str, Any]] = []

    def stand_in(network: torch.nn.Module, **options: Any) -> torch.nn.Module:
        asked.append(options)
        return network

    monkeypatch.setattr(torch, "compile", stand_in)
    x, t = states(model)
    assert torch.equal(with_compilation(model, compile_mode="reduce-overhead").score(x, t), model.score(x, t))
    assert asked == [{"mode": "reduce-overhead"}]


def test_a_run_asks_for_it_by_its_settings(model: Model) -> None:
    x, t = states(model)
    sampler = make_sampler(RunConfig(model="ccsm-temperature", compute={"autocast": "bfloat16"}), model)
    assert torch.equal(sampler.score(x, t), with_compilation(model, autocast="bfloat16").score(x, t))
    # a run may go on compiled, but not in another precision
    assert "compute.compile" in INDEPENDENT_KEYS and "compute.autocast" not in INDEPENDENT_KEYS
