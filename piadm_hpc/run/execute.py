"""A run from its configuration to its files: its devices, the samples it draws, and how its ranks end together."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..comm.failure import RankEnded, describe, together
from ..comm.rank_grid import RankGrid, abort, rank_grid
from ..config.limits import MOST_THREADS
from ..config.run import INDEPENDENT_KEYS, RunConfig
from ..config.validation import ConfigError, without_none
from ..host.devices import device_names
from ..host.launcher import LOCAL_RANKS, first_number, ranks_here
from ..host.slurm import seconds_left
from ..host.stop import STOP_FILE, StopReason, StopRequested, stop_signals
from ..models.card import load_model
from ..models.observations.record import FILE, write_table
from ..store.errors import StoreError
from ..store.folder import Store
from ..store.provenance import global_attributes
from ..store.reading import open_run
from ..store.statistics.reading import open_statistics
from ..store.unfinished import clear_drafts
from .batches import Batch, Drawn, Run, Work, draw_batches, missing_batches
from .choose import Choice, choose, solver_of_run
from .conditions import completed, layout_of
from .leads import draw_leads, missing_leads
from .reporting import EventLog, Summary, set_up_logging
from .resolve import ResolvedRun, resolve
from .statistics import recipe_of
from .steering import Steered, potential_of

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger("piadm_hpc")
SUMMARY_FILE = "summary.json"
PATIENCE = 2.0  # seconds for which the other ranks wait while the first prints an error that several have
ATTEMPTS = 3  # number of attempts to draw samples whose shards vanish during the run


def sample(config: RunConfig, *, overwrite: bool = False) -> xr.Dataset:
    """Draw the samples of a run and open them, or their statistics where they are not stored; collective over all ranks.

    Finished shards of the same run are kept. Raises ConfigError, StoreError, ScoreError or StopRequested.
    """
    execute(config, overwrite=overwrite)
    return open_run(config.out) if config.output.members else open_statistics(config.out)


def execute(config: RunConfig, *, overwrite: bool = False, command: str = "piadm_hpc.sample") -> Summary:
    """Draw the samples of a run that are missing; collective. Returns the same summary on every rank."""
    config = completed(config)
    given = config.compute.time_ranks
    ranks = rank_grid(None if given == "auto" else int(given))
    torch.set_num_threads(threads(config))
    with stop_signals() as signals, _exiting_together(ranks):
        choice = _choose(config, ranks, overwrite=overwrite)
        resolved = choice.resolved
        ranks = ranks if ranks.time.size == choice.time_ranks else rank_grid(choice.time_ranks)
        store = together(ranks.world, partial(open_store, resolved, ranks, overwrite, command))
        events = EventLog(store.folder, speaks=ranks.root)
        with _failing_together(ranks, store, events):
            if ranks.root:  # an old request to stop, left by a killed run; one that comes after this log line is obeyed
                (store.folder / STOP_FILE).unlink(missing_ok=True)
            set_up_logging(root=ranks.root, file=store.folder / "log.txt")
            if choice.text:
                logger.info(choice.text)
                events.write("chosen", text=choice.text)
            left, began = seconds_left() if ranks.root else None, time.perf_counter()
            run = Run(resolved, store, ranks, signals, events, None if left is None else time.monotonic() + left)
            _set_damaged_aside(run)
            return _finish(run, _draw_missing(run), began)


@contextmanager
def _exiting_together(ranks: RankGrid) -> Iterator[None]:
    """End all ranks when one of them exits on request, which the others would not notice."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt, RankEnded) as error:
        _end_all(ranks, error)
        raise


@contextmanager
def _failing_together(ranks: RankGrid, store: Store, events: EventLog) -> Iterator[None]:
    """End all ranks after an error on one of them, and release the folder in any case."""
    try:
        yield
    except StopRequested:
        raise
    except BaseException as error:
        _end_all(ranks, error, events)
        raise
    finally:
        if ranks.root:
            store.close()


def _end_all(ranks: RankGrid, error: BaseException, events: EventLog | None = None) -> None:
    """Record an error, and if there are several ranks print it and end all of them."""
    alone, message = ranks.world.size == 1, str(error)
    if not isinstance(error, Exception):
        if alone:
            return
        message = describe(error, ranks.world.rank)
    if not alone and not ranks.root:
        time.sleep(PATIENCE)
    if events is not None:
        events.write("failed", always=True, rank=ranks.world.rank, message=message)
    if not alone:
        abort(f"piadm: {message}")


def _choose(config: RunConfig, ranks: RankGrid, *, overwrite: bool) -> Choice:
    """Resolve the run, and make its open choices; collective. A continued run keeps the solver with which it was begun."""
    resolved = together(ranks.world, partial(load, config))
    begun = None if overwrite or not ranks.root else solver_of_run(resolved)
    if begun := ranks.world.bcast_object(begun):
        resolved = resolved.with_settings({"solver": begun})
    choice = choose(resolved, ranks.world, ranks=ranks.world.size, threads=torch.get_num_threads())
    choice.resolved.require_points(choice.time_ranks)
    if choice.resolved.config.steering is not None:
        potential_of(choice.resolved)
    return choice


def load(config: RunConfig) -> ResolvedRun:
    """Load the model on this rank's device and resolve the run. Raises ConfigError when they do not fit."""
    device = _device(config)
    return resolve(config, load_model(config.model, device=device, allow_code=config.allow_code), device)


def threads(config: RunConfig) -> int:
    """Threads of a rank: as given, else OMP_NUM_THREADS, else its share of the cores. Raises ConfigError."""
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
    """The configured device, if this host has it, else the GPU assigned to this rank, else the CPU."""
    given, there = config.compute.device, device_names()
    if given != "auto":
        if given not in there:
            raise ConfigError(f"compute.device: no {given!r} on this host; give auto or {', '.join(there)}")
        return given
    numbered = [name for name in there if ":" in name]
    return numbered[first_number(LOCAL_RANKS)[1] % len(numbered)] if numbered else "cpu"


def open_store(resolved: ResolvedRun, ranks: RankGrid, overwrite: bool, command: str) -> Store:
    """Create and lock the run's folder on the root, and refer to it on the other ranks. Raises StoreError."""
    config, model = resolved.config, resolved.model
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
        "layout": layout_of(config, model.layout),
        "samples": config.ids,
        "shard_size": int(config.output.batch),
        "attributes": attributes,
        "compression": config.output.compression,
        "statistics": recipe_of(config, model),
        "members": config.output.members,
        "form": config.output.format,
    }
    if not ranks.root:
        return Store.attach(config.out, **shape)
    store = Store.create(config.out, config=values, independent=INDEPENDENT_KEYS, overwrite=overwrite, **shape)
    observed = resolved.given or resolved.dated
    if observed is not None:
        write_table(store.folder / FILE, observed.table)
    return store


def _set_damaged_aside(run: Run) -> None:
    """Read the existing shards, every rank its share; the samples of damaged ones are drawn again."""
    world = run.ranks.world
    damaged = [path for part in world.gather_objects(run.store.damaged(world.rank, world.size)) for path in part]
    if damaged and run.ranks.root:
        run.store.set_aside(damaged)


def _draw_missing(run: Run) -> Drawn:
    """Draw missing samples, and those that a purge of the file system deletes meanwhile; collective. All groups stop together."""
    drawn, ranks = Drawn(), run.ranks
    forecasts = run.resolved.config.rollout.leads is not None
    kind = Work if run.resolved.config.steering is None else Steered
    list_missing, draw = (missing_leads, draw_leads) if forecasts else (missing_batches, partial(draw_batches, kind=kind))
    for attempt in range(ATTEMPTS):
        missing = ranks.world.bcast_object(list_missing(run) if ranks.root else None)
        if attempt == 0:
            _announce(run, missing)
        if not missing:
            break
        draw(run, missing, drawn)
        # groups arrive here after different batches; all of them stop when one of them was asked to
        drawn.stop = StopReason(int(ranks.world.max(torch.tensor([float(drawn.stop)]))))
        if drawn.stop:
            break
    return drawn


def _announce(run: Run, batches: list[Batch]) -> None:
    """Log which samples are to be drawn, and where."""
    config, sampler, ranks = run.resolved.config, run.resolved.sampler, run.ranks
    missing = sum(len(batch.samples) for batch in batches)
    logger.info(
        f"{config.model}: {missing} of {len(run.store.samples)} samples to make, {sampler.chain.num_steps} steps in "
        f"{len(sampler.chain.edges) - 1} block(s), {config.chain.method.name} chain, seed {config.seed}; "
        f"{ranks.num_groups} sample group(s) x {ranks.time.size} time rank(s), {sampler.device}, "
        f"{torch.get_num_threads()} thread(s) a rank"
    )
    run.events.write(
        "started", samples=len(run.store.samples), missing=missing, groups=ranks.num_groups, time_ranks=ranks.time.size
    )


def _finish(run: Run, drawn: Drawn, began: float) -> Summary:
    """Join the shards and summarise what the groups have drawn; StopRequested on all ranks when any was asked to stop."""
    store, ranks, stop = run.store, run.ranks, drawn.stop
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
    summary = _summary(run, drawn, time.perf_counter() - began)
    if ranks.root and summary.num_samples:
        (store.folder / SUMMARY_FILE).write_text(json.dumps(asdict(summary), indent=1), encoding="utf-8")
    run.events.write("done", samples=summary.num_samples, not_converged=summary.not_converged, seconds=summary.seconds)
    return summary


def _require_whole(store: Store) -> None:
    """Raise StoreError when samples are gone although they were drawn as often as ATTEMPTS."""
    if left := store.absent():
        raise StoreError(
            f"{len(left)} of {len(store.samples)} samples are not in {store.folder} although they were drawn {ATTEMPTS} times; "
            "something deletes or damages files there: choose another folder"
        )


def _summary(run: Run, drawn: Drawn, seconds: float) -> Summary:
    """Totals over all groups, from the ranks that write for them."""
    ranks, costs = run.ranks, drawn.costs
    mine: dict[str, Any] = {
        "rounds": [int(r) for cost in costs for r in cost.rounds],
        "calls": [int(c) for cost in costs for c in cost.calls],
        "bad": sum(int((~cost.converged).sum()) for cost in costs),
        "sweeps": [cost.sweeps.amax(0).tolist() for cost in costs],
        "communication": ranks.time.seconds,
        "writing": drawn.writing,
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
        sequential_rounds=run.resolved.sampler.sequential_rounds,
        sweeps=[max(column) for column in zip(*sweeps, strict=True)],
        seconds=seconds,
        communication=float(np.mean([g["communication"] for g in everyone])),
        writing=max(g["writing"] for g in groups),
        ranks=f"{ranks.num_groups} sample group(s) x {ranks.time.size} time rank(s)",
    )
