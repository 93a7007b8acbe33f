"""Making what is missing: this group's batches, one after another, solved, stored, or kept as they stand when a stop is asked."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..comm.communicator import RankGrid
from ..config.run import INDEPENDENT_KEYS, RunConfig
from ..config.validation import without_none
from ..host.stop import StopReason, StopRequested, StopSignals, request_stop, stop_requested
from ..models.card import Model
from ..solvers.sampler import Sampler
from ..solvers.solution import Solution, Stopped, Unfinished
from ..solvers.tolerance import BlockSolution
from ..store import Store, discard_draft, find_drafts, fingerprint, read_draft, write_draft
from ..theory.grid import Block
from .events import EventLog
from .progress import Progress

logger = logging.getLogger("piadm_hpc")
HEARTBEAT = 60.0
# seconds for which a block may go on once a stop is asked, where nobody knows when the job meets its limit
PATIENCE = {StopReason.LIMIT: 30.0, StopReason.PERSON: 3.0}


@dataclass(frozen=True)
class Run:
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

    @property
    def num_blocks(self) -> int:
        return len(self.sampler.chain.edges) - 1

    def request(self, stop: StopReason) -> StopRequested:
        """The words for a stop that somebody asked for."""
        goes_on = "what is finished is kept, the same command goes on from there"
        if self.signals.name:
            return StopRequested(f"stopped by {self.signals.name}: {goes_on}", limit=stop == StopReason.LIMIT)
        return StopRequested(f"{self.config.out}/STOP was found: {goes_on}", limit=stop == StopReason.LIMIT)


@dataclass(frozen=True)
class Batch:
    """Samples solved and stored together; `draft` is the file in which an earlier stop left them."""

    ids: tuple[int, ...]
    draft: str = ""

    def resume(self) -> Unfinished | None:
        """Where the earlier stop left them."""
        if not self.draft:
            return None
        arrays = {name: torch.from_numpy(array) for name, array in read_draft(Path(self.draft)).items()}
        state, extra = arrays.pop("state"), arrays.pop("extra").T
        return Unfinished(state, arrays, extra)


def missing_batches(run: Run) -> list[Batch]:
    """What is missing: first what was begun, as it was left, then batches small enough that every group has one."""
    missing = [sample for batch in run.store.missing() for sample in batch]
    begun = []
    for ids, path in find_drafts(run.store.folder, run.mark):
        if set(ids) <= set(missing):
            begun.append(Batch(ids, str(path)))
            missing = [sample for sample in missing if sample not in ids]
        else:
            discard_draft(path)
    size = max(1, min(run.config.output.batch, -(-len(missing) // run.ranks.num_groups)))
    return begun + [Batch(tuple(missing[start : start + size])) for start in range(0, len(missing), size)]


def make(run: Run, missing: list[Batch], costs: list[Solution]) -> float:
    """Solve and store this group's share of the missing batches, adding what each cost; seconds spent writing.

    Raises StopRequested.
    """
    gaps, writing, before = _gaps(run.model), 0.0, 0
    batches = missing[run.ranks.group :: run.ranks.num_groups]
    wanted = {sample for batch in missing for sample in batch.ids}
    group = f"group 1/{run.ranks.num_groups} " if run.ranks.num_groups > 1 else ""
    with Progress(
        len(wanted),
        unit="samples",
        interval=run.config.output.log_interval,
        enabled=run.ranks.root,
        ends=run.ends,
        events=run.events,
        # the shards of the other groups tell how far they are
        elsewhere=(lambda: run.store.num_drawn(wanted) - before) if run.ranks.num_groups > 1 else None,
    ) as progress:
        for number, batch in enumerate(batches):
            work = _Work(run, progress, batch, before, f"{group}batch {number + 1}/{len(batches)}")
            solution = work.solve(gaps)
            costs.append(_without_states(solution))
            start = time.perf_counter()
            if run.ranks.writer:
                _store(run, batch.ids, solution, gaps)
                if batch.draft:
                    discard_draft(Path(batch.draft))
            if run.ranks.root:
                run.store.compact()
            writing += time.perf_counter() - start
            if number + 1 < len(batches):
                work.leave_if_asked()
            before += len(batch.ids)
            progress.show(before, work.note)
    return writing


def _without_states(solution: Solution) -> Solution:
    """An ensemble of any size must fit: of what is stored, the costs alone stay in memory."""
    return replace(solution, x=solution.x[:0], state=solution.state[:0])


@dataclass
class _Work:
    """A batch at work: what it says of itself, whether somebody asks it to stop, and what is then kept.

    Once a stop is asked the block at work may come to its end, if that does not take too long; `patient_until` is when it does.
    """

    run: Run
    progress: Progress
    batch: Batch
    before: int
    name: str
    note: str = ""
    sweeps: int = 0
    latest: Unfinished | None = None
    patient_until: float = math.inf
    beat: float = field(default_factory=time.monotonic)

    def solve(self, gaps: dict[str, np.ndarray]) -> Solution:
        """The whole batch. Raises StopRequested, with all that can be kept on disk."""
        self.note = self.name
        try:
            return self.run.sampler.draw(
                self.batch.ids,
                comm=self.run.ranks.time,
                callback=self.callback,
                resume=self.batch.resume(),
                should_stop=self.should_stop,
            )
        except Stopped as stopped:
            if self.run.ranks.writer and stopped.solution is not None:
                _store(self.run, [self.batch.ids[k] for k in stopped.done], stopped.solution, gaps)
            elif self.run.ranks.writer and self.latest is not None:
                _keep(self.run, self.batch, self.latest)
            raise self.run.request(_stop_asked(self.run)) from None

    def callback(self, block: Block, result: BlockSolution, unfinished: Unfinished) -> None:
        sweeps = int((result.sweeps + result.sequential_steps).max())
        self.note = f"{self.name} block {block.index + 1} sweeps {sweeps} residual {float(result.residual.max()):.1e}"
        self.latest, self.sweeps = unfinished, 0
        self._show(len(self.batch.ids) * (block.index + 1) / self.run.num_blocks)
        # a batch that is solved is stored first
        if block.index + 1 < self.run.num_blocks:
            self.leave_if_asked(keep=True)

    def leave_if_asked(self, *, keep: bool = False) -> None:
        """Raise StopRequested when somebody asks for that; collective over the group."""
        if stop := _stop_asked(self.run):
            if keep and self.run.ranks.writer and self.latest is not None:
                _keep(self.run, self.batch, self.latest)
            raise self.run.request(stop)

    def should_stop(self, done: int) -> bool:
        """Between two sweeps; collective over the group."""
        run = self.run
        if self.sweeps:
            behind = 0 if self.latest is None else len(self.latest.blocks)
            self._show(max(done, len(self.batch.ids) * behind / run.num_blocks), f" sweep {self.sweeps}")
        self.sweeps += 1
        if run.ranks.root and time.monotonic() - self.beat > HEARTBEAT:
            run.store.heartbeat()
            self.beat = time.monotonic()
        stop = _stop_asked(run)
        if not stop:
            return False
        now = time.monotonic()
        left = math.inf if run.ends is None else run.ends - now
        self.patient_until = min(self.patient_until, now + min(left / 2, PATIENCE[stop]))
        return float(run.ranks.time.max(torch.tensor([float(now >= self.patient_until)]))) > 0

    def _show(self, done: float, more: str = "") -> None:
        self.progress.show(self.before + done, self.note + more)


def _stop_asked(run: Run) -> StopReason:
    """Collective over a group: who asks, when a signal reached one of its ranks or the stop file is there."""
    found = stop_requested(run.store.folder) if run.ranks.writer else StopReason.NONE
    stop = StopReason(int(run.ranks.time.max(torch.tensor([float(max(found, run.signals.reason))]))))
    if stop and run.ranks.writer and not found:
        request_stop(run.store.folder, stop)  # a signal need not reach every group
    return stop


def _store(run: Run, ids: Sequence[int], solution: Solution, gaps: dict[str, np.ndarray]) -> None:
    run.store.write(ids, run.model.decode(solution.x.cpu()), _per_sample(run.config, ids, solution), allow_nan=gaps)


def _keep(run: Run, batch: Batch, unfinished: Unfinished) -> None:
    arrays = {"state": unfinished.state, "extra": unfinished.extra.T.contiguous(), **unfinished.costs}
    write_draft(run.store.folder, batch.ids, {name: tensor.cpu().numpy() for name, tensor in arrays.items()}, run.mark)


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
