"""A network of another package as a function of states and process times: found, loaded, called and checked.

Networks may work in place, need integer or scaled times, or have weights of lower precision; their output is checked before any
arithmetic.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import plugins
from ..config.validation import ConfigError
from ..schema.conditions import Condition, apply_to_leaves, matched, rows_of
from ..solvers.errors import ScoreError
from ..store.files import digest
from ..theory.process import Process
from .adapter_condition import ConditionSpec, Tree, arguments_of
from .adapter_config import AdapterConfig, NetworkFile, NetworkSpec, RegressionSpec
from .base import Network, checked
from .diffusers_unets import load_unet
from .fingerprint import fingerprint
from .loaded import LoadedNetwork, in_one_line, precision_of, with_arguments
from .mdlus import load_mdlus, load_regression

logger = logging.getLogger(__name__)

ADAPTER = "adapter.toml"
TOLERANCE = 5e-4  # relative difference that rounding may make between two calls with the same row


def find_network(
    spec: NetworkSpec,
    folder: Path,
    device: torch.device | str,
    condition: ConditionSpec | None = None,
    *,
    allow_code: bool = False,
) -> LoadedNetwork:
    """Load the network that an adapter names.

    Raises ConfigError for code that is not allowed to run or cannot be imported, ValueError for files that are missing or
    damaged. A diffusers folder and a checkpoint of physicsnemo are read without running code from them: safetensors, else
    weights alone.
    """
    require_allowed(spec, "network", folder, allow_code=allow_code)
    if spec.callable is not None:
        return _imported(spec.callable, folder, device)
    if spec.mdlus is not None:
        return load_mdlus(folder / spec.mdlus, device, condition)
    if spec.exported is not None:
        return _exported(_existing(folder / spec.exported), device)
    return load_unet(_existing(folder / str(spec.diffusers)), device, spec.dtype)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path}: no such network; paths in {ADAPTER} start at its folder")
    return path


def require_allowed(spec: NetworkFile, section: str, folder: Path, *, allow_code: bool) -> None:
    """Raise ConfigError for a network whose loading runs code of the folder's choice, unless that is allowed."""
    key = spec.runs_code
    if key is None or allow_code:
        return
    what = "imports a module" if key == "callable" else "unpickles a file, which can run any code"
    raise ConfigError(
        f"{folder / ADAPTER}: {section}.{key} = {getattr(spec, key)!r} {what}, so whoever wrote this folder chooses code "
        "that runs here; if you trust them, say so: --allow-code, allow_code = true in the run, or load_model(..., "
        "allow_code=True)"
    )


def load_mean(
    spec: RegressionSpec, width: int, folder: Path, device: torch.device | str, *, allow_code: bool = False
) -> tuple[Callable[[Tree], Tensor], str]:
    """Load the regression of an adapter, as a function of an encoded condition that returns means, and its digest.

    Raises what `find_network` raises.
    """
    require_allowed(spec, "regression", folder, allow_code=allow_code)
    if spec.mdlus is not None:
        return load_regression(folder / spec.mdlus, device, width)
    if spec.callable is not None:
        loaded = _imported(spec.callable, folder, device, "regression")
    else:
        loaded = _exported(_existing(folder / str(spec.exported)), device)

    def call(given: Tree) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(loaded.call({key: part.to(device) for key, part in given.items()}))

    return call, loaded.sha256


def _imported(name: str, folder: Path, device: torch.device | str, section: str = "network") -> LoadedNetwork:
    key = f"{section}.callable"
    try:
        network = plugins.load(key, name)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{folder / ADAPTER}: {key} = {name!r}: its module fails: {in_one_line(error)}") from error
    if isinstance(network, type):
        raise ConfigError(f"{folder / ADAPTER}: {key} = {name!r} is a class; name an instance of it, or a function")
    if isinstance(network, torch.nn.Module):
        network = network.to(device).eval()
    sha256, unseen = fingerprint(network)
    if unseen:
        logger.info("%s: a later change of %s would not be noticed", name, ", ".join(unseen))
    return LoadedNetwork(with_arguments(network), precision_of(network), sha256)


def _exported(path: Path, device: torch.device | str) -> LoadedNetwork:
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise ValueError(f"{path}: not a file of torch.export that this version of torch reads: {in_one_line(error)}") from error
    network: torch.nn.Module = program.module().to(device)
    return LoadedNetwork(with_arguments(network), precision_of(network), digest(path))


def as_network(loaded: LoadedNetwork, config: AdapterConfig, process: Process, mask: Tensor) -> Network:
    """Return the network as a function of states [rows, *event] and process times [rows], for `wrap` to call.

    That of a conditional model takes an encoded condition as well. Its output has been checked to be real and of the states'
    shape; it has the precision of the network.
    """
    spec = config.network
    precision = loaded.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)

    def call(x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        dtype = precision or x.dtype
        given = x.to(dtype)
        extra: tuple[Condition, ...] = (mask.to(given).expand(len(x), *mask.shape).clone(),) if spec.node_mask else ()
        extra += tuple(arguments_of(matched(one, given)) for one in condition)
        with torch.set_grad_enabled(torch.is_grad_enabled() and given.requires_grad):
            result = loaded.call(given, network_time(config, process, t, dtype), *extra)
        return checked(result, x, config.name)

    return call if spec.rows is None else _InBuckets(call, spec.rows)


def network_time(config: AdapterConfig, process: Process, t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the network's times, [rows], for process times t [rows] and states of precision `dtype`."""
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

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        parts = []
        for start in range(0, len(x), self.rows):
            here = slice(start, start + self.rows)
            short = self.rows - len(x[here])

            def padded(values: Tensor, short: int = short) -> Tensor:
                return torch.cat([values, values[-1:].expand(short, *values.shape[1:])])

            full = self.call(padded(x[here]), padded(t[here]), *(apply_to_leaves(rows_of(c, here), padded) for c in condition))
            parts.append(full[: len(x[here])].clone())
        return torch.cat(parts)


def try_network(network: Network, spec: NetworkSpec, states: Tensor, t: Tensor, source: Path, *condition: Condition) -> None:
    """Call a network on three states [3, *event] at their times t [3], two at a time, and refuse an unreliable one.

    That of a conditional model is called with a condition of three entries.

    A row must have the same result beside another row and in a second call. Raises ConfigError that explains the failure.
    """

    def answer(rows: list[int]) -> Tensor:
        try:
            given = [rows_of(one, torch.tensor(rows)) for one in condition]
            return network(states[rows], t[rows], *given)[0].to(torch.float64).clone()
        except ScoreError as error:
            raise ConfigError(f"{source}: {error}") from None
        except Exception as error:
            shape = list(states[rows].shape)
            traced = spec.exported is not None and spec.rows is None
            advice = "; a file that was traced for one number of rows needs network.rows, that number" if traced else ""
            raise ConfigError(
                f"{source}: the network fails when it is called with states {shape}: {in_one_line(error)}{advice}"
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
            f"{source}: the network returns different results for the same states; switch off what is random "
            "in it (dropout in training mode?)"
        )
    if differs(answer([0, 2])):
        raise ConfigError(
            f"{source}: the network's result for a state depends on the other states of the call (a normalisation over the batch "
            "in training mode?), so samples would depend on their batch"
        )
