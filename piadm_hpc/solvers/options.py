"""Options of the solvers: one record, which the configuration builds once and every solver reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..theory.chain import Chain

Linear = Literal["auto", "identity", "process", "denoised", "reference", "response"]
Start = Literal["auto", "constant", "reference"]
SolverName = Literal["picard", "sequential", "paradigms", "anderson", "newton", "parareal", "chords"]
Operator = Callable[[Tensor, Sequence[int]], Tensor]
Corrector = Callable[[float], Chain]


@dataclass(frozen=True)
class Options:
    """Settings of a solver. None of them changes the solution that it converges to.

    Attributes:
        solver: "picard" (sweeps), "sequential" (step by step), or a baseline of `solvers.baselines`.
        linear: the preconditioner, the part of a step that sweeps treat exactly. "auto" is the Gaussian reference's Jacobian
            where there is a reference (the model's probed Jacobian diagonal where it has one), else a constant denoised
            estimate, else the identity.
        start: the first path: "reference" follows the reference, "constant" repeats the first state.
        tol: bound on the error of the end state relative to the chain solved step by step, root mean square in units of
            `scale`; with None the solver makes exactly `sweeps` sweeps.
        sweeps: the number of sweeps without `tol`; with `tol`, their limit.
        window: the largest number of points open to a sweep; None opens all of them.
        pipelined: open one more block at every sweep instead of solving blocks one after the other.
        alternate: after its first sweep evaluate only every second point of a block, by turns. A sweep then takes half of the
            calls, and where steps are few the error falls as fast. Only for sweeps of "picard" with `tol` over whole blocks.
        certify: sweep over all points once a window has passed them, until the error bound is met. Without it the samples of a
            window are marked as not certified.
        in_flight: number of samples solved at once; when a sample is done, the next takes its place. None solves all at once.
        model_batch: largest number of rows of one call of the score.
        check_score: evaluate one state of the first call once more, alone, and refuse a score whose result depends on chance or
            on the other states of a call.
        scale: standard deviation of the data, a number or a field [d].
        operator: predicts the first path instead of `start`; it maps states [samples, c, d] and the later points to the states
            [points, samples, c, d] there.
        student: a cheap score with the same arguments, such as a smaller network distilled from the one that is solved. It
            computes the first path, step by step (node by node in a collocation) with the same noise, and its calls are not
            counted.
        corrector: maps a time to a chain of position and velocity, which follows every block.
        memory: number of differences that "anderson" keeps.
        parts: number of parts of a block for "parareal" (default: the root of its steps), or of cores of "chords" (default: 8).
        coarse: coarse solver of "parareal": one network call a part, or the reference, which costs no call.
        traces: how the log-determinant of a flow is computed, which takes collocation one more round: "none" leaves it out,
            "exact" takes one vector-Jacobian product for every degree of freedom, and a number that many random probes.
    """

    solver: SolverName = "picard"
    linear: Linear = "auto"
    start: Start = "auto"
    tol: float | None = 1e-2
    sweeps: int | None = None
    window: int | None = None
    pipelined: bool = False
    alternate: bool = False
    certify: bool = True
    in_flight: int | None = None
    model_batch: int | None = None
    check_score: bool = True
    scale: float | Tensor = 1.0
    operator: Operator | None = None
    student: Callable[..., Tensor] | None = None
    corrector: Corrector | None = None
    memory: int = 2
    parts: int | None = None
    coarse: Literal["network", "reference"] = "network"
    traces: Literal["none", "exact"] | int = "none"
