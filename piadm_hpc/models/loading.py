"""Reading weights from a file into a network, with checks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..data.mistakes import few


def with_weights(path: Path, network: nn.Module) -> nn.Module:
    """Return the network with the weights of a file; ValueError naming those that are missing, misshapen or not finite."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    wanted = dict(network.named_parameters())
    mistakes = [f"no weight {name}" for name in wanted.keys() - weights.keys()]
    mistakes += [f"unknown weight {name}" for name in weights.keys() - wanted.keys()]
    for name in wanted.keys() & weights.keys():
        if weights[name].shape != wanted[name].shape:
            mistakes.append(f"{name} is {tuple(weights[name].shape)}, the card's network needs {tuple(wanted[name].shape)}")
        elif not bool(torch.isfinite(weights[name]).all()):
            mistakes.append(f"{name} has values that are not finite")
    if mistakes:
        raise ValueError(f"{path}: {few(sorted(mistakes), 8, separator='; ')}")
    network.load_state_dict(weights, strict=False)
    return network.eval().requires_grad_(False)
