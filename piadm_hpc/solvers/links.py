"""Links of a rollout: the forecast to which a row belongs, its random numbers, and the fields passed from lead to lead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..comm.failure import together
from ..schema.conditions import Condition, matched
from ..theory.grid import Block
from ..theory.noise import CHAIN, Noise
from .solution import BlockSolution, Solution, Unfinished

# streams of random numbers: kinds for each lead, leads of each start, starts; their product fits into one word of the counter
KINDS, MOST_LEADS, MOST_STARTS = 4, 2**20, 2**40


class Link(NamedTuple):
    """The forecast of one member from one start at one lead, counted from 1."""

    start: int
    member: int
    lead: int


# given(past [rows, order, *event], links): the condition of the samples of links; the newest field comes last
Given = Callable[[Tensor, Sequence[Link]], Condition]
# field(x [rows, *event], condition): the fields that later leads are given, of a model's states
Field = Callable[[Tensor, Condition], Tensor]


@dataclass(frozen=True)
class LeadEnded:
    """A lead that is done for all samples.

    Attributes:
        lead: its number, from 1.
        x: the fields, [samples, *event].
        solution: the model's states and what they cost; its `rounds` are those that this lead added to the lead before.
    """

    lead: int
    x: Tensor
    solution: Solution


class RolloutCallback(Protocol):
    """Hooks that a rollout calls while it works; they are collective over the ranks that share it."""

    def lead_ended(self, result: LeadEnded) -> None:
        """Receive a lead once it is done for all samples, in the order of leads."""
        ...

    def should_stop(self) -> bool:
        """Return whether to end the work here, between two network calls."""
        ...


class StopBetween:
    """The hooks of one lead's `solve`, which asks a rollout's callback whether to stop."""

    def __init__(self, callback: RolloutCallback):
        self.callback = callback

    def block_ended(self, block: Block, result: BlockSolution, unfinished: Unfinished) -> None:
        """Keep nothing: a rollout continues from a lead."""

    def should_stop(self, done: int) -> bool:
        """Return the answer of the rollout's callback."""
        return self.callback.should_stop()


class LinkNoise:
    """The random numbers of links, which are named by their positions: those of the member, in the stream of start and lead.

    At the first lead of start 0 they are those of the sample that has the member's number outside a rollout.
    """

    def __init__(self, noise: Noise, links: Mapping[int, Link]):
        self.noise, self.links, self.size = noise, links, noise.size

    def at(self, steps: Iterable[int], samples: Sequence[int], channels: int = 1, stream: int = CHAIN) -> Tensor:
        """Return draws [steps, samples, channels, d]."""
        steps = list(steps)
        return torch.cat([self._of(self.links[sample], steps, channels, stream) for sample in samples], dim=1)

    def _of(self, link: Link, steps: list[int], channels: int, stream: int) -> Tensor:
        place = link.lead - 1 + MOST_LEADS * link.start
        return self.noise.at(steps, [link.member], channels, stream + KINDS * place)


@dataclass(frozen=True)
class Succession:
    """The functions of a rollout, which lead from one link to the next; they fail on all ranks together; collective."""

    given: Given
    field: Field | None
    comm: Communicator

    def condition(self, past: Tensor, links: Sequence[Link]) -> Condition:
        """Return the condition of links whose last fields are `past` [rows, order, *event], in the precision of these."""
        return together(self.comm, lambda: matched(self.given(past, links), past))

    def fields(self, x: Tensor, condition: Condition) -> Tensor:
        """Return the fields [rows, *event] of states that were drawn given a condition."""
        field = self.field
        return x if field is None else together(self.comm, lambda: field(x, condition))


def mistakes_of_links(
    past: Tensor, leads: range, members: list[int], starts: list[int], event_shape: tuple[int, ...]
) -> Iterator[str]:
    """List the reasons why the arguments of a rollout do not fit together."""
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
