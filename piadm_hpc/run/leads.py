"""Drawing the missing forecasts: members of starts batch by batch, every lead stored as soon as it is done."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..host.stop import StopReason, StopRequested
from ..solvers.links import LeadEnded
from ..solvers.rollout import Rollout
from ..solvers.solution import Stopped
from .batches import Batch, Drawn, Run, Work, gaps_of, per_sample, stop_asked, without_states
from .cycling import Filter
from .reporting import Progress
from .rollout import Starts, rollout_of


def missing_leads(run: Run) -> list[Batch]:
    """List the missing leads as batches of members of starts that continue at the same lead, with all ids from there on.

    With observations a batch has one start.
    """
    leads = _leads(run)
    first: dict[int, int] = {}
    for sample in (sample for batch in run.store.missing() for sample in batch):
        path, lead = divmod(sample, leads)
        # leads that are counted and not stored cannot be continued; they are drawn again, and counted once
        first[path] = min(lead, first.get(path, leads)) if run.store.members else 0
    alike = defaultdict(list)
    apart = run.resolved.dated is not None  # observations belong to starts
    for path, lead in sorted(first.items()):
        alike[lead, path % run.resolved.config.condition.count if apart else 0].append(path)
    size = max(1, min(int(run.resolved.config.output.batch), -(-len(first) // run.ranks.num_groups)))
    return [
        Batch(tuple(path * leads + later for path in paths[at : at + size] for later in range(lead, leads)))
        for (lead, _), paths in sorted(alike.items())
        for at in range(0, len(paths), size)
    ]


def draw_leads(run: Run, missing: Sequence[Batch], drawn: Drawn) -> None:
    """Forecast and store this group's share of the missing batches, and add their costs to `drawn`; collective over the group.

    Ends early on a request to stop; the finished leads of a batch are kept.
    """
    starts, before = Starts.of(run.resolved.config, run.resolved.model), 0
    batches = missing[run.ranks.group :: run.ranks.num_groups]
    wanted = {sample for batch in missing for sample in batch.samples}
    with Progress(
        len(wanted), unit="forecasts", interval=run.resolved.config.output.log_interval, enabled=run.ranks.root, ends=run.ends,
        events=run.events,
        elsewhere=(lambda: run.store.num_drawn(wanted) - before) if run.ranks.num_groups > 1 else None,
    ) as progress:  # fmt: skip
        try:
            for number, batch in enumerate(batches):
                work = Work(run, progress, batch, before, f"batch {number + 1}/{len(batches)}")
                _Forecasts(run, starts, work, drawn).draw()
                if number + 1 < len(batches):
                    work.leave_if_asked()
                before += len(batch.samples)
        except StopRequested as request:
            drawn.stop = StopReason.LIMIT if request.limit else StopReason.PERSON


@dataclass
class _Forecasts:
    """A batch of members being forecast, as the callback of the rollout: it stores leads and passes on requests to stop."""

    run: Run
    starts: Starts
    work: Work
    drawn: Drawn
    done: int = 0

    def draw(self) -> None:
        """Forecast the whole batch. Raises StopRequested on a request to stop."""
        run, leads, count = self.run, _leads(self.run), self.run.resolved.config.condition.count
        self.paths = sorted({sample // leads for sample in self.work.batch.samples})
        first = min(self.work.batch.samples) % leads
        self.members, self.places = [path // count for path in self.paths], [path % count for path in self.paths]
        self.numbers = [self.starts.numbers[place] for place in self.places]
        rollout = rollout_of(run.resolved, self.starts)
        if run.resolved.dated is not None:
            rollout = replace(rollout, observed=Filter(run.resolved, self.starts, self.places[0]).at)
        try:
            rollout.draw(
                self._past(rollout, first), range(first + 1, leads + 1), members=self.members, starts=self.numbers,
                comm=run.ranks.time, callback=self,
            )  # fmt: skip
        except Stopped:
            raise run.request(stop_asked(run)) from None

    def _past(self, rollout: Rollout, first: int) -> Tensor:
        """The states before lead `first`, counted from 0: those of the starts, and of leads that are stored.

        Observed leads have updated the fields before them; the update is repeated.
        """
        run, order, leads = self.run, self.starts.order, _leads(self.run)
        # a single field before a lead has no part in the past of the next one
        observed = rollout.observed if order > 1 else None
        past = self.starts.past(self.places)
        for lead in range(max(0, first - order) if observed is None else 0, first):
            if observed is not None and (change := observed(lead + 1)) is not None:
                links = rollout.links(self.numbers, self.members, lead + 1)
                past = change.past(past, links, rollout.noise_of(links))
            stored = run.resolved.model.normalisation.encode(run.store.read([path * leads + lead for path in self.paths]))
            past = torch.cat([past[:, 1:], stored[:, None]], dim=1)
        return past

    def lead_ended(self, result: LeadEnded) -> None:
        """Store a lead, on the rank that writes."""
        run, begun = self.run, time.perf_counter()
        samples = [path * _leads(run) + result.lead - 1 for path in self.paths]
        if run.ranks.writer:
            model = run.resolved.model
            columns = per_sample(run.resolved.config, samples, result.solution)
            run.store.write(samples, model.normalisation.decode(result.x.cpu()), columns, allow_nan=gaps_of(model))
        if run.ranks.root:
            run.store.compact()
        self.drawn.costs.append(without_states(result.solution))
        self.drawn.writing += time.perf_counter() - begun
        self.done += len(samples)
        self.work.note = f"{self.work.name} lead {result.lead}"
        self.work.progress.show(self.work.before + self.done, self.work.note)

    def should_stop(self) -> bool:
        """Whether to stop between two sweeps; collective over the group."""
        return self.work.should_stop(self.done)


def _leads(run: Run) -> int:
    return int(run.resolved.config.rollout.leads or 1)
