"""Checkpoints of physicsnemo (.mdlus) as foreign networks: their classes, how they are called, and the settings they imply."""

from __future__ import annotations

import inspect
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.validation import ConfigError, build
from ..store.files import digest
from .adapter_condition import ConditionSpec, Tree
from .adapter_config import AdapterConfig
from .loaded import LoadedNetwork, in_one_line, precision_of

BACKBONES = ("SongUNet", "SongUNetPosEmbd", "SongUNetPosLtEmbd", "DhariwalUNet", "DiT")
# networks D(x; sigma) of the clean field
DENOISERS = ("EDMPrecond", "EDMPreconditioner", "EDMPrecondSuperResolution", "EDMPrecondSR", "VEPrecond", "VPPrecond")
REGRESSIONS = ("CorrDiffRegressionUNet", "UNet", "StormCastUNet")
ACCEPTED = (*DENOISERS, *REGRESSIONS, *BACKBONES, "ConcatConditionWrapper")
PACKAGES = ("physicsnemo", "modulus")  # its former name
LARGEST = 1 << 20  # bytes of the arguments of a network
# noise levels of Karras et al. (2022, 2206.00364), for checkpoints that do not limit them
HIGHEST, LOWEST = 80.0, 0.002


def load_mdlus(path: Path, device: torch.device | str, spec: ConditionSpec | None) -> LoadedNetwork:
    """Load a checkpoint and return it as a function of states, times and a condition.

    ValueError for a file that names classes other than physicsnemo's diffusion networks, or cannot be loaded. Only those are
    instantiated, and weights are read by torch's loader that accepts weights only.
    """
    module = _module(path, device)
    labels = spec.of_kind("class")[0].classes if spec is not None and spec.of_kind("class") else 0
    return LoadedNetwork(_caller(module, labels), precision_of(module), digest(path))


def load_regression(path: Path, device: torch.device | str, width: int) -> tuple[Callable[[Tree], Tensor], str]:
    """Load a regression of `width` channels on maps: a function of an encoded condition, and the file's digest.

    As in CorrDiff the network is called with zeros for the states.
    """
    module = _module(path, device)
    if "img_lr" not in inspect.signature(type(module).forward).parameters:
        raise ValueError(f"{path}: {type(module).__name__} is no regression on maps; accepted is {REGRESSIONS[0]}")

    def call(given: Tree) -> Tensor:
        maps = given["maps"].to(device)
        with torch.no_grad():
            mean: Tensor = module(maps.new_zeros(len(maps), width, *maps.shape[2:]), img_lr=maps)
        return mean

    return call, digest(path)


def with_checkpoint(config: AdapterConfig, path: Path, source: Path) -> AdapterConfig:
    """Complete an adapter from the arguments in its checkpoint: prediction, time, schedule, and the variance of clean states.

    Raises ConfigError where `source`, the adapter's own file, says otherwise.
    """
    arguments = read_arguments(path)
    if arguments["__name__"] not in DENOISERS:
        return config
    given: dict[str, Any] = arguments["__args__"]
    implied = {"network": {"predicts": "x0", "time": "sigma"}, "schedule": {"kind": "edm"}}
    contradictions = [
        f"{section}.{key} = {getattr(own, key)!r}, the checkpoint's {arguments['__name__']} has {value!r}"
        for section, own in (("network", config.network), ("schedule", config.schedule))
        for key, value in implied[section].items()
        if key in own.model_fields_set and getattr(own, key) != value
    ]
    if contradictions:
        raise ConfigError(f"{source} contradicts {path}: {'; '.join(contradictions)}; leave these keys out")
    values = config.model_dump(exclude_unset=True)
    ends = {
        "horizon": min(float(given.get("sigma_max") or HIGHEST), HIGHEST),
        "delta": max(float(given.get("sigma_min") or LOWEST), LOWEST),
    }
    values["schedule"] = ends | implied["schedule"] | values.get("schedule", {})
    values["network"] = implied["network"] | values["network"]
    values.setdefault("variance", float(given.get("sigma_data", 0.5)) ** 2)
    return build(AdapterConfig, values, f"{source} with {path}")


def read_arguments(path: Path) -> dict[str, Any]:
    """Read the arguments of a checkpoint's network and those of the networks in it; ValueError unless all are accepted.

    Nothing is imported or unpickled.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such network; paths in adapter.toml start at its folder")
    try:
        arguments = json.loads(_member(path, "args.json"))
        found = list(_networks(arguments))
        if not isinstance(arguments, dict) or arguments not in found:
            raise ValueError("args.json does not describe a network")
    except (OSError, ValueError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a checkpoint of physicsnemo: {in_one_line(error)}") from None
    named = [(str(one["__module__"]), str(one["__name__"])) for one in found]
    named += [("physicsnemo", str(one["__args__"]["model_type"])) for one in found if "model_type" in one["__args__"]]
    strange = [f"{place}.{name}" for place, name in named if place.split(".")[0] not in PACKAGES or name not in ACCEPTED]
    if strange:
        raise ValueError(
            f"{path}: names {', '.join(strange)}, and loading it would run that code; accepted are physicsnemo's "
            f"{', '.join(ACCEPTED)}; give any other network as a callable"
        )
    return arguments


def _networks(arguments: Any) -> Iterator[dict[str, Any]]:
    """Every description of a network within the arguments of a checkpoint."""
    if not isinstance(arguments, dict):
        return
    if "__module__" in arguments or "__name__" in arguments:
        if not {"__module__", "__name__", "__args__"} <= set(arguments) or not isinstance(arguments["__args__"], dict):
            raise ValueError("args.json lacks a module, a name or arguments")
        yield arguments
    for part in arguments.values():
        yield from _networks(part)


def _member(path: Path, name: str) -> bytes:
    """A small file within a checkpoint, which is a zip file or, from older versions, a tar file."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as old:
            places = [member for member in old.getmembers() if Path(member.name).name == name and member.isfile()]
            content = old.extractfile(places[0]) if len(places) == 1 else None
            if content is None:
                raise ValueError(f"it has no {name}, or several")
            return content.read(LARGEST)
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        return file.read(LARGEST)


def _module(path: Path, device: torch.device | str) -> Any:
    read_arguments(path)
    try:
        from physicsnemo import Module
    except Exception as error:
        advice = "pip install 'piadm_hpc[physicsnemo]', and a torchvision built for this torch"
        raise ValueError(
            f"{path}: a .mdlus file needs physicsnemo, whose import fails ({in_one_line(error)}): {advice}"
        ) from error
    try:
        return Module.from_checkpoint(str(path)).to(device).eval().requires_grad_(False)
    except Exception as error:
        raise ValueError(f"{path}: physicsnemo cannot load it: {in_one_line(error)}") from error


def _caller(module: Any, labels: int) -> Callable[..., Tensor]:
    """The module as a function of states, times and a condition, by the arguments that its class takes."""
    accepted = inspect.signature(type(module).forward).parameters
    if type(module).__name__ in BACKBONES:
        from physicsnemo.diffusion.utils import ConcatConditionWrapper

        module = ConcatConditionWrapper(module)

    def call(x: Tensor, t: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        given = given or {}
        maps, vector = given.get("maps"), _vector(given, labels, x)
        if "img_lr" in accepted:
            if vector is not None:
                raise ValueError(f"{type(module).__name__} takes maps alone, no scalars and no class")
            result: Tensor = module(x, maps, t)
        elif "condition" in accepted and "class_labels" in accepted:
            result = module(x, t, condition=maps, class_labels=vector)
        else:
            result = module(x, t, _joined(maps, vector))
        return result

    return call


def _vector(given: Mapping[str, Tensor], labels: int, x: Tensor) -> Tensor | None:
    """The class as a one-hot vector, zero for a label beyond it, followed by the scalars."""
    if "embedding" in given:
        raise ValueError('physicsnemo\'s U-Nets take no input of kind = "embedding"')
    parts = [given["scalars"].to(x)] if "scalars" in given else []
    if "classes" in given:
        label = given["classes"]
        parts.insert(0, (label[:, None] == torch.arange(labels, device=label.device)).to(x))
    return torch.cat(parts, 1) if parts else None


def _joined(maps: Tensor | None, vector: Tensor | None) -> Any:
    if vector is None:
        return maps
    from tensordict import TensorDict

    parts = {"cond_vec": vector} if maps is None else {"cond_concat": maps, "cond_vec": vector}
    return TensorDict(parts, batch_size=[len(vector)])
