"""The first path of a sample, which costs no call of the score: from a learned operator, or from the Gaussian reference."""

from __future__ import annotations

import torch
from torch import Tensor

from .distribution import Rows
from .options import Operator
from .prediction import Predictor
from .problem import Problem
from .recurrence import Recurrence


def operator_path(problem: Problem, operator: Operator, rows: Rows, first: Tensor) -> dict[int, Tensor]:
    """Let an operator predict the path from the block's first states `first` [samples, c, n].

    Returns coordinates [samples, c, n] by local index, at all of this rank's points but the first of the block, which is known.
    Raises ValueError when the operator returns a path of another shape.
    """
    states = problem.basis.synthesise(first)
    later = [j for j in rows.points if j > rows.start]
    path = operator(states, later)
    expected = (len(later), *states.shape)
    if path.shape != expected:
        raise ValueError(f"the operator gave a path of shape {tuple(path.shape)}; it must be {expected}")
    return {
        rows.points.index(j): problem.basis.analyse(problem.evaluator.project(predicted.to(first)))
        for j, predicted in zip(later, path, strict=True)
    }


def reference_path(
    predictor: Predictor,
    scan: Recurrence,
    rows: Rows,
    first: Tensor,
    draws: Tensor | None,
    remainder: Tensor | None,
    *,
    z: Tensor,
    b: Tensor,
    end: Tensor,
) -> None:
    """Follow the predictor's own linear chain from `first` [samples, c, n] with the chain's draws; collective.

    Fills the states `z` and increments `b` [points, samples, c, n] and the end states `end` [samples, c, n]. `scan` is the
    recurrence of the predictor's linear part.
    """
    # what the predicted score adds to its own linear part does not depend on the state, so it is evaluated at zero
    zero = torch.zeros_like(first)
    for local, j in enumerate(rows.points):
        predictor.problem.step(b[local], None if draws is None else draws[local], j, zero, predictor.score(j, zero, remainder))
    scan(first, b, z, end, range(rows.count))
