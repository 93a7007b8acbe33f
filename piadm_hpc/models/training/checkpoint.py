"""Checkpoints of a training run: a folder with tensors and a JSON file, written under another name and then renamed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass
class TrainingState:
    """State of a training run: network, optimiser, moving average of the weights, and the best average so far."""

    network: nn.Module
    optimiser: torch.optim.AdamW
    average: Tensors
    best: Tensors
    step: int = 0
    best_step: int = 0
    best_score: float = float("inf")
    minutes: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, network: nn.Module, optimiser: torch.optim.AdamW) -> TrainingState:
        """The state before the first step."""
        return cls(network, optimiser, copied(network), copied(network))

    def numbers(self) -> dict[str, Any]:
        """The scalars of the state and the history of validation scores, for JSON."""
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "minutes": self.minutes,
            "history": self.history,
        }


def copied(network: nn.Module) -> Tensors:
    """A detached copy of the network's weights by name."""
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def put(network: nn.Module, weights: Tensors) -> None:
    """Load weights by name into a network of the same shape."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])


def save_checkpoint(folder: Path, state: TrainingState, config: dict[str, Any]) -> None:
    """Write the state to folder/step-N and remove older checkpoints; a run killed while writing keeps the older one."""
    target = folder / f"step-{state.step:08d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_tensors(state), partial / "tensors.safetensors")
    (partial / "state.json").write_text(json.dumps({"config": config, **state.numbers()}, indent=1))
    older = [path for path in _checkpoints(folder) if path != target]
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for path in older:
        shutil.rmtree(path)


def load_checkpoint(folder: Path, state: TrainingState, config: dict[str, Any]) -> bool:
    """Restore `state` from the newest checkpoint; False if there is none.

    Raises ValueError if the checkpoint was written with another configuration.
    """
    found = _checkpoints(folder)
    if not found:
        return False
    numbers = json.loads((found[-1] / "state.json").read_text())
    stored = numbers.pop("config")
    differing = sorted(key for key in stored.keys() | config.keys() if stored.get(key) != config.get(key))
    if differing:
        raise ValueError(
            f"{folder}: was started with another configuration (differing: {', '.join(differing)}); "
            "remove it to start afresh, or give the run another output"
        )
    tensors = load_file(found[-1] / "tensors.safetensors")
    put(state.network, _section(tensors, "network."))
    state.average, state.best = _section(tensors, "average."), _section(tensors, "best.")
    _restore_optimiser(state, _section(tensors, "adam."))
    for key, value in numbers.items():
        setattr(state, key, value)
    return True


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _tensors(state: TrainingState) -> Tensors:
    tensors = {f"network.{k}": v for k, v in copied(state.network).items()}
    tensors |= {f"average.{k}": v for k, v in state.average.items()} | {f"best.{k}": v.clone() for k, v in state.best.items()}
    for name, parameter in state.network.named_parameters():
        for key, value in state.optimiser.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = torch.as_tensor(value).detach().clone()
    return {k: v.contiguous() for k, v in tensors.items()}


def _section(tensors: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _restore_optimiser(state: TrainingState, tensors: Tensors) -> None:
    for name, parameter in state.network.named_parameters():
        kept = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors}
        if kept:
            state.optimiser.state[parameter] = kept
