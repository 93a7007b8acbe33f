"""Pipelined leads of a rollout: a lead is swept over while the one before it still moves.

A lead is open while the end of the lead before it moved by at most a threshold in the last sweep. Before every sweep its
condition is made from the present estimates of the leads before it. After a larger move it is closed, together with all leads
that follow it, and begins anew later. Where a time range had to be cut, sweeps with early estimates are lost: the two leads that
follow wait until the one before them is done. A lead is done only when the leads before it are done, and its own bound,
measured with their final fields as its condition, meets the tolerance: it is as exact given its own predecessor as if solved
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..comm.communicator import largest
from ..schema.conditions import apply_to_leaves
from .arguments import check_arguments
from .collocate import CollocationSolver
from .collocation import Collocation
from .evaluate import Conditions, Evaluator
from .links import LeadEnded, Link, LinkNoise, RolloutCallback, Succession
from .sampler import Sampler
from .slot import Slot
from .solution import Solution, Stopped
from .steady import checked


class Pipeline(CollocationSolver):
    """Solves the leads of many samples on one rank; the position of a link in the batch is sample * leads + lead."""

    def __init__(
        self, sampler: Sampler, succession: Succession, threshold: float, past: Tensor, links: Sequence[Sequence[Link]],
        callback: RolloutCallback | None,
    ):  # fmt: skip
        self.succession, self.threshold, self.callback, comm = succession, threshold, callback, succession.comm
        self.count, self.order = len(links), past.shape[1]
        self.links = [links[lead][sample] for sample in range(len(past)) for lead in range(self.count)]
        ids = list(range(len(self.links)))
        # every lead gets a condition of the right form, which is replaced before it is used
        first = apply_to_leaves(succession.condition(past, links[0]), lambda values: values.repeat_interleave(self.count, 0))
        noise = LinkNoise(sampler.noise(), dict(enumerate(self.links)))
        x0 = sampler.prior_states(ids, noise)[:, 0]
        check_arguments(
            sampler.chain, x0, ids, sampler.options, momentum=None, condition=first, noise=noise, reference=sampler.reference,
            comm=comm,
        )  # fmt: skip
        self.conditions = Conditions(first, {index: index for index in ids})
        evaluator = Evaluator(
            checked(sampler.score, sampler.options), sampler.event_shape, sampler.project, sampler.options.model_batch,
            comm.world_rank, conditions=self.conditions,
        )  # fmt: skip
        scheme = sampler.chain
        assert isinstance(scheme, Collocation)
        super().__init__(scheme, evaluator, evaluator.project(x0.flatten(1)), ids, sampler.options, comm, None)
        self.fields = torch.cat([past, past.new_zeros(len(past), self.count, *past.shape[2:])], dim=1)
        self.moved = torch.full((len(ids),), torch.inf, dtype=torch.float64)
        self.fresh: list[int] = []
        self.done: set[int] = set()
        self.finished: dict[int, Tensor] = {}
        self.certain: set[int] = set()
        self.cut: set[int] = set()
        self.rounds = torch.zeros(len(past), dtype=torch.long)
        self.ended: list[LeadEnded] = []

    def leads(self) -> list[LeadEnded]:
        """Sweep until every lead of every sample is done; collective. Raises ScoreError or Stopped on every rank."""
        self.run()
        return self.ended

    def _check_stop(self) -> None:
        """Raise Stopped if the callback asks for it; it has already received the leads that are done."""
        if self.callback is not None and self.callback.should_stop():
            raise Stopped([], None)

    def _fill(self) -> None:
        """Close leads whose condition moved too far, open those that may begin, and update the conditions of all leads."""
        self._hand_out()
        slots: dict[int, Slot] = {}
        for slot in sorted(self.slots, key=lambda slot: slot.index):
            if self._may_begin(slot.index, slots):
                slots[slot.index] = slot
        room = self.options.in_flight or len(self.links)
        opened = self._next_leads(slots)[: room - len(slots)]
        slots |= {index: self._enter(index) for index in opened}
        self._condition([index for index in slots if index not in self.certain])
        self.certain |= {index for index in slots if self._is_first(index) or index - 1 in self.done}
        self.slots = list(slots.values())
        self.fresh = opened

    def _is_first(self, index: int) -> bool:
        return index % self.count == 0

    def _may_begin(self, index: int, slots: dict[int, Slot]) -> bool:
        """Whether the lead before is done, or open and nearly converged, unless a range was cut recently."""
        before = index - 1
        if self._is_first(index) or before in self.done:
            return True
        whole = before not in self.cut and (self._is_first(before) or before - 1 not in self.cut)
        return whole and before in slots and bool(self.moved[before] <= self.threshold)

    def _next_leads(self, slots: dict[int, Slot]) -> list[int]:
        """The leads that may begin; samples that have begun come first, so that they finish before others begin."""
        closed = [index for index in range(len(self.links)) if index not in self.done and index not in slots]
        return sorted((index for index in closed if self._may_begin(index, slots)), key=self._is_first)

    def _condition(self, indices: Sequence[int]) -> None:
        """Make the conditions of leads from the present fields before them."""
        if not indices:
            return
        windows = torch.stack([self._window(index) for index in indices])
        made = self.succession.condition(windows, [self.links[index] for index in indices])
        rows = torch.tensor(indices)
        apply_to_leaves(self.conditions.tree, lambda values, new: values.index_copy_(0, rows.to(values.device), new), made)

    def _window(self, index: int) -> Tensor:
        """The fields on which a lead is conditioned, [order, *event]."""
        sample, lead = divmod(index, self.count)
        return self.fields[sample, lead : lead + self.order]

    def _advance(self) -> None:
        """Advance all paths, and record their present ends and how far these have moved."""
        self.rounds[sorted({slot.index // self.count for slot in self.slots})] += 1
        super()._advance()
        # the end of a range that was cut is not known before its last piece is done
        self._note_ends(
            [slot for slot in self.slots if len(slot.todo) == 1 and slot.todo[0].high - slot.todo[0].low == self.length]
        )
        # the change in the first sweep is the error of the first guess
        self.moved[self.fresh] = torch.inf

    def _note_ends(self, slots: Sequence[Slot]) -> None:
        """Pass the present ends of leads on, and record how far they have moved since they were last passed on."""
        if not slots:
            return
        ends = self.evaluator.project(torch.stack([self.whitening.leave(slot.path[-1]) for slot in slots]))
        indices = [slot.index for slot in slots]
        change = (self._pass_on(indices, ends).flatten(1) / self.options.scale).square().mean(1).sqrt().to("cpu", torch.float64)
        self.moved[indices] = largest(self.comm, change)

    def _pass_on(self, indices: Sequence[int], ends: Tensor) -> Tensor:
        """Store the fields of leads that end at the flat states `ends`, and return what that changed."""
        places = torch.tensor(indices, device=ends.device)
        sample, column = places // self.count, self.order + places % self.count
        new = self.succession.fields(ends.reshape(-1, *self.fields.shape[2:]), self.conditions.of(indices))
        change = new - self.fields[sample, column]
        self.fields[sample, column] = new
        return change

    def _next(self, slot: Slot) -> Slot | None:
        """Decide as for a single sample if the lead before was done; otherwise sweep once more, whatever the bound.

        Bounds that were measured with another condition say nothing about the final one.
        """
        if slot.index not in self.certain:
            slot.best, slot.idle, slot.age = torch.inf, 0, 1
        kept = super()._next(slot)
        if kept is None:
            self.done.add(slot.index)
            self.finished[slot.index] = self.rounds[slot.index // self.count].clone()
            self._pass_on([slot.index], self.result.end[slot.index])
        elif len(slot.todo) > 1:
            self.moved[slot.index] = torch.inf
            self.cut.add(slot.index)
        return kept

    def _hand_out(self) -> None:
        """Pass on the leads that are done for all samples."""
        samples = len(self.fields)
        while len(self.ended) < self.count:
            lead = len(self.ended)
            indices = [sample * self.count + lead for sample in range(samples)]
            if not self.done.issuperset(indices):
                return
            extra, result = torch.zeros(2, samples, dtype=torch.long), self.result.of(indices)
            solution = Solution.of(result.end, tuple(self.fields.shape[2:]), [result], extra)
            spent = torch.stack([self.finished[index] for index in indices])
            before = torch.zeros_like(spent) if lead == 0 else torch.stack([self.finished[index - 1] for index in indices])
            x = self.fields[:, self.order + lead].clone()
            ended = LeadEnded(self.links[lead].lead, x, replace(solution, rounds=spent - before))
            self.ended.append(ended)
            if self.callback is not None:
                self.callback.lead_ended(ended)
