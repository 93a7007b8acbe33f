"""Drawing the missing samples: batch by batch, each solved and stored, or kept unfinished when the run is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..comm.rank_grid import RankGrid
from ..config.run import INDEPENDENT_KEYS, RunConfig
from ..config.validation import without_none
from ..host.stop import StopReason, StopRequested, StopSignals, request_stop, stop_requested
from ..models.card import Model
from ..schema.conditions import matched
from ..solvers.solution import BlockSolution, Solution, Stopped, Unfinished
from ..store.folder import Store
from ..store.unfinished import discard_draft, find_drafts, fingerprint, read_draft, write_draft
from ..theory.grid import Block
from .conditions import coordinates_of
from .density import density_columns
from .reporting import EventLog, Progress
from .resolve import ResolvedRun

HEARTBEAT = 60.0
# seconds for which a block may continue after a request to stop, if the time limit of the job is unknown
PATIENCE = {StopReason.LIMIT: 30.0, StopReason.PERSON: 3.0}


@dataclass(frozen=True)
class Run:
    """A resolved run with the folder it writes to and the ranks that draw its samples.

    `ends` is when the job reaches its time limit, on the clock of time.monotonic, or None where there is no limit.
    """

    resolved: ResolvedRun
    store: Store
    ranks: RankGrid
    signals: StopSignals
    events: EventLog
    ends: float | None

    @property
    def mark(self) -> str:
        """Fingerprint of the settings that an unfinished batch must share with this run to be continued by it."""
        values = without_none(self.resolved.config.model_dump(mode="json"))
        return fingerprint(values, self.resolved.model.sha256, INDEPENDENT_KEYS)

    @property
    def num_blocks(self) -> int:
        """Blocks of the chain."""
        return len(self.resolved.scheme.edges) - 1

    def request(self, stop: StopReason) -> StopRequested:
        """The exception that ends the run on request, with the reason and how to continue."""
        goes_on = "finished samples are kept, the same command continues from there"
        if self.signals.name:
            return StopRequested(f"stopped by {self.signals.name}: {goes_on}", limit=stop == StopReason.LIMIT)
        return StopRequested(f"{self.resolved.config.out}/STOP was found: {goes_on}", limit=stop == StopReason.LIMIT)


@dataclass(frozen=True)
class Batch:
    """Sample ids solved and stored together; `draft` is the file in which an earlier stop left them, or empty."""

    samples: tuple[int, ...]
    draft: str = ""

    def resume(self) -> Unfinished | None:
        """Read the states that were kept at an earlier stop."""
        if not self.draft:
            return None
        arrays = {name: torch.from_numpy(array) for name, array in read_draft(Path(self.draft)).items()}
        state, extra = arrays.pop("state"), arrays.pop("extra").T
        return Unfinished(state, arrays, extra)


@dataclass
class Drawn:
    """The samples that a group has drawn: costs without states, seconds spent writing, and the reason for an early stop."""

    costs: list[Solution] = field(default_factory=list)
    writing: float = 0.0
    stop: StopReason = StopReason.NONE


def missing_batches(run: Run) -> list[Batch]:
    """List the missing batches: unfinished ones first, then new ones, so small that every group has one."""
    missing = [sample for batch in run.store.missing() for sample in batch]
    steering = run.resolved.config.steering
    if steering is not None:
        starts = sorted({sample - sample % steering.group for sample in missing})
        return [Batch(tuple(range(start, start + steering.group))) for start in starts]
    begun = []
    for samples, path in find_drafts(run.store.folder, run.mark):
        if set(samples) <= set(missing):
            begun.append(Batch(samples, str(path)))
            missing = [sample for sample in missing if sample not in samples]
        else:
            discard_draft(path)
    size = max(1, min(int(run.resolved.config.output.batch), -(-len(missing) // run.ranks.num_groups)))
    return begun + [Batch(tuple(missing[start : start + size])) for start in range(0, len(missing), size)]


def draw_batches(run: Run, missing: Sequence[Batch], drawn: Drawn, kind: type[Work]) -> None:
    """Solve and store this group's share of the missing batches, and add their costs to `drawn`; collective over the group.

    `kind` solves a batch. Ends early on a request to stop.
    """
    gaps, before = gaps_of(run.resolved.model), 0
    batches = missing[run.ranks.group :: run.ranks.num_groups]
    wanted = {sample for batch in missing for sample in batch.samples}
    group = f"group 1/{run.ranks.num_groups} " if run.ranks.num_groups > 1 else ""
    with Progress(
        len(wanted),
        unit="samples",
        interval=run.resolved.config.output.log_interval,
        enabled=run.ranks.root,
        ends=run.ends,
        events=run.events,
        # the shards of the other groups show their progress
        elsewhere=(lambda: run.store.num_drawn(wanted) - before) if run.ranks.num_groups > 1 else None,
    ) as progress:
        try:
            for number, batch in enumerate(batches):
                work = kind(run, progress, batch, before, f"{group}batch {number + 1}/{len(batches)}")
                solution = work.solve(gaps)
                drawn.costs.append(without_states(solution))
                drawn.writing += _write(run, batch, solution, gaps, work.columns())
                if number + 1 < len(batches):
                    work.leave_if_asked()
                before += len(batch.samples)
                progress.show(before, work.note)
        except StopRequested as request:
            drawn.stop = StopReason.LIMIT if request.limit else StopReason.PERSON


def _write(
    run: Run, batch: Batch, solution: Solution, gaps: dict[str, np.ndarray], columns: dict[str, np.ndarray]
) -> float:  # fmt: skip
    """Store a finished batch, on the rank that writes; returns the seconds that this took."""
    start = time.perf_counter()
    if run.ranks.writer:
        _store(run, batch.samples, solution, gaps, columns)
        if batch.draft:
            discard_draft(Path(batch.draft))
    if run.ranks.root:
        run.store.compact()
    return time.perf_counter() - start


def without_states(solution: Solution) -> Solution:
    """Only the costs, so that an ensemble of any size fits into memory; an empty view would keep all states alive."""
    return replace(solution, x=solution.x[:0].clone(), state=solution.state[:0].clone())


@dataclass
class Work:
    """A batch that is being solved, as the callback of the solver: it reports progress and passes on requests to stop.

    After a request the present block may be finished, if that does not take longer than until `patient_until`.
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
        """Solve the whole batch. Raises StopRequested after storing the samples that are done, or else the finished blocks."""
        self.note, samples = self.name, self.batch.samples
        sampler, comm = self.run.resolved.sampler, self.run.ranks.time
        try:
            given = self.run.resolved.condition_of(samples)
            return sampler.draw(samples, condition=given, comm=comm, resume=self.batch.resume(), callback=self)
        except Stopped as stopped:
            if self.run.ranks.writer and stopped.solution is not None:
                _store(self.run, [samples[k] for k in stopped.done], stopped.solution, gaps, {})
            elif self.run.ranks.writer and self.latest is not None:
                _keep(self.run, self.batch, self.latest)
            raise self.run.request(stop_asked(self.run)) from None

    def columns(self) -> dict[str, np.ndarray]:
        """Return the quantities stored beside every sample, in addition to its costs."""
        return {}

    def block_ended(self, block: Block, result: BlockSolution, unfinished: Unfinished) -> None:
        """Report a block and stop there on request; collective over the group."""
        sweeps = int((result.sweeps + result.sequential_steps).max())
        self.note = f"{self.name} block {block.index + 1} sweeps {sweeps} residual {float(result.residual.max()):.1e}"
        self.latest, self.sweeps = unfinished, 0
        self._show(len(self.batch.samples) * (block.index + 1) / self.run.num_blocks)
        # after its last block a batch is stored before the run stops
        if block.index + 1 < self.run.num_blocks:
            self.leave_if_asked(keep=True)

    def leave_if_asked(self, *, keep: bool = False) -> None:
        """Raise StopRequested on a request to stop, after storing the finished blocks if they are to be kept."""
        if stop := stop_asked(self.run):
            if keep and self.run.ranks.writer and self.latest is not None:
                _keep(self.run, self.batch, self.latest)
            raise self.run.request(stop)

    def should_stop(self, done: int) -> bool:
        """Whether to stop between two sweeps; collective over the group."""
        run = self.run
        if self.sweeps:
            behind = 0 if self.latest is None else len(self.latest.blocks)
            self._show(max(done, len(self.batch.samples) * behind / run.num_blocks), f" sweep {self.sweeps}")
        self.sweeps += 1
        if run.ranks.root and time.monotonic() - self.beat > HEARTBEAT:
            run.store.heartbeat()
            self.beat = time.monotonic()
        stop = stop_asked(run)
        if not stop:
            return False
        now = time.monotonic()
        left = math.inf if run.ends is None else run.ends - now
        self.patient_until = min(self.patient_until, now + min(left / 2, PATIENCE[stop]))
        return float(run.ranks.time.max(torch.tensor([float(now >= self.patient_until)]))) > 0

    def _show(self, done: float, more: str = "") -> None:
        self.progress.show(self.before + done, self.note + more)


def stop_asked(run: Run) -> StopReason:
    """The reason of a request to stop, by a signal to a rank of the group or by the stop file; collective over the group."""
    found = stop_requested(run.store.folder) if run.ranks.writer else StopReason.NONE
    stop = StopReason(int(run.ranks.time.max(torch.tensor([float(max(found, run.signals.reason))]))))
    if stop and run.ranks.writer and not found:
        request_stop(run.store.folder, stop)  # a signal need not reach every group
    return stop


def _store(
    run: Run, samples: Sequence[int], solution: Solution, gaps: dict[str, np.ndarray], columns: dict[str, np.ndarray]
) -> None:  # fmt: skip
    resolved, given = run.resolved, run.resolved.condition_of(samples)
    run.store.write(
        samples,
        resolved.model.decode(
            resolved.finished(solution.x, given).cpu(), given if given is None else matched(given, torch.zeros(()))
        ),
        per_sample(resolved.config, samples, solution) | density_columns(resolved, samples, solution) | columns,
        allow_nan=gaps,
    )


def _keep(run: Run, batch: Batch, unfinished: Unfinished) -> None:
    arrays = {"state": unfinished.state, "extra": unfinished.extra.T.contiguous(), **unfinished.costs}
    write_draft(run.store.folder, batch.samples, {name: tensor.cpu().numpy() for name, tensor in arrays.items()}, run.mark)


def gaps_of(model: Model) -> dict[str, np.ndarray]:
    """The points where a variable has no value in any sample (land in an ocean model): where a zero state decodes to NaN."""
    empty = model.normalisation.decode(torch.zeros(1, *model.event_shape))
    return {name: np.isnan(values[0]) for name, values in empty.items()}


def per_sample(config: RunConfig, samples: Sequence[int], solution: Solution) -> dict[str, np.ndarray]:
    """Cost and convergence of every sample, as stored beside the fields."""
    return {
        **coordinates_of(config, samples),
        "seed": np.full(len(samples), config.seed, dtype=np.int64),
        "sweeps": solution.sweeps.numpy().astype(np.int32),
        "residual": solution.residual.numpy().astype(np.float32),
        "status": solution.status.numpy().astype(np.int8),
        "converged": solution.converged.numpy().astype(np.int8),
        "rounds": solution.rounds.numpy().astype(np.int32),
        "model_calls": solution.calls.numpy().astype(np.int32),
        "sequential_steps": solution.sequential_steps.numpy().astype(np.int32),
    }
