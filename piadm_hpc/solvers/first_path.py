"""The first path of a sample, which costs no call of the score: from an operator, a cheaper score, or the Gaussian reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from .distribution import Rows
from .evaluate import Score
from .options import Operator
from .prediction import Predictor
from .problem import Problem
from .recurrence import Recurrence
from .tables import Tables


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


def student_path(
    problem: Problem,
    score: Score,
    rows: Rows,
    tables: tuple[Tables, Tables],
    first: Tensor,
    draws: Tensor | None,
    samples: Sequence[int],
    comm: Communicator,
    *,
    z: Tensor,
    b: Tensor,
) -> None:
    """Take the block's steps with a cheaper `score` from its first states `first` [samples, c, n], with the chain's own draws.

    Fills the states `z` and increments `b` [points, samples, c, n] at this rank's points. Every rank takes the steps before
    its own too, so that no state is communicated. `tables` are P - A and Q. Raises ScoreError on all ranks if the score fails
    on any.
    """
    student, local_of = replace(problem.evaluator, score=score), {j: local for local, j in enumerate(rows.points)}

    def follow() -> None:
        state = first
        times = problem.chain.t.to(device=first.device, dtype=first.dtype)
        for j in range(rows.start, max(rows.points, default=-1) + 1):
            x, t = problem.read(j, state), times[j].expand(len(state))
            output = student(x, t, samples)
            student.check(output, t, samples)
            state, output = problem.as_read(state, x), problem.basis.analyse(output)
            local = local_of.get(j)
            noise = None if draws is None else problem.draws(j, samples, state) if local is None else draws[local]
            if local is not None:
                own, lifting = (table.at(local) for table in tables)
                z[local] = state
                b[local], _ = problem.increment(noise, own, lifting, state, output)
            state = problem.step(torch.empty_like(state), noise, j, state, output)

    student.together(comm, follow)


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
    # the predicted score is affine: its constant part does not depend on the state, so it is evaluated at zero
    zero = torch.zeros_like(first)
    for local, j in enumerate(rows.points):
        predictor.problem.step(b[local], None if draws is None else draws[local], j, zero, predictor.score(j, zero, remainder))
    scan(first, b, z, end, range(rows.count))
