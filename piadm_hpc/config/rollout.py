"""The section of a run's configuration that makes its samples forecasts, each conditioned on those before it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .limits import Count, Many
from .validation import Record


class RolloutConfig(Record):
    """Forecasts: every condition of `condition.file` is a start, every lead a sample conditioned on the leads before it.

    Attributes:
        leads: number of leads of every start. None draws samples given the conditions, without leads.
        pipelined: begin a lead with the unconverged estimate of the one before it; "auto" does so if the flow is solved by
            collocation, the default of a rollout.
        threshold: a lead is open while the end of the one before it moved in the last sweep by at most this many standard
            deviations of the data.
        months: months from one lead to the next, for an input of the kind "month".
    """

    leads: Many | None = None
    pipelined: Literal["auto", "on", "off"] = "auto"
    threshold: float = Field(0.3, gt=0)
    months: Count = 1

    def mistakes(
        self, *, file: str | None, integrator: str, eta: float | str, fixed_depth: bool, observed: bool
    ) -> list[str]:  # fmt: skip
        """List the other settings of a run that are not possible with forecasts."""
        if self.leads is None:
            return []
        wrong = ["rollout.leads: forecasts begin at fields; give condition.file (--init FILE)"] if file is None else []
        if self.pipelined == "on" and (integrator not in ("auto", "collocation") or eta not in ("auto", 0)):
            wrong.append(
                f"rollout.pipelined with chain.integrator = {integrator!r}, chain.eta = {eta}: only leads of the flow are "
                'pipelined; use collocation and eta 0, or pipelined = "auto"'
            )
        if self.pipelined == "on" and fixed_depth:
            wrong.append("rollout.pipelined with solver.fixed_depth: leads end by their error bounds; leave one of the two out")
        if self.pipelined == "on" and observed:
            wrong.append("rollout.pipelined with observations: observed leads follow each other; leave one of the two out")
        return wrong
