"""A score that is watched while a run begins: sweeps need the same answer for the same state, whatever stands beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..schema.conditions import Condition, rows_of
from .errors import ScoreError
from .evaluate import Score

LIMIT = 1e-2  # relative difference of two answers for one state: above rounding in bfloat16, far below what dropout does


class SteadyScore:
    """A score that gets one state of its first call once more, alone, and one of its first call with several states.

    It is the one in the middle: among the points of a sweep, those at the ends depend least on the network. The answers to
    the run's own calls are passed on unchanged. Raises ScoreError for a score whose second answer differs, and says whether
    chance or the other states of the call made the difference.
    """

    def __init__(self, score: Score):
        self.score, self.tried = score, 0

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        if min(len(x), 2) <= self.tried:
            return self.score(x, t, *condition)
        # a score may work in place, and may return a buffer that its next call overwrites
        here = slice(len(x) // 2, len(x) // 2 + 1)
        state, time, given = x[here].clone(), t[here].clone(), [rows_of(part, here) for part in condition]
        answer = self.score(x, t, *condition)
        if isinstance(answer, Tensor) and answer.shape == x.shape and answer.is_floating_point():
            answer = answer.clone()
            self._compare(answer[here], state, time, *given)
            # one state alone says nothing about other states beside it
            self.tried = min(len(x), 2)
        return answer

    def _compare(self, answer: Tensor, state: Tensor, time: Tensor, *given: Condition) -> None:
        alone = self.score(state.clone(), time.clone(), *given).clone()
        if not differ(alone, answer):
            return
        if differ(self.score(state.clone(), time.clone(), *given), alone):
            raise ScoreError(
                "the score answers differently when it is given the same state again; switch off what is random in it (dropout "
                "in training mode?), or what it remembers of earlier calls"
            )
        raise ScoreError(
            "the score's answer for a state depends on the other states of the call (a normalisation over the batch in training "
            "mode?), so that samples would depend on their batch"
        )


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two answers for a state differ by more than rounding; answers that are not finite are left to the solver."""
    one, other = one.to(torch.float64), other.to(torch.float64)
    both = bool(torch.isfinite(one).all()) and bool(torch.isfinite(other).all())
    return both and bool((one - other).norm() > LIMIT * other.norm())
