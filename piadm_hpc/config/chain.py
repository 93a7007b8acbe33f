"""The sections of a run's configuration that choose the chain: the integrator with its options, and the phase-space process."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..integrators.catalogue import INTEGRATORS, Integrator, find
from .plugins import PluginName
from .validation import Record

Auto = Literal["auto"]


class ChainConfig(Record):
    """The discretisation of the reverse process: an integrator of the catalogue (`piadm integrators` lists them), with options.

    An integrator refuses `lam`, `lam_s` and `score_time` if it does not read them.

    Attributes:
        integrator: name of the integrator. "auto" takes the Gaussian-aware two-step integrator for the SDE and
            collocation for the ODE (eta 0); for a network of position and momentum it takes "sscs" and "gddim-ab2".
        generator: "package.module:callable", a function of the model that returns a network G(x, t) distilled into one call;
            it replaces the integrator.
        eta: scale of the noise, 1 for the reverse SDE and 0 for the probability-flow ODE. "auto" takes the value that the
            model's card recommends, else 1, or 0 for ddim, for gaussian-ab2 and for a run with observations.
        large_variance: use the larger of DDPM's two variances.
        lam: lambda of the conjugate integrators.
        lam_s: scale of the position's noise in splittings.
        score_time: time at which splittings evaluate the score.
    """

    integrator: str = "auto"
    generator: PluginName | None = None
    eta: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    large_variance: bool = False
    lam: float | Literal["best"] = 0.0
    lam_s: float = Field(1.0, ge=0)
    score_time: Literal["now", "middle", "next", "ahead"] = "now"

    @field_validator("integrator")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name == "auto" else find(name).name

    @model_validator(mode="after")
    def _read(self) -> Self:
        unread = {key for key in ("lam", "lam_s", "score_time") if key in self.model_fields_set} - set(self.method.reads)
        changed = [key for key in sorted(unread) if getattr(self, key) != type(self).model_fields[key].default]
        if changed:
            readers = {key: ", ".join(one.name for one in INTEGRATORS.values() if key in one.reads) for key in changed}
            raise ValueError("; ".join(f"{self.method.name} does not read {key}; {readers[key]} do" for key in changed))
        if self.lam == "best" and self.integrator != "lambda-ddim":
            raise ValueError("lam = 'best' is the closed form of lambda-ddim; give a number, or use lambda-ddim")
        if self.generator is not None and self.integrator != type(self).model_fields["integrator"].default:
            raise ValueError(f"generator makes a sample in one call, {self.integrator} in many; leave one of the two out")
        return self

    @property
    def method(self) -> Integrator:
        """The record of the integrator."""
        return find(("gaussian-ab2" if self.eta else "collocation") if self.integrator == "auto" else self.integrator)


class PhaseConfig(Record):
    """The process of position and momentum that phase-space integrators use, at critical damping (`theory.phase`)."""

    gamma: float = Field(0.01, ge=0)
    inverse_mass: float = Field(4.0, gt=0)
    beta: float = Field(8.0, gt=0)
    kappa: float = Field(0.04, gt=0)
