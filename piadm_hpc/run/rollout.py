"""Rollouts of a configured run: the starts in its file of conditions, and members that are stored lead by lead.

A run of M members, S starts and L leads has the ids (m S + s) L + l - 1 for lead l, so that more members can be appended. The
random numbers of a start depend on its date, so that they are the same in a file of its own.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..data.condition_files import GivenConditions
from ..models.card import Model
from ..schema.conditions import Condition
from ..solvers.links import MOST_STARTS, Link
from ..solvers.rollout import Rollout
from .conditions import given_conditions
from .resolve import ResolvedRun

HELD = ("map", "scalar", "class")  # inputs that have one value per start, which all its leads keep


@dataclass(frozen=True)
class Starts:
    """The starts of a run as states, and the conditions of its leads.

    Attributes:
        model: a model that takes its own earlier fields. given: the model's inputs at every start. order: number of earlier
            fields on which a lead is conditioned.
        months: months from one lead to the next.
        numbers: the number that determines the random numbers of every start.
    """

    model: Model
    given: GivenConditions
    order: int
    months: int
    numbers: list[int]

    @classmethod
    def of(cls, config: RunConfig, model: Model) -> Starts:
        """Read the starts of a run. Raises ConfigError for a model to which no lead can be passed on."""
        conditioning = model.conditioning
        if conditioning is None:
            raise ConfigError(f"rollout.leads: the model {model.name} takes no condition, so that no lead follows from another")
        lags: dict[str, set[int]] = defaultdict(set)
        for each in conditioning.inputs:
            if each.kind == "lag":
                lags[each.variable].add(each.lag)
            elif each.kind not in (*HELD, "month"):
                raise ConfigError(f"rollout.leads: the model's input {each.name} ({each.kind}) is not known after the first lead")
        if not lags:
            raise ConfigError(f"rollout.leads: the model {model.name} takes none of its own earlier fields (inputs of kind lag)")
        for variable, found in lags.items():
            if found != set(range(1, max(found) + 1)):
                raise ConfigError(
                    f"rollout.leads: the model takes {variable} at the lags {', '.join(map(str, sorted(found)))}; leads "
                    f"after the first need all lags from 1 to {max(found)}"
                )
        given = given_conditions(config)
        order = max(max(found) for found in lags.values())
        return cls(model, given, order, config.rollout.months, [_number(label) for label in given.labels.values])

    def past(self, starts: Sequence[int]) -> Tensor:
        """Return the states before the first lead, [rows, order, *event], for positions in the file; the newest last."""
        assert self.model.conditioning is not None
        names, inputs = self.model.conditioning.variables, self.model.conditioning.inputs
        known = {(each.variable, each.lag): self.given.values[each.name][list(starts)] for each in inputs if each.kind == "lag"}
        empty = np.zeros_like(next(iter(known.values())))
        # a field that no lead takes is not examined
        fields = [{name: known.get((name, lag), empty) for name in names} for lag in range(self.order, 0, -1)]
        return torch.stack([self.model.normalisation.encode(each) for each in fields], dim=1)

    def condition(self, past: Tensor, links: Sequence[Link]) -> Condition:
        """Return the conditions of leads: their last states [rows, order, *event], and the inputs of their starts."""
        model, rows = self.model, [self.numbers.index(link.start) for link in links]
        assert model.conditioning is not None
        lead = np.array([link.lead for link in links])
        decoded = {lag: model.normalisation.decode(past[:, self.order - lag]) for lag in range(1, self.order + 1)}
        values = {}
        for each in model.conditioning.inputs:
            if each.kind == "lag":
                values[each.name] = decoded[each.lag][each.variable]
            elif each.kind == "month":
                values[each.name] = (self.given.values[each.name][rows] - 1 + (lead - 1) * self.months) % 12 + 1
            else:
                values[each.name] = self.given.values[each.name][rows]
        return model.conditioning.encode(values)

    def field(self, x: Tensor, condition: Condition) -> Tensor:
        """Return states plus the mean that models of residuals subtract."""
        assert self.model.conditioning is not None
        return x + self.model.conditioning.mean(condition).to(x)


def rollout_of(resolved: ResolvedRun, starts: Starts) -> Rollout:
    """Build the rollout of a run; leads are pipelined if its chain allows it, unless the configuration forbids it."""
    threshold = resolved.config.rollout.threshold if pipelines(resolved) else None
    return Rollout(replace(resolved.sampler, stride=1), starts.condition, starts.field, threshold)


def pipelines(resolved: ResolvedRun) -> bool:
    """Whether the leads of a run are pipelined: as configured, or wherever its chain and its tolerance allow it."""
    spec, sampler = resolved.config.rollout, resolved.sampler
    able = sampler.chain.sequential_rounds is None and sampler.options.tol is not None and resolved.dated is None
    return spec.leads is not None and (able if spec.pipelined == "auto" else spec.pipelined == "on")


def _number(label: object) -> int:
    """The number that determines the random numbers of a start: its position, or its date, whatever file it is in."""
    if isinstance(label, int | np.integer) and 0 <= int(label) < MOST_STARTS:
        return int(label)
    return int.from_bytes(hashlib.sha256(str(label).encode()).digest()[:5], "big")
