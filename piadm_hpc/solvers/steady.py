"""A check of the score: sweeps need the same result for the same state, whatever other states are in the call."""

from __future__ import annotations

import torch
from torch import Tensor

from ..schema.conditions import Condition, rows_of
from .errors import ScoreError
from .evaluate import Score
from .options import Options

LIMIT = 1e-2  # relative difference of two results for one state: above rounding in bfloat16, far below the effect of dropout


class SteadyScore:
    """A score that evaluates one state of its first call once more, alone, and one of its first call with several states.

    The state is the one in the middle, because the points at the ends of a sweep depend least on the network. The results of the
    solver's own calls are passed on unchanged. Raises ScoreError if the second result differs; the message says whether chance
    or the other states of the call caused the difference. A score that becomes random after these calls, or changes its result
    by less than LIMIT, is not noticed.
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
            # a call of one state cannot show an influence of other states
            self.tried = min(len(x), 2)
        return answer

    def _compare(self, answer: Tensor, state: Tensor, time: Tensor, *given: Condition) -> None:
        alone = self.score(state.clone(), time.clone(), *given).clone()
        if not differ(alone, answer):
            return
        if differ(self.score(state.clone(), time.clone(), *given), alone):
            raise ScoreError(
                "the score returns different results for the same state; switch off what is random in it (dropout "
                "in training mode?), or what it remembers of earlier calls"
            )
        raise ScoreError(
            "the score's result for a state depends on the other states of the call (a normalisation over the batch in training "
            "mode?), so that samples would depend on their batch"
        )


def checked(score: Score, options: Options) -> Score:
    """Return the score with a check, if `options.check_score` asks for one and the score has none yet."""
    return SteadyScore(score) if options.check_score and not isinstance(score, SteadyScore) else score


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two results for a state differ by more than rounding; the solver deals with results that are not finite."""
    one, other = one.to(torch.float64), other.to(torch.float64)
    both = bool(torch.isfinite(one).all()) and bool(torch.isfinite(other).all())
    return both and bool((one - other).norm() > LIMIT * other.norm())
