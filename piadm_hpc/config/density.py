"""The section of a run's configuration that asks for log-densities of samples."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from .limits import MOST
from .validation import Record

FEW_DIRECTIONS = 256  # up to which "auto" takes exact traces
AUTO_PROBES = 16


class DensityConfig(Record):
    """Log-densities of samples, by the divergence of the probability flow at the nodes of a collocation.

    Attributes:
        enabled: compute `log_density` and its error for every sample. The chain is then the flow, solved by collocation.
        traces: "exact" takes one vector-Jacobian product for every degree of freedom of a state, and a number that many random
            probes at every node. "auto" takes exact traces for up to 256 degrees of freedom, and 16 probes otherwise.
    """

    enabled: bool = False
    traces: int | Literal["auto", "exact"] = "auto"

    @field_validator("traces")
    @classmethod
    def _enough(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 2 <= value <= MOST:
            raise ValueError(f"give 'auto', 'exact', or a number of probes from 2 to {MOST}")
        return value

    def chosen(self, directions: int) -> int | Literal["none", "exact"]:
        """Return how traces are computed for states with so many degrees of freedom."""
        if not self.enabled:
            return "none"
        if self.traces == "auto":
            return "exact" if directions <= FEW_DIRECTIONS else AUTO_PROBES
        return self.traces

    def mistakes(self, integrator: str, eta: float | str) -> list[str]:
        """List the settings of a chain that are not possible with densities."""
        if not self.enabled:
            return []
        words = "densities belong to the probability flow, solved by collocation; leave it out"
        wrong = [f"chain.integrator = {integrator!r}"] * (integrator not in ("auto", "collocation"))
        wrong += [f"chain.eta = {eta}"] * (eta not in ("auto", 0))
        return [f"density.enabled with {' and '.join(wrong)}: {words}"] if wrong else []
