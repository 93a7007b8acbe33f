"""How the blocks of a run are solved, as one validated record."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ..solvers.baselines.settings import mistakes_of
from .plugins import PluginName
from .validation import Record


class SolverConfig(Record):
    """How a block is solved. `tol` bounds the error of a sample in units of the data's standard deviation.

    Give `sweeps` with `fixed_depth = true` for a fixed number of sweeps as published; `sweeps` alone limits them
    (samples that need more are finished sequentially). `linear`: what every sweep treats exactly. `reference`: a file
    from `piadm reference MODEL --data FILE` instead of the model's own. `window`: points open
    to a sweep at most; `pipelined`: one block more is opened every sweep, instead of blocks one after the other;
    `certify`: sweep over all points once a window has passed them, until the error bound holds. `start`
    may name an operator of one's own that predicts the path, "package.module:callable": callable(model, chain) gives it.
    Kinds other than picard and sequential are baselines (docs/baselines.md): `memory` of anderson, `parts` of parareal (default
    the root of a block's steps) or cores of chords (4, 6 or 8), `coarse` solver of parareal.
    """

    kind: Literal["picard", "sequential", "paradigms", "anderson", "newton", "parareal", "chords"] = "picard"
    linear: Literal["auto", "identity", "process", "denoised", "reference", "response"] = "auto"
    start: Literal["auto", "constant", "reference"] | PluginName = "auto"
    tol: float = Field(1e-2, gt=0)
    sweeps: int | None = Field(None, ge=1)
    fixed_depth: bool = False
    reference: str | None = Field(None, min_length=1)
    window: int | None = Field(None, ge=1)
    pipelined: bool = False
    certify: bool = True
    memory: int = Field(2, ge=1)
    parts: int | None = Field(None, ge=1)
    coarse: Literal["network", "reference"] = "network"

    @model_validator(mode="after")
    def _depth(self) -> Self:
        if self.fixed_depth and self.sweeps is None:
            raise ValueError("fixed_depth needs `sweeps`, the number of sweeps")
        if self.fixed_depth and self.window is not None:
            raise ValueError("a window moves when points meet `tol`: no fixed_depth with it")
        fields = type(self).model_fields
        mistakes = mistakes_of(self.kind, self.parts, [key for key in fields if getattr(self, key) != fields[key].default])
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self
