"""Observations of forecasts: the lead and the start that every row of a table observes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...config.observations import ObservationsConfig
from ...data.observations import ObservationTable
from ...gaussian.observed import LinearObservations
from ..conditioning import Conditioning
from ..model import Model
from .posterior import Posterior, of_model, require_plausible
from .reading import as_config_error, read_for, require_same

MONTH = re.compile(r"(-?\d+)-(\d\d)")


@dataclass(frozen=True)
class Dated:
    """Observations of the leads of some starts.

    Attributes:
        table: the rows of the file.
        model: the model whose fields are observed.
        observations: all of them.
        leads: the lead that an observation belongs to, for every start; 0 for none, [starts, m].
        score: the value of `observations.score`.
        gamma: the constant of sda.
    """

    table: ObservationTable
    model: Model
    observations: LinearObservations
    leads: np.ndarray
    score: str
    gamma: float

    def at(self, start: int, lead: int) -> Posterior | None:
        """Return the posterior of a lead given its own observations, or None where it has none."""
        found = np.flatnonzero(self.leads[start] == lead)
        if len(found) == 0:
            return None
        part = self.observations.part(torch.from_numpy(found))
        return of_model(self.model, part, kind=self.score, gamma=self.gamma)

    def cost(self) -> str:
        """Describe the number of observations and updated leads."""
        used, count = (self.leads > 0).any(0), len(np.unique(self.leads[self.leads > 0]))
        return f"{int(used.sum())} of {self.table.sha256[:12]}, {count} leads updated, one after the other"


def read_dated(
    config: ObservationsConfig, model: Model, folder: str, starts: Sequence[str], leads: int, months: int | None
) -> Dated:
    """Read the observations of `leads` leads from `starts`, named by their dates, for a conditional model.

    `months` are those from one lead to the next, None for a model whose samples are not months. Raises ConfigError with all
    mistakes, and for observations none of which belongs to a lead.
    """
    with as_config_error():
        observations, table = read_for(config, model, folder, dated=True)
        if not isinstance(observations, LinearObservations):
            raise ValueError("forecasts take linear observations, and no operator")
        if not isinstance(model.conditioning, Conditioning):
            raise ValueError("forecasts by networks of other packages take no observations: their mean may not be linear")
        require_plausible(observations)
        found = _leads(table, starts, months)
        found[found > leads] = 0
        if not (found > 0).any():
            raise ValueError(f"none of them belongs to one of the {leads} leads; the starts are {', '.join(starts[:3])}")
    require_same(config, table)
    return Dated(table, model, observations, found, config.score, config.gamma)


def _leads(table: ObservationTable, starts: Sequence[str], months: int | None) -> np.ndarray:
    """The lead of every row for every start, [starts, m], 0 for none; ValueError for no or wrong times."""
    if "lead" in table.columns:
        lead = table["lead"]
        wrong = ~((lead == np.floor(lead)) & (lead >= 1))
        if wrong.any():
            raise ValueError(f"lead must be a whole number from 1 on: {table.of_mistake(wrong)}")
        if len(starts) > 1:
            raise ValueError(f"a column lead names leads of one start, and there are {len(starts)}; give a column time")
        return lead.astype(np.int64)[None]
    if "time" not in table.columns:
        raise ValueError("forecasts are updated by observations of their leads: give a column lead (1 is the first), or time")
    begun = [_month(start) for start in starts]
    if months is None or None in begun:
        raise ValueError("a column time needs starts with dates and a model with an input of the kind month; give a column lead")
    when = [_month(text) for text in table["time"]]
    wrong = np.array([month is None for month in when])
    if wrong.any():
        raise ValueError(f"time must be a date such as 1998-03-01: {table.of_mistake(wrong)}")
    passed = np.array(when)[None].astype(np.int64) - np.array(begun)[:, None].astype(np.int64)
    return np.where(passed % months == 0, passed // months, 0).clip(min=0)


def _month(text: object) -> int | None:
    """The number of months from year 0 to a date."""
    found = MONTH.match(str(text))
    return None if found is None or not 1 <= int(found[2]) <= 12 else 12 * int(found[1]) + int(found[2]) - 1
