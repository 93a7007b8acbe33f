"""Noise schedules of other packages: their tables, their times, and the scheduler file of a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.validation import ConfigError, build
from ..theory.process import Process, Tabulated, by_name
from .adapter_config import AdapterConfig, ScheduleSpec

SCHEDULER = "scheduler_config.json"
KINDS = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
MOST_NOISE = 1e8  # sigma / alpha above which a float64 state contains no information on the data


def make_process(spec: ScheduleSpec, *, whole: bool = False) -> tuple[Process, tuple[float, float]]:
    """Return the process of a schedule and its times (horizon, delta); ConfigError naming the key that does not fit.

    With `whole` the times of a discrete schedule are whole indices.
    """
    if spec.count is None:
        absent = [f"schedule.{key}" for key in ("horizon", "delta") if getattr(spec, key) is None]
        if absent:
            raise ConfigError(
                f"{' and '.join(absent)}: schedule.kind = {spec.kind!r} needs schedule.horizon and schedule.delta, "
                "the times to start and to stop at"
            )
        process, last = by_name(spec.kind), {"flow": 1.0, "vp": 1.0}.get(spec.kind)
        horizon, delta = float(spec.horizon or 0), float(spec.delta or 0)
    else:
        # a schedule of zero terminal SNR has no signal at its last index, where a chain cannot start
        last = float(spec.count - 1 - spec.zero_snr)
        process = Tabulated.from_alphas_cumprod(alphas_cumprod(spec)[: int(last) + 1], whole=whole)
        first = 0.0 if whole else min(0.5, 0.5 * last)
        horizon = last if spec.horizon is None else spec.horizon
        delta = first if spec.delta is None else spec.delta
    _check_times(spec, process, horizon, delta, last)
    return process, (horizon, delta)


def _check_times(spec: ScheduleSpec, process: Process, horizon: float, delta: float, last: float | None) -> None:
    mistakes = []
    if not delta < horizon:
        mistakes.append(
            f"schedule.delta = {delta:g} must be less than schedule.horizon = {horizon:g}: time runs from noise to data"
        )
    if last is not None and horizon > last:
        mistakes.append(f"schedule.horizon = {horizon:g}: the times of schedule.kind = {spec.kind!r} end at {last:g}")
    if not mistakes:
        ends = torch.tensor([horizon, delta], dtype=torch.float64)
        alpha, sigma = process.alpha(ends), process.sigma(ends)
        if not float(alpha[0]) * MOST_NOISE > float(sigma[0]):
            mistakes.append(f"schedule.horizon = {horizon:g}: nothing of the data is left at that time; start earlier")
        if not float(sigma[1]) > 0:
            mistakes.append(f"schedule.delta = {delta:g}: there is no noise at that time; stop before it")
    if mistakes:
        raise ConfigError("; ".join(mistakes))


def alphas_cumprod(spec: ScheduleSpec) -> Tensor:
    """Return alpha^2 at every index of a discrete schedule, [N] float64."""
    count = spec.count or 0
    index = torch.arange(count, dtype=torch.float64)
    if spec.kind == "polynomial":
        return (1 - 2 * spec.precision) * (1 - (index / count) ** spec.power).square() + spec.precision
    if spec.kind == "cosine":
        edges = torch.arange(count + 1, dtype=torch.float64)
        kept = torch.cos((edges / count + 0.008) / 1.008 * torch.pi / 2).square()
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
    elif spec.kind == "betas":
        betas = torch.tensor(spec.betas, dtype=torch.float64)
    elif spec.kind == "linear":
        betas = torch.linspace(spec.beta_start, spec.beta_end, count, dtype=torch.float64)
    else:
        betas = torch.linspace(spec.beta_start**0.5, spec.beta_end**0.5, count, dtype=torch.float64).square()
    squared = torch.cumprod(1 - betas, 0)
    return _without_terminal_signal(squared) if spec.zero_snr else squared


def _without_terminal_signal(squared: Tensor) -> Tensor:
    """Shift and scale alpha so that it ends at zero and begins as before (Lin et al. 2024, algorithm 1)."""
    alpha = torch.sqrt(squared)
    return ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).square()


def with_scheduler(config: AdapterConfig, folder: Path, source: Path) -> AdapterConfig:
    """Complete a configuration from the scheduler file of its diffusers folder, where there is one.

    The keys of `source`, the adapter's own file, must agree with it. Raises ConfigError naming both values of every key that
    does not, and for a scheduler that this package does not know.
    """
    path = scheduler_file(folder)
    if path is None:
        return config
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable JSON file ({error})") from None
    schedule, network = _read_scheduler(stored, path)
    contradictions = [
        f"{section}.{key} = {getattr(given, key)!r}, the scheduler has {value!r}"
        for section, given, found in (("schedule", config.schedule, schedule), ("network", config.network, network))
        for key, value in found.items()
        if key in given.model_fields_set and not _same(getattr(given, key), value)
    ]
    if contradictions:
        raise ConfigError(
            f"{source} contradicts {path}: {'; '.join(contradictions)}; leave these keys out, and the scheduler's values "
            "are taken"
        )
    values = config.model_dump(exclude_unset=True)
    values["schedule"] = {**schedule, **values.get("schedule", {})}
    values["network"] = {**network, **values["network"]}
    return build(AdapterConfig, values, f"{source} with {path}")


def scheduler_file(unet: Path) -> Path | None:
    """The scheduler file that belongs to a U-Net's folder: in a pipeline beside it, or within the folder itself."""
    places = (unet.parent / "scheduler" / SCHEDULER, unet / SCHEDULER, unet / "scheduler" / SCHEDULER)
    return next((path for path in places if path.is_file()), None)


def _read_scheduler(stored: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of `schedule` and of `network` that a scheduler's configuration decides."""
    name, betas = str(stored.get("_class_name", "")), stored.get("trained_betas")
    if name.startswith("FlowMatch"):
        scale = float(stored.get("num_train_timesteps", 1000))
        return {"kind": "flow"}, {"predicts": "flow", "time": "process", "time_scale": scale}
    kind = "betas" if betas else KINDS.get(str(stored.get("beta_schedule", "linear")))
    predicts = PREDICTIONS.get(str(stored.get("prediction_type", "epsilon")))
    unknown = [
        f"{key} = {stored.get(key)!r}"
        for key, found in (("beta_schedule", kind), ("prediction_type", predicts), ("_class_name", "sigma_data" not in stored))
        if not found
    ]
    if str(stored.get("variance_type", "")).startswith("learned"):
        unknown.append(f"variance_type = {stored['variance_type']!r}")
    if unknown:
        raise ConfigError(
            f"{path}: {', '.join(unknown)} cannot be expressed here; give the network as a callable that predicts one of "
            "score, eps, x0, v and flow"
        )
    schedule: dict[str, Any] = {"kind": kind, "zero_snr": bool(stored.get("rescale_betas_zero_snr", False))}
    if kind == "betas":
        schedule["betas"] = tuple(map(float, betas or ()))
    else:
        schedule["steps"] = int(stored.get("num_train_timesteps", 1000))
    if kind in ("linear", "scaled-linear"):
        schedule |= {key: float(stored.get(key, default)) for key, default in (("beta_start", 1e-4), ("beta_end", 0.02))}
    return schedule, {"predicts": predicts, "time": "index"}


def _same(given: Any, found: Any) -> bool:
    if isinstance(given, float) and isinstance(found, float):
        return abs(given - found) <= 1e-6 * abs(found)
    return bool(given == found)
