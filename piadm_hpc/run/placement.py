"""Where a run takes place: how many ranks share a sample, threads, the device, the model on it, and the folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from ..comm.communicator import RankGrid
from ..config.run import INDEPENDENT_KEYS, MOST_THREADS, RunConfig
from ..config.validation import ConfigError, without_none
from ..host.launcher import LOCAL_RANKS, first_number, ranks_here
from ..models.card import Model, load_model
from ..solvers.sampler import Sampler
from ..store import Store, global_attributes
from .build import make_sampler, require_points

T = TypeVar("T")


def everywhere(ranks: RankGrid, action: Callable[[], T]) -> T:
    """The action's result once it has succeeded on every rank; the first failure is raised on all of them, so nobody waits."""
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = error
    failures = [found for found in ranks.world.gather_objects(failure) if found is not None]
    if failures:
        raise failures[0]
    return cast(T, result)


def load(config: RunConfig, time_ranks: int) -> tuple[Model, Sampler]:
    """The model on this rank's device and the sampler a run describes. Raises ConfigError when they do not fit."""
    device = _device(config)
    model = load_model(config.model, device=device)
    sampler = make_sampler(config, model, device)
    require_points(config, sampler, time_ranks)
    return model, sampler


def count_time_ranks(config: RunConfig, size: int) -> int:
    """How many of `size` ranks share each sample's time axis: as given, or those left over when every sample has a rank."""
    if config.compute.time_ranks != "auto":
        return int(config.compute.time_ranks)
    if config.solver.kind == "sequential":
        return 1
    groups = max(n for n in range(1, size + 1) if size % n == 0 and n <= len(config.ids))
    return size // groups


def threads(config: RunConfig) -> int:
    """Threads per rank: as given, OMP_NUM_THREADS, or this rank's share of the cores."""
    if config.compute.threads != "auto":
        return int(config.compute.threads)
    given = os.environ.get("OMP_NUM_THREADS", "").strip()
    if given:
        if not given.isdecimal() or not 1 <= int(given) <= MOST_THREADS:
            raise ConfigError(
                f"OMP_NUM_THREADS={given}: give one whole number of threads from 1 to {MOST_THREADS}, or set compute.threads"
            )
        return int(given)
    return max(1, len(os.sched_getaffinity(0)) // ranks_here())


def _device(config: RunConfig) -> str:
    """The device as given, if it is there, or this rank's share of the host's GPUs."""
    given, seen = config.compute.device, torch.cuda.device_count() if torch.cuda.is_available() else 0
    if given != "auto":
        there = ["cpu", *["cuda"] * (seen > 0), *(f"cuda:{index}" for index in range(seen))]
        if given not in there:
            raise ConfigError(f"compute.device: no {given!r} on this host; give auto or {', '.join(there)}")
        return given
    if seen == 0:
        return "cpu"
    return f"cuda:{first_number(LOCAL_RANKS)[1] % seen}"


def open_store(config: RunConfig, model: Model, ranks: RankGrid, overwrite: bool, command: str) -> Store:
    """The run folder, made and locked by the root; an error there is raised on every rank."""
    values = without_none(config.model_dump(mode="json"))
    attributes = global_attributes(
        values,
        model_sha256=model.sha256,
        title=f"Samples of {model.name}",
        source=f"piadm_hpc, model {model.name}",
        seed=config.seed,
        command=command,
    )
    shape: dict[str, Any] = {
        "layout": model.layout,
        "samples": config.ids,
        "shard_size": config.output.batch,
        "attributes": attributes,
        "compression": config.output.compression,
    }
    if not ranks.root:
        return everywhere(ranks, lambda: Store.attach(config.out, **shape))
    return everywhere(
        ranks,
        lambda: Store.create(config.out, config=values, independent=INDEPENDENT_KEYS, overwrite=overwrite, **shape),
    )
