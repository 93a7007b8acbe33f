"""The composition root: a configuration becomes ranks, a model, a sampler, shards and an index."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..comm.communicator import RankGrid, abort, rank_grid
from ..config.run import RunConfig
from ..host.launcher import launcher_size
from ..host.slurm import seconds_left
from ..host.stop import STOP_FILE, StopReason, StopRequested, stop_signals
from ..solvers.sampler import Sampler
from ..solvers.solve import Solution, Status
from ..store import Store, StoreError, clear_drafts, open_run
from .batches import Run, make, missing_batches
from .build import resolve
from .events import EventLog
from .placement import count_time_ranks, everywhere, load, open_store, threads
from .progress import Summary, set_up_logging

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger("piadm_hpc")
SUMMARY_FILE = "summary.json"
PATIENCE = 2.0
ATTEMPTS = 3


def sample(config: RunConfig, *, overwrite: bool = False) -> xr.Dataset:
    """Make the samples of a run and open them: collective over the ranks this process was launched with.

    Finished shards of the same run are kept. Raises ConfigError, StoreError, ScoreError or StopRequested.
    """
    execute(config, overwrite=overwrite)
    return open_run(Path(config.out) / "samples.h5")


def execute(config: RunConfig, *, overwrite: bool = False, command: str = "piadm_hpc.sample") -> Summary:
    """Make the samples of a run; the summary is the same on every rank."""
    ranks = rank_grid(count_time_ranks(config, launcher_size()[1]))
    torch.set_num_threads(threads(config))
    with stop_signals() as signals:
        model, sampler = everywhere(ranks, lambda: load(config, ranks.time.size))
        config = resolve(config, model)
        store = open_store(config, model, ranks, overwrite, command)
        events = EventLog(store.folder, speaks=ranks.root)
        with _failing_together(ranks, store, events):
            if ranks.root:  # before anything says that the run has begun: a request that follows is obeyed
                (store.folder / STOP_FILE).unlink(missing_ok=True)  # of an earlier run that was killed before it could obey
            set_up_logging(root=ranks.root, file=store.folder / "log.txt")
            left = seconds_left() if ranks.root else None
            ends = None if left is None else time.monotonic() + left
            return _make_missing(Run(config, model, sampler, store, ranks, signals, events, ends))


@contextmanager
def _failing_together(ranks: RankGrid, store: Store, events: EventLog) -> Iterator[None]:
    """An error on one rank ends all of them; the folder is given free whatever happens."""
    try:
        yield
    except StopRequested:
        raise
    except Exception as error:
        if ranks.world.size > 1:
            # several ranks may hold this error or one of the same cause: a short wait lets one of them speak for all
            time.sleep(0 if ranks.root else PATIENCE)
        events.write("failed", always=True, rank=ranks.world.rank, message=str(error))
        if ranks.world.size > 1:
            abort(f"piadm: {error}")
        raise
    finally:
        if ranks.root:
            store.close()


def _make_missing(run: Run) -> Summary:
    """Every group takes its share of what is missing; the root joins the shards."""
    began = time.perf_counter()
    store, ranks = run.store, run.ranks
    _set_damaged_aside(run)
    costs: list[Solution] = []
    writing, stop = 0.0, StopReason.NONE
    # shards may be lost, to a purge of the file system, while others are drawn
    for attempt in range(ATTEMPTS):
        missing = ranks.world.bcast_object(missing_batches(run) if ranks.root else None)
        if attempt == 0:
            _announce(run, sum(len(batch.ids) for batch in missing))
        if not missing:
            break
        try:
            writing += make(run, missing, costs)
        except StopRequested as request:
            stop = StopReason.LIMIT if request.limit else StopReason.PERSON
        # groups come here at different batches; all of them stop when one of them was asked to
        stop = StopReason(int(ranks.world.max(torch.tensor([float(stop)]))))
        if stop:
            break
    if ranks.root:
        (store.folder / STOP_FILE).unlink(missing_ok=True)
    if stop:
        run.events.write("stopped", limit=stop == StopReason.LIMIT)
        raise run.request(stop)
    if ranks.root:
        _require_whole(store)
        store.join(keep_current=True)
        clear_drafts(store.folder)
    ranks.world.barrier()
    summary = _summary(run.sampler, ranks, costs, time.perf_counter() - began, writing)
    if ranks.root and summary.num_samples:
        (store.folder / SUMMARY_FILE).write_text(json.dumps(asdict(summary), indent=1), encoding="utf-8")
    run.events.write("done", samples=summary.num_samples, not_converged=summary.not_converged, seconds=summary.seconds)
    return summary


def _set_damaged_aside(run: Run) -> None:
    """Read the shards that are there already, every rank its share; those that are damaged are drawn again."""
    world = run.ranks.world
    damaged = [path for part in world.gather_objects(run.store.damaged(world.rank, world.size)) for path in part]
    if damaged and run.ranks.root:
        run.store.set_aside(damaged)


def _require_whole(store: Store) -> None:
    """Raise StoreError when samples are gone although they were drawn as often as ATTEMPTS."""
    if left := store.absent():
        raise StoreError(
            f"{len(left)} of {len(store.samples)} samples are not in {store.folder} although they were drawn {ATTEMPTS} times; "
            "something deletes or damages files there: choose another folder"
        )


def _announce(run: Run, num_missing: int) -> None:
    config, sampler, ranks = run.config, run.sampler, run.ranks
    logger.info(
        f"{config.model}: {num_missing} of {len(run.store.samples)} samples to make, {sampler.chain.num_steps} steps in "
        f"{len(sampler.chain.edges) - 1} block(s), {config.chain.method.name} chain, seed {config.seed}; "
        f"{ranks.num_groups} sample group(s) x {ranks.time.size} time rank(s), {sampler.device}, "
        f"{torch.get_num_threads()} thread(s) a rank"
    )
    run.events.write(
        "started", samples=len(run.store.samples), missing=num_missing, groups=ranks.num_groups, time_ranks=ranks.time.size
    )


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
