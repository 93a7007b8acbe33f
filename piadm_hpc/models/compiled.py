"""Lower precision and compilation of a model's network, both of them options of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..config.validation import ConfigError
from .card import Model
from .denoiser import DenoiserScore

Autocast = Literal["off", "bfloat16"]
Compile = Literal["off", "default", "reduce-overhead"]


class CompiledNetwork(nn.Module):
    """A network of fields [rows, ...] and log-SNR [rows] under autocast, compiled, or both, with the same parameters."""

    def __init__(self, network: nn.Module, *, autocast: Autocast, compile_mode: Compile):
        super().__init__()
        self.network, self.autocast = network, autocast
        self.call = network if compile_mode == "off" else torch.compile(network, mode=compile_mode)

    def forward(self, fields: Tensor, log_snr: Tensor) -> Tensor:
        with torch.autocast(fields.device.type, dtype=torch.bfloat16, enabled=self.autocast == "bfloat16"):
            result: Tensor = self.call(fields, log_snr)
        return result


def with_compilation(model: Model, *, autocast: Autocast = "off", compile_mode: Compile = "off") -> Model:
    """Return the model with its network compiled or under autocast, or the model itself where neither is asked for.

    Everything around the network keeps the precision of the states: the Gaussian part, which makes up most of a denoised
    estimate, is not rounded. `reduce-overhead` records one CUDA graph for every number of rows in a call. Raises ConfigError for
    networks of other packages.
    """
    if autocast == "off" and compile_mode == "off":
        return model
    whole = model.denoiser
    if whole is None:
        raise ConfigError(f"compute.autocast, compute.compile: {model.name} is a network of another package; compile it there")
    if whole.network is None:
        return model
    network = CompiledNetwork(whole.network, autocast=autocast, compile_mode=compile_mode)
    denoiser = replace(whole, network=network)
    return replace(model, denoiser=denoiser, score=DenoiserScore(denoiser))
