"""U-Nets of diffusers as foreign networks: read from a local folder without running code from it, and called with conditions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .loaded import LoadedNetwork, in_one_line, precision_of

CLASSES = ("UNet2DModel", "UNet2DConditionModel")


def load_unet(path: Path, device: torch.device | str, dtype: str) -> LoadedNetwork:
    """Load a U-Net's folder, or that of a pipeline; ValueError for what diffusers cannot load or this package cannot call.

    Maps of a condition are appended to the channels of the states; a class is the U-Net's label, and an embedding the input of
    its cross-attention.
    """
    try:
        import diffusers
    except ImportError:
        raise ValueError(f"{path}: a diffusers folder needs the package: pip install diffusers") from None
    path = path / "unet" if (path / "model_index.json").is_file() else path
    # without safetensors diffusers reads a .bin file with torch.load(weights_only=True), which runs no code either
    safe = any(path.glob("*.safetensors"))
    precision = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    try:
        name = str(json.loads((path / "config.json").read_text(encoding="utf-8")).get("_class_name", "UNet2DModel"))
        kind: Any = getattr(diffusers, name if name in CLASSES else "UNet2DModel")
        unet = kind.from_pretrained(
            str(path), local_files_only=True, use_safetensors=safe, low_cpu_mem_usage=False, torch_dtype=precision
        )
        unet = unet.to(device).eval()
    except Exception as error:
        raise ValueError(f"{path}: diffusers cannot load a {' or '.join(CLASSES)} from it: {in_one_line(error)}") from error
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()))
    return LoadedNetwork(_caller(unet, attends=name == "UNet2DConditionModel"), precision_of(unet), digest.hexdigest())


def _caller(unet: Any, *, attends: bool) -> Callable[..., Tensor]:
    """The U-Net as a function of states, times and a condition; ValueError for inputs that it needs or does not take."""
    taken = {"maps", "classes", *(["embedding"] if attends else [])}

    def call(x: Tensor, t: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        given = given or {}
        if attends and "embedding" not in given:
            raise ValueError('a UNet2DConditionModel needs an input of kind = "embedding", what its cross-attention looks at')
        if surplus := set(given) - taken:
            raise ValueError(f"this U-Net takes no {', '.join(sorted(surplus))}; give such a network as a callable")
        states = torch.cat([x, given["maps"]], 1) if "maps" in given else x
        inputs = {"encoder_hidden_states": given["embedding"]} if attends else {}
        result: Tensor = unet(states, t, class_labels=given.get("classes"), **inputs).sample
        return result

    return call
