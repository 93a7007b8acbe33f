"""The section of a run's configuration that names the statistics of its members to compute during the run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from .paths import PathName
from .validation import Record

Kind = Literal["mean", "std", "extremes", "quantiles", "histogram", "exceedance", "crps", "rank_histogram"]
SCORES = ("crps", "rank_histogram")
MOST_BINS = 4096


class StatisticsConfig(Record):
    """Statistics of the members of a run at every point, written to statistics.h5.

    Attributes:
        kinds: what is computed: mean, std, extremes, quantiles, histogram, exceedance, crps, rank_histogram.
        quantiles: levels of the quantiles.
        thresholds: levels of every variable whose exceedance is counted, in its units.
        truth: a file with the observed truth, by variable, for crps and rank_histogram.
        bins: number of bins of a histogram at every point.
        exact: number of members up to which quantiles and crps are exact; beyond it the members in every bin are counted.
        absolute: add the climatology of a model of anomalies first.
        month: month of a monthly climatology, if the run does not determine it.
    """

    kinds: tuple[Kind, ...] = ()
    quantiles: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.05, 0.5, 0.95)
    thresholds: dict[str, tuple[float, ...]] | None = None
    truth: PathName | None = None
    bins: int = Field(64, ge=4, le=MOST_BINS)
    exact: int = Field(64, ge=0, le=MOST_BINS)
    absolute: bool = False
    month: int | None = Field(None, ge=1, le=12)

    @field_validator("kinds", "quantiles")
    @classmethod
    def _once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) != len(values):
            raise ValueError("lists something twice")
        return values

    @field_validator("thresholds")
    @classmethod
    def _levels(cls, levels: dict[str, tuple[float, ...]] | None) -> dict[str, tuple[float, ...]] | None:
        if levels is None:
            return None
        if any(len(values) == 0 or len(set(values)) != len(values) for values in levels.values()):
            raise ValueError("give every variable a list of different levels, for example { tas = [273.15, 300] }")
        return {name: tuple(sorted(values)) for name, values in levels.items()}

    def mistakes(self, *, members: bool) -> list[str]:
        """List the settings that are not possible together, with `members` stored or not."""
        wrong = []
        scores = [kind for kind in SCORES if kind in self.kinds]
        if not members and not self.kinds:
            wrong.append('output.members = false: nothing would be stored; name statistics.kinds, such as ["mean", "std"]')
        if "exceedance" in self.kinds and not self.thresholds:
            wrong.append("statistics.thresholds: exceedance needs levels, for example { tas = [273.15, 300] }")
        if self.thresholds and "exceedance" not in self.kinds:
            wrong.append('statistics.thresholds: only for statistics.kinds = ["exceedance"]; add it, or leave thresholds out')
        if scores and self.truth is None:
            wrong.append(f"statistics.truth: give the file of the observed truth, for {' and '.join(scores)}")
        if self.truth is not None and not scores:
            wrong.append(f"statistics.truth: only for {' and '.join(SCORES)}; add one to statistics.kinds, or leave truth out")
        if "quantiles" in self.kinds and not self.quantiles:
            wrong.append("statistics.quantiles: the list is empty; give levels from 0 to 1")
        if self.month is not None and not self.absolute:
            wrong.append("statistics.month: only for statistics.absolute; leave it out")
        return wrong
