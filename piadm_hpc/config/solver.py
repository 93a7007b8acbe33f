"""The solver section of a run's configuration, as one validated record."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ..solvers.baselines.settings import READ_BY, mistakes_of
from .limits import Count
from .paths import PathName
from .plugins import PluginName
from .validation import Record

SWEPT = tuple(key for key, kinds in READ_BY.items() if "picard" in kinds)


class SolverConfig(Record):
    """How the blocks of a run are solved.

    Kinds other than "auto", "picard" and "sequential" are baselines: solvers from other papers, for comparison.

    Attributes:
        kind: the solver: "picard" (sweeps), "sequential" (step by step), or a baseline. "auto" chooses steps, sweeps or a
            window of sweeps when the run starts, whichever is predicted to be the fastest, and sweeps if a setting is given
            that applies only to them.
        linear: the preconditioner, the part of a step that every sweep treats exactly.
        start: the first path; "package.module:callable" names a function of (model, chain) that returns an operator, which
            predicts the path.
        student: folder of a model with a cheaper network for the same states, whose path with the same noise is the first path,
            of a chain or of a flow.
        tol: bound on the error of a sample, in units of the data's standard deviation.
        sweeps: largest number of sweeps; samples that need more are finished step by step.
        fixed_depth: make exactly `sweeps` sweeps, as published, and ignore `tol`.
        reference: a file from `piadm reference MODEL --data FILE`, which replaces the model's own reference.
        window: largest number of points open to a sweep.
        pipelined: open one more block at every sweep, instead of solving blocks one after the other.
        alternate: after the first sweep evaluate only every second point, by turns: half the calls for a few more sweeps, or
            for none where steps are few.
        certify: sweep over all points once a window has passed them, until the error bound is met.
        memory: number of differences that "anderson" keeps.
        parts: number of parts of a block for "parareal" (default: the root of its steps), or of cores of "chords" (4, 6 or 8).
        coarse: coarse solver of "parareal".
    """

    kind: Literal["auto", "picard", "sequential", "paradigms", "anderson", "newton", "parareal", "chords"] = "auto"
    linear: Literal["auto", "identity", "process", "denoised", "reference", "response"] = "auto"
    start: Literal["auto", "constant", "reference"] | PluginName = "auto"
    student: PathName | None = None
    tol: float = Field(1e-2, gt=0)
    sweeps: Count | None = None
    fixed_depth: bool = False
    reference: PathName | None = None
    window: Count | None = None
    pipelined: bool = False
    alternate: bool = False
    certify: bool = True
    memory: Count = 2
    parts: Count | None = None
    coarse: Literal["network", "reference"] = "network"

    @property
    def free(self) -> bool:
        """Whether the run may choose between steps, sweeps and windows."""
        return self.kind == "auto" and not any(getattr(self, key) != type(self).model_fields[key].default for key in SWEPT)

    @model_validator(mode="after")
    def _depth(self) -> Self:
        if self.fixed_depth and self.sweeps is None:
            raise ValueError("fixed_depth needs `sweeps`, the number of sweeps")
        if self.fixed_depth and self.window is not None:
            raise ValueError("a window moves when points meet `tol`: leave out fixed_depth, or the window")
        if self.alternate and (self.fixed_depth or self.window is not None or self.pipelined):
            raise ValueError(
                "alternate: sweeps over whole blocks until `tol` is met; leave out window, pipelined and fixed_depth"
            )
        fields = type(self).model_fields
        if self.student is not None and self.start != "auto":
            raise ValueError("start and student both give the first path: leave one of them out")
        mistakes = mistakes_of(self.kind, self.parts, [key for key in fields if getattr(self, key) != fields[key].default])
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self
