"""Rollouts: sequences of samples, each conditioned on those before it, for many starts, members and leads.

The random numbers of a lead depend only on seed, member, start and lead, so that a member is the same whatever else is in the
batch, on any number of ranks, and after any restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator, SerialCommunicator
from ..comm.failure import together
from ..schema.conditions import Condition
from ..theory.noise import NoiseSource
from .collocation import Collocation
from .links import Field, Given, LeadEnded, Link, LinkNoise, RolloutCallback, StopBetween, Succession, mistakes_of_links
from .pipeline import Pipeline
from .sampler import Sampler


@dataclass(frozen=True)
class Forecast:
    """The forecasts of a rollout, for samples in the order of its arguments.

    Attributes:
        x: the fields, [samples, leads, *event].
        state: the model's states, [samples, leads, *event].
        rounds: network calls that had to wait for the one before them, over all leads, [samples].
        calls: network calls (NFE) for every lead, including those with estimates that were discarded, [samples, leads].
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
class Observed:
    """A lead with observations.

    Attributes:
        sampler: draws the lead given its observations.
        past: past(past, links, noise), the last fields [rows, order, *event] given the observations of the field that follows.
        finish: finish(x, condition), the states of the model for what the sampler drew.
    """

    sampler: Sampler
    past: Callable[[Tensor, Sequence[Link], NoiseSource], Tensor]
    finish: Callable[[Tensor, Condition], Tensor]


@dataclass(frozen=True)
class Rollout:
    """Draws forecasts: every lead is a sample conditioned on the leads before it.

    Lead by lead, a lead begins when the one before it is done. Pipelined, it begins with the unconverged estimate of the one
    before, and is done when its own error bound is met given the final one. Either way each lead is within the sampler's
    tolerance of the exact one given its predecessor.

    Attributes:
        sampler: draws one lead; its seed is that of the rollout.
        given: makes conditions from fields, given(past [rows, order, *event], links), where the newest field comes last and
            every link holds start, member and lead of its row.
        field: makes the fields that later leads are given, field(x [rows, *event], condition); by default the states. For a
            model of residuals x - m(c) it adds m(c).
        threshold: pipelines leads: a lead is open while the end of the one before it moved in the last sweep by at most this,
            root mean square in units of `sampler.options.scale`. None solves lead by lead.
        observed: observed(lead), how the observations of a lead change it; None for a lead without.

    Raises ValueError for a threshold that is not positive, for one beside anything but collocation to a tolerance, and beside
    observations.
    """

    sampler: Sampler
    given: Given
    field: Field | None = None
    threshold: float | None = None
    observed: Callable[[int], Observed | None] | None = None

    def __post_init__(self) -> None:
        mistakes = list(self._mistakes()) if self.threshold is not None else []
        if mistakes:
            raise ValueError("rollout: " + "; ".join(mistakes))

    def _mistakes(self) -> Iterator[str]:
        if self.threshold is not None and not self.threshold > 0:
            yield f"threshold = {self.threshold:g} must be positive; None solves lead by lead"
        if not isinstance(self.sampler.chain, Collocation):
            yield "only leads of the flow are pipelined: give a Collocation, or threshold = None for a chain of steps"
        if self.sampler.options.tol is None:
            yield "pipelined leads end by their error bounds: give options.tol, or threshold = None"
        if self.observed is not None:
            yield "observed leads follow each other: give threshold = None"

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
            leads: the number of leads, from 1 on; or a range of them, to continue from fields of earlier leads.
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
        mistakes = list(mistakes_of_links(past, leads, list(members), starts, self.sampler.event_shape))
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
        ids, stop = list(range(len(past))), None if callback is None else StopBetween(callback)
        for row in links:
            noise, sampler, observed = self.noise_of(row), self.sampler, self._observed(succession.comm, row[0].lead)
            if observed is not None:
                past, sampler = together(succession.comm, partial(observed.past, past, row, noise)), observed.sampler
            condition = succession.condition(past, row)
            found = sampler.draw(ids, condition=condition, noise=noise, comm=succession.comm, callback=stop)
            if observed is not None:
                found = replace(found, x=together(succession.comm, partial(observed.finish, found.x, condition)))
            x = succession.fields(found.x, condition)
            past = torch.cat([past[:, 1:], x[:, None]], dim=1)
            ended.append(LeadEnded(row[0].lead, x, found))
            if callback is not None:
                callback.lead_ended(ended[-1])
        return ended

    def _observed(self, comm: Communicator, lead: int) -> Observed | None:
        """Return the effect of the observations of a lead, on all ranks."""
        return None if self.observed is None else together(comm, partial(self.observed, lead))
