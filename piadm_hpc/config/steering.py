"""The section of a run's configuration that steers samples by a potential on their fields."""

from __future__ import annotations

from pydantic import Field

from .limits import Many
from .plugins import PluginName
from .validation import Record


class SteeringConfig(Record):
    """Samples weighted by exp(potential), and steered in groups by resampling at the ends of blocks.

    Attributes:
        potential: "package.module:callable", a function of the model that returns a function of its fields: log-potentials [n].
        group: members that are steered together, those with the ids k group to (k + 1) group - 1. They depend on each other.
        threshold: a group is resampled if its effective sample size is below this fraction of its members; 0 never resamples.
    """

    potential: PluginName
    group: Many = Field(16, ge=2)
    threshold: float = Field(0.5, ge=0, le=1)

    def mistakes(self, *, ids: tuple[int, ...], batch: int | str, blocks: int | str, alone: bool, noisy: bool) -> list[str]:
        """List the other settings of a run that are not possible with steering."""
        wrong, there = [], set(ids)
        if any(first - first % self.group + k not in there for first in ids for k in range(self.group)):
            wrong.append(
                f"steering.group = {self.group}: draw whole groups, ids k {self.group} to k {self.group} + {self.group - 1}"
            )
        if batch not in ("auto", self.group):
            wrong.append(f"output.batch = {batch}: a group of steering.group = {self.group} is a batch; leave batch out")
        if blocks == 1:
            wrong.append("grid.blocks = 1: samples are resampled at the ends of blocks; give more, or leave blocks out")
        if not alone:
            wrong.append("steering: leave rollout, observations, density, condition, corrector and generator out")
        if not noisy:
            wrong.append(
                "steering: copies of a sample part by noise; use a chain of one field and one step with chain.eta above 0"
            )
        return wrong
