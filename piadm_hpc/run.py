"""The composition root: a configuration becomes ranks, a model, a sampler, shards and an index."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch

from .build import make_sampler, require_points, resolve
from .comm import RankGrid, abort, launcher_size, rank_grid
from .config import INDEPENDENT_KEYS, RunConfig
from .grid import Block
from .models.card import Model, load_model
from .progress import Progress, Summary, set_up_logging
from .records import ConfigError, without_none
from .sampler import Sampler
from .solvers.stopping import BlockSolution
from .solving import BlockHook, Solution, Status
from .store import Store, global_attributes, open_run

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger("piadm_hpc")
STOP_FILE = "STOP"
SUMMARY_FILE = "summary.json"
PATIENCE = 2.0
T = TypeVar("T")


class StopRequested(Exception):
    """Somebody asked the run to stop; finished shards are kept and the same command goes on later."""


def sample(config: RunConfig, *, overwrite: bool = False) -> xr.Dataset:
    """Make the samples of a run and open them: collective over the ranks this process was launched with.

    Finished shards of the same run are kept. Raises ConfigError, StoreError, ScoreError or StopRequested.
    """
    execute(config, overwrite=overwrite)
    return open_run(Path(config.out) / "samples.h5")


def execute(config: RunConfig, *, overwrite: bool = False, command: str = "piadm_hpc.sample") -> Summary:
    """Make the samples of a run; the summary is the same on every rank."""
    ranks = rank_grid(time_ranks(config, launcher_size()[1]))
    torch.set_num_threads(threads(config))
    model, sampler = _everywhere(ranks, lambda: _load(config, ranks.time.size))
    config = resolve(config, model)
    store = _open_store(config, model, ranks, overwrite, command)
    try:
        set_up_logging(root=ranks.root, file=Path(config.out) / "log.txt")
        return _make_missing(config, model, sampler, store, ranks)
    except StopRequested:
        raise
    except Exception as error:
        if ranks.world.size > 1:
            # several ranks may hold this error or one of the same cause: a short wait lets one of them speak for all
            time.sleep(0 if ranks.root else PATIENCE)
            abort(f"piadm: {error}")
        raise
    finally:
        if ranks.root:
            store.close()


def _everywhere(ranks: RankGrid, action: Callable[[], T]) -> T:
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


def _load(config: RunConfig, on_time: int) -> tuple[Model, Sampler]:
    device = _device(config)
    model = load_model(config.model, device=device)
    sampler = make_sampler(config, model, device)
    require_points(config, sampler, on_time)
    return model, sampler


def time_ranks(config: RunConfig, size: int) -> int:
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
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return int(os.environ["OMP_NUM_THREADS"])
    names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
    local = next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), launcher_size()[1])
    return max(1, len(os.sched_getaffinity(0)) // local)


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
    names = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
    local = next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)
    return f"cuda:{local % seen}"


def _open_store(config: RunConfig, model: Model, ranks: RankGrid, overwrite: bool, command: str) -> Store:
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
        return _everywhere(ranks, lambda: Store.attach(config.out, **shape))
    return _everywhere(
        ranks,
        lambda: Store.create(config.out, config=values, independent=INDEPENDENT_KEYS, overwrite=overwrite, **shape),
    )


def _make_missing(config: RunConfig, model: Model, sampler: Sampler, store: Store, ranks: RankGrid) -> Summary:
    """Every group takes its share of what is missing; the root joins the shards."""
    began = time.perf_counter()
    missing = ranks.world.bcast_object([sample for batch in store.missing() for sample in batch] if ranks.root else None)
    batches = _batches(missing, config.output.batch, ranks.num_groups)
    _announce(config, sampler, ranks, len(missing))
    costs: list[Solution] = []
    writing, stopped = 0.0, False
    try:
        writing = _make(config, model, sampler, store, ranks, batches[ranks.group :: ranks.num_groups], costs)
    except StopRequested:
        stopped = True
    # groups come here at different batches; all of them stop when one of them was asked to
    stopped = float(ranks.world.max(torch.tensor([float(stopped)]))) > 0
    if ranks.root:
        (store.folder / STOP_FILE).unlink(missing_ok=True)
    if stopped:
        raise StopRequested(f"{config.out}/{STOP_FILE} was found: finished shards are kept, the same command goes on from there")
    if ranks.root:
        store.join()
    ranks.world.barrier()
    summary = _summary(sampler, ranks, costs, time.perf_counter() - began, writing)
    if ranks.root and summary.num_samples:
        (store.folder / SUMMARY_FILE).write_text(json.dumps(asdict(summary), indent=1), encoding="utf-8")
    return summary


def _make(
    config: RunConfig,
    model: Model,
    sampler: Sampler,
    store: Store,
    ranks: RankGrid,
    batches: list[list[int]],
    costs: list[Solution],
) -> float:
    """Solve and store this group's batches, adding what each cost; seconds spent writing. Raises StopRequested."""
    gaps, writing = _gaps(model), 0.0
    total = len(batches) * (len(sampler.chain.edges) - 1)
    with Progress(total, unit="blocks", interval=config.output.log_interval, enabled=ranks.root) as progress:
        for number, batch in enumerate(batches):
            hook = _block_hook(sampler, store, ranks, progress, f"batch {number + 1}/{len(batches)}")
            solution = sampler.draw(batch, comm=ranks.time, on_block=hook)
            # an ensemble of any size must fit: of what is stored, the costs alone stay in memory
            costs.append(replace(solution, x=solution.x[:0], state=solution.state[:0]))
            start = time.perf_counter()
            if ranks.writer:
                store.write(batch, model.decode(solution.x.cpu()), _per_sample(config, batch, solution), allow_nan=gaps)
            if ranks.root:
                store.heartbeat()
            writing += time.perf_counter() - start
            if number + 1 < len(batches):
                _stop_if_asked(store, ranks)
    return writing


def _batches(missing: list[int], size: int, groups: int) -> list[list[int]]:
    """Missing ids in batches of at most `size`, small enough that every group has one."""
    size = max(1, min(size, -(-len(missing) // groups)))
    return [missing[start : start + size] for start in range(0, len(missing), size)]


def _announce(config: RunConfig, sampler: Sampler, ranks: RankGrid, num_missing: int) -> None:
    logger.info(
        f"{config.model}: {num_missing} of {len(config.ids)} samples to make, {sampler.chain.num_steps} steps in "
        f"{len(sampler.chain.edges) - 1} block(s), {config.chain.method.name} chain, seed {config.seed}; "
        f"{ranks.num_groups} sample group(s) x {ranks.time.size} time rank(s), {sampler.device}, "
        f"{torch.get_num_threads()} thread(s) a rank"
    )


def _block_hook(sampler: Sampler, store: Store, ranks: RankGrid, progress: Progress, batch: str) -> BlockHook:
    last = len(sampler.chain.edges) - 2

    def hook(block: Block, result: BlockSolution) -> None:
        sweeps = int((result.sweeps + result.sequential_steps).max())
        progress.advance(1, f"{batch} block {block.index + 1} sweeps {sweeps} residual {float(result.residual.max()):.1e}")
        if block.index < last:  # a batch that is solved is stored first
            _stop_if_asked(store, ranks)

    return hook


def _stop_if_asked(store: Store, ranks: RankGrid) -> None:
    asked = ranks.writer and (store.folder / STOP_FILE).exists()
    if float(ranks.time.max(torch.tensor([float(asked)]))) > 0:
        raise StopRequested


def _gaps(model: Model) -> dict[str, np.ndarray]:
    """Where a variable has no value in any sample (land, for the sea): what a zero state decodes to NaN."""
    empty = model.decode(torch.zeros(1, *model.event_shape))
    return {name: np.isnan(values[0]) for name, values in empty.items()}


def _per_sample(config: RunConfig, batch: list[int], solution: Solution) -> dict[str, np.ndarray]:
    """Cost and convergence of every sample, as stored beside the fields."""
    return {
        "seed": np.full(len(batch), config.seed, dtype=np.int64),
        "sweeps": solution.sweeps.numpy().astype(np.int32),
        "residual": solution.residual.numpy().astype(np.float32),
        "status": solution.status.numpy().astype(np.int8),
        "converged": solution.converged.numpy().astype(np.int8),
        "rounds": solution.rounds.numpy().astype(np.int32),
        "model_calls": solution.calls.numpy().astype(np.int32),
        "sequential_steps": solution.sequential_steps.numpy().astype(np.int32),
    }


def _summary(sampler: Sampler, ranks: RankGrid, costs: list[Solution], seconds: float, writing: float) -> Summary:
    """Totals over all groups, from the ranks that speak for them."""
    mine: dict[str, Any] = {
        "rounds": [int(r) for cost in costs for r in cost.rounds],
        "calls": [int(c) for cost in costs for c in cost.calls],
        "bad": sum(int((~cost.converged).sum()) for cost in costs),
        "finished": sum(int((cost.status == int(Status.FINISHED_SEQUENTIALLY)).any(1).sum()) for cost in costs),
        "sweeps": [cost.sweeps.amax(0).tolist() for cost in costs],
        "communication": ranks.time.seconds,
        "writing": writing,
    }
    everyone = ranks.world.gather_objects(mine)
    groups = everyone[:: ranks.time.size]
    rounds, calls = [r for g in groups for r in g["rounds"]], [c for g in groups for c in g["calls"]]
    sweeps = [row for g in groups for row in g["sweeps"]]
    return Summary(
        num_samples=len(rounds),
        not_converged=sum(g["bad"] for g in groups),
        rounds=float(np.median(rounds)) if rounds else 0.0,
        calls=float(np.median(calls)) if calls else 0.0,
        sequential_rounds=sampler.sequential_rounds,
        sweeps=[max(column) for column in zip(*sweeps, strict=True)],
        seconds=seconds,
        communication=float(np.mean([g["communication"] for g in everyone])),
        writing=max(g["writing"] for g in groups),
        ranks=f"{ranks.num_groups} sample group(s) x {ranks.time.size} time rank(s)",
    )
