"""A network of another package as a function of states and process times: found, loaded, called and checked.

Networks may work in place, want whole or scaled times, or have weights of lower precision; what they return is checked before
it enters any arithmetic.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import plugins
from ..config.validation import ConfigError
from ..solvers.errors import ScoreError
from ..theory.process import Process
from .adapter_config import AdapterConfig, NetworkSpec
from .base import Network, checked
from .fingerprint import fingerprint

logger = logging.getLogger(__name__)

ADAPTER = "adapter.toml"
TOLERANCE = 5e-4  # relative difference that rounding may make between two calls with the same row


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that was loaded: the function to call, the precision of its weights (None without any), and its digest."""

    call: Callable[..., Any]
    dtype: torch.dtype | None
    sha256: str


def find_network(spec: NetworkSpec, folder: Path, device: torch.device | str, *, allow_code: bool = False) -> LoadedNetwork:
    """Load the network that an adapter names.

    Raises ConfigError for code that is not allowed to run or cannot be imported, ValueError for files that are missing or
    damaged. A diffusers folder is read without running code from it: safetensors, else weights alone.
    """
    if spec.runs_code is not None and not allow_code:
        key = spec.runs_code
        what = "imports a module" if key == "callable" else "unpickles a file, which can run any code"
        raise ConfigError(
            f"{folder / ADAPTER}: network.{key} = {getattr(spec, key)!r} {what}, so whoever wrote this folder chooses code "
            "that runs here; if you trust them, say so: --allow-code, allow_code = true in the run, or load_model(..., "
            "allow_code=True)"
        )
    if spec.callable is not None:
        return _imported(spec.callable, folder, device)
    path = folder / str(spec.diffusers or spec.exported)
    if not path.exists():
        raise ValueError(f"{path}: no such network; paths in {ADAPTER} start at its folder")
    return _exported(path, device) if spec.diffusers is None else _unet(path, device, spec.dtype)


def _imported(name: str, folder: Path, device: torch.device | str) -> LoadedNetwork:
    try:
        network = plugins.load("network.callable", name)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{folder / ADAPTER}: network.callable = {name!r}: its module fails: {_named(error)}") from error
    if isinstance(network, type):
        raise ConfigError(f"{folder / ADAPTER}: network.callable = {name!r} is a class; name an instance of it, or a function")
    if isinstance(network, torch.nn.Module):
        network = network.to(device).eval()
    digest, unseen = fingerprint(network)
    if unseen:
        logger.info("%s: a later change of %s would not be noticed", name, ", ".join(unseen))
    return LoadedNetwork(network, _precision(network), digest)


def _exported(path: Path, device: torch.device | str) -> LoadedNetwork:
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise ValueError(f"{path}: not a file of torch.export that this version of torch reads: {_named(error)}") from error
    network: torch.nn.Module = program.module().to(device)
    return LoadedNetwork(network, _precision(network), hashlib.sha256(path.read_bytes()).hexdigest())


def _unet(path: Path, device: torch.device | str, dtype: str) -> LoadedNetwork:
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise ValueError(f"{path}: a diffusers folder needs the package: pip install diffusers") from None
    path = path / "unet" if (path / "model_index.json").is_file() else path
    kind: Any = UNet2DModel
    # without safetensors diffusers reads a .bin file with torch.load(weights_only=True), which runs no code either
    safe = any(path.glob("*.safetensors"))
    precision = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    try:
        unet = kind.from_pretrained(
            str(path), local_files_only=True, use_safetensors=safe, low_cpu_mem_usage=False, torch_dtype=precision
        )
        unet = unet.to(device).eval()
    except Exception as error:
        raise ValueError(f"{path}: diffusers cannot load a UNet2DModel from it: {_named(error)}") from error
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()))
    return LoadedNetwork(lambda x, t: unet(x, t).sample, _precision(unet), digest.hexdigest())


def _precision(network: Any) -> torch.dtype | None:
    """The precision that all floating weights of a module share; None for functions and for mixed precisions."""
    if not isinstance(network, torch.nn.Module):
        return None
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None


def as_network(loaded: LoadedNetwork, config: AdapterConfig, process: Process, mask: Tensor) -> Network:
    """Return the network as a function of states [rows, *event] and process times [rows], for `wrap` to call.

    What it returns has been checked to be real numbers of the states' shape; they have the precision of the network.
    """
    spec = config.network
    precision = loaded.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)

    def call(x: Tensor, t: Tensor) -> Tensor:
        dtype = precision or x.dtype
        given = x.to(dtype)
        extra = (mask.to(given).expand(len(x), *mask.shape).clone(),) if spec.node_mask else ()
        with torch.set_grad_enabled(torch.is_grad_enabled() and given.requires_grad):
            result = loaded.call(given, network_time(config, process, t, dtype), *extra)
        return checked(result, x, config.name)

    return call if spec.rows is None else _InBuckets(call, spec.rows)


def network_time(config: AdapterConfig, process: Process, t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the network takes as its time, [rows], for process times t [rows] and states of precision `dtype`."""
    spec, t = config.network, t.to(torch.float64)
    if spec.time == "fraction":
        time = t / (config.schedule.count or 1)
    elif spec.time == "log-snr":
        time = 2 * torch.log(process.alpha(t) / process.sigma(t))
    else:
        time = process.sigma(t) if spec.time == "sigma" else t
    if spec.time_dtype == "int64":
        return time.round().to(torch.int64)
    if spec.time_dtype != "auto":
        dtype = getattr(torch, spec.time_dtype)
    elif dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32  # eight or eleven bits do not hold an index of a thousand
    return (time * spec.time_scale).to(dtype)


@dataclass(frozen=True)
class _InBuckets:
    """Calls with exactly `rows` states each, for a network that was traced for one number of rows; the last is padded."""

    call: Network
    rows: int

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        parts = []
        for start in range(0, len(x), self.rows):
            a, b = x[start : start + self.rows], t[start : start + self.rows]
            short = self.rows - len(a)
            full = self.call(torch.cat([a, a[-1:].expand(short, *a.shape[1:])]), torch.cat([b, b[-1:].expand(short)]))
            parts.append(full[: len(a)].clone())
        return torch.cat(parts)


def try_network(network: Network, spec: NetworkSpec, states: Tensor, t: Tensor, source: Path) -> None:
    """Call a network on three states [3, *event] at their times t [3], two at a time, and refuse one that cannot be relied on.

    A row must have the same answer beside another row and in a second call. Raises ConfigError saying what went wrong.
    """

    def answer(rows: list[int]) -> Tensor:
        try:
            return network(states[rows], t[rows])[0].to(torch.float64).clone()
        except ScoreError as error:
            raise ConfigError(f"{source}: {error}") from None
        except Exception as error:
            shape = list(states[rows].shape)
            traced = spec.exported is not None and spec.rows is None
            advice = "; a file that was traced for one number of rows needs network.rows, that number" if traced else ""
            raise ConfigError(
                f"{source}: the network fails when it is called with states {shape}: {_named(error)}{advice}"
            ) from error

    first = answer([0, 1])
    size = first.square().mean().sqrt()
    limit = TOLERANCE * size

    def differs(other: Tensor) -> bool:
        return bool((other - first).square().mean().sqrt() > limit)

    if not bool(torch.isfinite(first).all()):
        raise ConfigError(f"{source}: the network returns numbers that are not finite at time {float(t[0]):.6g} of the schedule")
    if differs(answer([0, 1])):
        raise ConfigError(
            f"{source}: the network answers differently when it is called twice with the same states; switch off what is random "
            "in it (dropout in training mode?)"
        )
    if differs(answer([0, 2])):
        raise ConfigError(
            f"{source}: the network's answer for a state depends on the other states of the call (a normalisation over the batch "
            "in training mode?), so samples would depend on their batch"
        )


def _named(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
