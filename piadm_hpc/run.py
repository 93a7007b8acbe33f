"""The composition root: a configuration becomes ranks, a model, a sampler, shards and an index."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .comm import RankGrid, abort, rank_grid
from .config import INDEPENDENT_KEYS, RunConfig
from .events import EventLog
from .grid import Block
from .launcher import launcher_size
from .models.card import Model
from .placement import everywhere, load, open_store, threads, time_ranks
from .progress import Progress, Summary, set_up_logging
from .records import without_none
from .sampler import Sampler
from .slurm import seconds_left
from .solvers.stopping import BlockSolution
from .solving import BlockHook, Solution, Status, Unfinished
from .stopping import STOP_FILE, Ask, StopRequested, StopSignals, ask, asked, stop_signals
from .store import Store, clear_drafts, discard_draft, find_drafts, fingerprint, open_run, read_draft, write_draft

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger("piadm_hpc")
SUMMARY_FILE = "summary.json"
PATIENCE = 2.0


@dataclass(frozen=True)
class _Run:
    """What the parts of a run share; `ends` is the time (time.monotonic) of the job's limit, where there is one."""

    config: RunConfig
    model: Model
    sampler: Sampler
    store: Store
    ranks: RankGrid
    signals: StopSignals
    events: EventLog
    ends: float | None

    @property
    def mark(self) -> str:
        """What a batch that was left unfinished must agree with to be continued."""
        return fingerprint(without_none(self.config.model_dump(mode="json")), self.model.sha256, INDEPENDENT_KEYS)


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
    with stop_signals() as signals:
        model, sampler = everywhere(ranks, lambda: load(config, ranks.time.size))
        store = open_store(config, model, ranks, overwrite, command)
        events = EventLog(store.folder, speaks=ranks.root)
        with _failing_together(ranks, store, events):
            set_up_logging(root=ranks.root, file=store.folder / "log.txt")
            left = seconds_left() if ranks.root else None
            ends = None if left is None else time.monotonic() + left
            return _make_missing(_Run(config, model, sampler, store, ranks, signals, events, ends))


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


def _make_missing(run: _Run) -> Summary:
    """Every group takes its share of what is missing; the root joins the shards."""
    began = time.perf_counter()
    store, ranks = run.store, run.ranks
    batches = ranks.world.bcast_object(_batches(run) if ranks.root else None)
    _announce(run, sum(len(batch.ids) for batch in batches))
    costs: list[Solution] = []
    writing, stop = 0.0, Ask.NOBODY
    try:
        writing = _make(run, batches[ranks.group :: ranks.num_groups], costs)
    except StopRequested as request:
        stop = Ask.LIMIT if request.limit else Ask.PERSON
    # groups come here at different batches; all of them stop when one of them was asked to
    stop = Ask(int(ranks.world.max(torch.tensor([float(stop)]))))
    if ranks.root:
        (store.folder / STOP_FILE).unlink(missing_ok=True)
    if stop:
        run.events.write("stopped", limit=stop == Ask.LIMIT)
        raise _request(run, stop)
    if ranks.root:
        store.join()
        clear_drafts(store.folder)
    ranks.world.barrier()
    summary = _summary(run.sampler, ranks, costs, time.perf_counter() - began, writing)
    if ranks.root and summary.num_samples:
        (store.folder / SUMMARY_FILE).write_text(json.dumps(asdict(summary), indent=1), encoding="utf-8")
    run.events.write("done", samples=summary.num_samples, not_converged=summary.not_converged, seconds=summary.seconds)
    return summary


def _request(run: _Run, stop: Ask) -> StopRequested:
    goes_on = "what is finished is kept, the same command goes on from there"
    if run.signals.name:
        return StopRequested(f"stopped by {run.signals.name}: {goes_on}", limit=stop == Ask.LIMIT)
    return StopRequested(f"{run.config.out}/{STOP_FILE} was found: {goes_on}", limit=stop == Ask.LIMIT)


def _make(run: _Run, batches: list[_Batch], costs: list[Solution]) -> float:
    """Solve and store this group's batches, adding what each cost; seconds spent writing. Raises StopRequested."""
    gaps, writing = _gaps(run.model), 0.0
    store, ranks, output = run.store, run.ranks, run.config.output
    total = len(batches) * (len(run.sampler.chain.edges) - 1)
    with Progress(
        total, unit="blocks", interval=output.log_interval, enabled=ranks.root, ends=run.ends, events=run.events
    ) as progress:
        for number, batch in enumerate(batches):
            hook = _block_hook(run, progress, batch, f"batch {number + 1}/{len(batches)}")
            solution = run.sampler.draw(batch.ids, comm=ranks.time, on_block=hook, begun=_begun(batch))
            # an ensemble of any size must fit: of what is stored, the costs alone stay in memory
            costs.append(replace(solution, x=solution.x[:0], state=solution.state[:0]))
            start = time.perf_counter()
            if ranks.writer:
                samples = _per_sample(run.config, batch.ids, solution)
                store.write(batch.ids, run.model.decode(solution.x.cpu()), samples, allow_nan=gaps)
                if batch.draft:
                    discard_draft(Path(batch.draft))
            if ranks.root:
                store.heartbeat()
            writing += time.perf_counter() - start
            if number + 1 < len(batches) and (stop := _stop_asked(run)):
                raise _request(run, stop)
    return writing


@dataclass(frozen=True)
class _Batch:
    """Samples solved and stored together; `draft` is the file in which an earlier stop left them."""

    ids: tuple[int, ...]
    draft: str = ""


def _batches(run: _Run) -> list[_Batch]:
    """What is missing: first what was begun, as it was left, then batches small enough that every group has one."""
    missing = [sample for batch in run.store.missing() for sample in batch]
    begun = []
    for ids, path in find_drafts(run.store.folder, run.mark):
        if set(ids) <= set(missing):
            begun.append(_Batch(ids, str(path)))
            missing = [sample for sample in missing if sample not in ids]
        else:
            discard_draft(path)
    size = max(1, min(run.config.output.batch, -(-len(missing) // run.ranks.num_groups)))
    return begun + [_Batch(tuple(missing[start : start + size])) for start in range(0, len(missing), size)]


def _begun(batch: _Batch) -> Unfinished | None:
    """Where an earlier stop left a batch."""
    if not batch.draft:
        return None
    arrays = {name: torch.from_numpy(array) for name, array in read_draft(Path(batch.draft)).items()}
    state, extra = arrays.pop("state"), arrays.pop("extra").T
    return Unfinished(state, arrays, extra)


def _keep(run: _Run, batch: _Batch, unfinished: Unfinished) -> None:
    arrays = {"state": unfinished.state, "extra": unfinished.extra.T.contiguous(), **unfinished.costs}
    write_draft(run.store.folder, batch.ids, {name: tensor.cpu().numpy() for name, tensor in arrays.items()}, run.mark)


def _announce(run: _Run, num_missing: int) -> None:
    config, sampler, ranks = run.config, run.sampler, run.ranks
    logger.info(
        f"{config.model}: {num_missing} of {len(config.ids)} samples to make, {sampler.chain.num_steps} steps in "
        f"{len(sampler.chain.edges) - 1} block(s), {config.chain.integrator} chain, seed {config.seed}; "
        f"{ranks.num_groups} sample group(s) x {ranks.time.size} time rank(s), {sampler.device}, "
        f"{torch.get_num_threads()} thread(s) a rank"
    )
    run.events.write("started", samples=len(config.ids), missing=num_missing, groups=ranks.num_groups, time_ranks=ranks.time.size)


def _block_hook(run: _Run, progress: Progress, batch: _Batch, name: str) -> BlockHook:
    last = len(run.sampler.chain.edges) - 2

    def hook(block: Block, result: BlockSolution, unfinished: Unfinished) -> None:
        sweeps = int((result.sweeps + result.sequential_steps).max())
        progress.advance(1, f"{name} block {block.index + 1} sweeps {sweeps} residual {float(result.residual.max()):.1e}")
        # a batch that is solved is stored first
        if block.index < last and (stop := _stop_asked(run)):
            if run.ranks.writer:
                _keep(run, batch, unfinished)
            raise _request(run, stop)

    return hook


def _stop_asked(run: _Run) -> Ask:
    """Collective over a group: who asks, when a signal reached one of its ranks or the stop file is there."""
    found = asked(run.store.folder) if run.ranks.writer else Ask.NOBODY
    stop = Ask(int(run.ranks.time.max(torch.tensor([float(max(found, run.signals.asked))]))))
    if stop and run.ranks.writer and not found:
        ask(run.store.folder, stop)  # a signal need not reach every group
    return stop


def _gaps(model: Model) -> dict[str, np.ndarray]:
    """Where a variable has no value in any sample (land, for the sea): what a zero state decodes to NaN."""
    empty = model.decode(torch.zeros(1, *model.event_shape))
    return {name: np.isnan(values[0]) for name, values in empty.items()}


def _per_sample(config: RunConfig, batch: Sequence[int], solution: Solution) -> dict[str, np.ndarray]:
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
