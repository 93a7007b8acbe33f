"""How a chain is solved, as one record that the configuration builds once and every solver reads."""

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
    """Settings of a solver; none of them changes what it converges to.

    Attributes:
        solver: "picard" (sweeps), "sequential" (step by step), or a baseline of `solvers.baselines`.
        linear: the preconditioner, the part of a step that sweeps treat exactly. "auto" is the Gaussian reference's
            Jacobian where there is a reference (the model's probed Jacobian diagonal where it has one), else the denoised
            estimate held, else the identity.
        start: the first path: "reference" follows the reference, "constant" repeats the first state.
        tol: bound on the error of the end state against the chain step by step, root mean square in units of `scale`;
            None makes exactly `sweeps` sweeps.
        sweeps: the number of sweeps without `tol`, and with it their limit.
        window: the largest number of points open to a sweep; None opens all of them.
        pipelined: open one block more every sweep instead of solving blocks one after the other.
        certify: sweep over all points once a window has passed them, until the error bound holds. Without it the samples
            of a window are marked as not certified.
        in_flight: samples worked on at once; one that is done makes room for the next.
        model_batch: the most rows of one call of the score.
        scale: standard deviation of the data, a number or a field [d].
        operator: a first path instead of `start`: from states [samples, c, d] and later points to states
            [points, samples, c, d] there.
        corrector: from a time to a chain of position and velocity that follows every block.
        memory: differences that "anderson" keeps.
        parts: parts of a block for "parareal" (default: the root of its steps), or cores of "chords" (default: 8).
        coarse: the coarse solver of "parareal": one network call a part, or the reference, which costs none.
    """

    solver: SolverName = "picard"
    linear: Linear = "auto"
    start: Start = "auto"
    tol: float | None = 1e-2
    sweeps: int | None = None
    window: int | None = None
    pipelined: bool = False
    certify: bool = True
    in_flight: int | None = None
    model_batch: int | None = None
    scale: float | Tensor = 1.0
    operator: Operator | None = None
    corrector: Corrector | None = None
    memory: int = 2
    parts: int | None = None
    coarse: Literal["network", "reference"] = "network"
