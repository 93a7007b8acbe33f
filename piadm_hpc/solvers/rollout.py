"""Rollouts: chains of samples, each given the ones before it, for many starts, members and leads.

The random numbers of a lead follow from seed, member, start and lead alone, so that a member is the same whatever else is in
the batch, on any number of ranks, and after any restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..comm.communicator import Communicator, SerialCommunicator
from ..theory.grid import Block
from .collocation import Collocation
from .links import MOST_LEADS, MOST_STARTS, Field, Given, LeadEnded, Link, LinkNoise, RolloutCallback, Succession
from .pipeline import Pipeline
from .sampler import Sampler
from .solution import BlockSolution, Unfinished


@dataclass(frozen=True)
class Forecast:
    """What a rollout made, for samples in the order in which they were given.

    Attributes:
        x: the fields, [samples, leads, *event].
        state: the model's states, [samples, leads, *event].
        rounds: network calls that had to wait for the one before them, over all leads, [samples].
        calls: network calls for every lead, those of guesses that were given up included, [samples, leads].
        status: how every lead ended, a `Status`, [samples, leads].
        residual: bound on the error of every lead relative to the exact sample given the lead before, in units of the data's
            scale, [samples, leads].
    """

    x: Tensor
    state: Tensor
    rounds: Tensor
    calls: Tensor
    status: Tensor
    residual: Tensor

    @classmethod
    def of(cls, leads: Sequence[LeadEnded]) -> Forecast:
        """Join leads that ended one after the other."""
        found = [lead.solution for lead in leads]
        return cls(
            x=torch.stack([lead.x for lead in leads], dim=1),
            state=torch.stack([each.x for each in found], dim=1),
            rounds=torch.stack([each.rounds for each in found]).sum(0),
            calls=torch.stack([each.calls for each in found], dim=1),
            status=torch.stack([each.status.amax(1) for each in found], dim=1),
            residual=torch.stack([each.residual[:, -1] for each in found], dim=1),
        )


@dataclass(frozen=True)
class Rollout:
    """Draws forecasts: every lead is a sample given the leads before it.

    Lead by lead, a lead begins when the one before it is done. Pipelined, it begins on the unconverged estimate of the one
    before, and is done when its own error bound holds given the final one. Either way each lead is within the sampler's
    tolerance of the exact one given its predecessor.

    Attributes:
        sampler: draws one lead; its seed is that of the rollout.
        given: makes conditions from fields, given(past [rows, order, *event], links), where the newest field comes last and
            every link holds start, member and lead of its row.
        field: makes the fields that later leads are given, field(x [rows, *event], condition); by default the states. For a
            model of residuals x - m(c) it adds m(c).
        threshold: pipelines leads: a lead is open while the end of the one before it moved in the last sweep by at most this,
            root mean square in units of `sampler.options.scale`. None solves lead by lead.

    Raises ValueError for a threshold that is not positive, and for one beside anything but collocation to a tolerance.
    """

    sampler: Sampler
    given: Given
    field: Field | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        mistakes = list(self._mistakes()) if self.threshold is not None else []
        if mistakes:
            raise ValueError("rollout: " + "; ".join(mistakes))

    def _mistakes(self) -> Iterator[str]:
        if self.threshold is not None and not self.threshold > 0:
            yield f"threshold = {self.threshold:g} must be positive; None solves lead by lead"
        if not isinstance(self.sampler.chain, Collocation):
            yield "leads are pipelined along the flow alone: give a Collocation, or threshold = None for a chain of steps"
        if self.sampler.options.tol is None:
            yield "pipelined leads end by their error bounds: give options.tol, or threshold = None"

    def draw(
        self,
        past: Tensor,
        leads: int | range,
        *,
        members: Sequence[int],
        starts: Sequence[int] | None = None,
        comm: Communicator | None = None,
        callback: RolloutCallback | None = None,
    ) -> Forecast:
        """Forecast every sample from its last fields; collective over `comm`, whose ranks share leads and points.

        Args:
            past: the fields before the first lead, [samples, order, *event], the newest last.
            leads: the number of leads, from 1 on; or a range of them, to go on from fields of earlier leads.
            members: number of the member that a sample is.
            starts: number of the start of a sample, by default 0 for all; no two samples are the same member of one start.
            comm: the ranks that share the work; default: this process alone.
            callback: receives every lead when it is done, and decides whether to stop.

        Raises:
            ValueError: for arguments that do not fit together; all mistakes at once.
            ScoreError: on every rank, when the score fails on any.
            Stopped: when the callback ends the work.
        """
        leads = range(1, leads + 1) if isinstance(leads, int) else leads
        starts = [0] * len(members) if starts is None else list(starts)
        mistakes = list(_mistakes(past, leads, list(members), starts, self.sampler.event_shape))
        if mistakes:
            raise ValueError("rollout: " + "; ".join(mistakes))
        past = past.to(self.sampler.device, self.sampler.dtype)
        links = [self.links(starts, members, lead) for lead in leads]
        succession = Succession(self.given, self.field, comm or SerialCommunicator())
        if self.threshold is None:
            return Forecast.of(self._lead_by_lead(succession, past, links, callback))
        return Forecast.of(Pipeline(self.sampler, succession, self.threshold, past, links, callback).leads())

    @staticmethod
    def links(starts: Sequence[int], members: Sequence[int], lead: int) -> list[Link]:
        """Return the links of samples at one lead."""
        return [Link(start, member, lead) for start, member in zip(starts, members, strict=True)]

    def noise_of(self, links: Sequence[Link]) -> LinkNoise:
        """Return the random numbers of links, for sample ids that are their positions."""
        return LinkNoise(self.sampler.noise(), dict(enumerate(links)))

    def _lead_by_lead(
        self, succession: Succession, past: Tensor, links: list[list[Link]], callback: RolloutCallback | None
    ) -> list[LeadEnded]:
        ended: list[LeadEnded] = []
        ids, stop = list(range(len(past))), None if callback is None else _StopBetween(callback)
        for row in links:
            condition = succession.condition(past, row)
            found = self.sampler.draw(ids, condition=condition, noise=self.noise_of(row), comm=succession.comm, callback=stop)
            x = succession.fields(found.x, condition)
            past = torch.cat([past[:, 1:], x[:, None]], dim=1)
            ended.append(LeadEnded(row[0].lead, x, found))
            if callback is not None:
                callback.lead_ended(ended[-1])
        return ended


class _StopBetween:
    """The hooks of one lead's `solve`, which asks a rollout's callback whether to stop."""

    def __init__(self, callback: RolloutCallback):
        self.callback = callback

    def block_ended(self, block: Block, result: BlockSolution, unfinished: Unfinished) -> None:
        """Keep nothing: a rollout goes on from a lead."""

    def should_stop(self, done: int) -> bool:
        """Return what the rollout's callback says."""
        return self.callback.should_stop()


def _mistakes(past: Tensor, leads: range, members: list[int], starts: list[int], event_shape: tuple[int, ...]) -> Iterator[str]:
    """Say what keeps the arguments of a rollout from fitting together."""
    if past.ndim < 2 or len(past) != len(members) or tuple(past.shape[2:]) != event_shape or past.shape[1] < 1:
        shape = [len(members), "order", *event_shape]
        yield f"past is {list(past.shape)} for {len(members)} samples; give their last fields [{', '.join(map(str, shape))}]"
    if not bool(torch.isfinite(past).all()):
        yield "past contains numbers that are not finite"
    if len(leads) == 0 or leads.step != 1 or not 1 <= leads[0] <= leads[-1] <= MOST_LEADS:
        yield f"leads = {leads}: give a number of leads from 1 to {MOST_LEADS}, or consecutive ones, range(first, last + 1)"
    if not members:
        yield "members: give at least one"
    if len(starts) != len(members):
        yield f"{len(starts)} starts for {len(members)} members; give every sample both"
    if any(not 0 <= start < MOST_STARTS for start in starts):
        yield f"starts are whole numbers from 0 to {MOST_STARTS - 1}"
    if len(set(zip(starts, members, strict=False))) != min(len(starts), len(members)):
        yield "two samples are the same member of the same start; members of a start must differ"
