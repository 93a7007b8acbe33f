"""Posteriors of conditional models: observations of fields f = m(c) + r, of which the model draws the residuals r.

Everything but means is the same for every condition c. The reference of f given c and y is N(m' + mu(c), Lambda') with

    mu(c) = m(c) - K H m(c),    K = Lambda H^T (H Lambda H^T + R)^-1

and m', Lambda' those of residuals alone. So a solver works on f - mu(c), whose reference is N(m', Lambda') for every sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...gaussian.conditioned import Update
from ...schema.conditions import Condition
from ...theory.process import Process
from ..base import ScoreModel, broadcast

Mean = Callable[[Condition], Tensor]
"""The mean states [rows, *event] given conditions."""


@dataclass(frozen=True)
class Shifted:
    """The score, or with `estimates` the denoised estimate, of states less a shift that their condition gives.

    With p the density of x_0, these are those of x_0 - shift(c), at states [rows, *event].
    """

    function: ScoreModel
    process: Process
    shift: Mean
    estimates: bool = False

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        moved = self.shift(condition).to(x)
        found = self.function(x + broadcast(self.process.alpha(t.to(torch.float64)), x) * moved, t, condition)
        return found - moved.to(found) if self.estimates else found


@dataclass(frozen=True)
class Centre:
    """The shift mu(c) of a conditional model whose mean is `mean`, given the observations of an update."""

    mean: Mean
    update: Update

    def __call__(self, condition: Condition) -> Tensor:
        """Return mu(c), [rows, *event] float64."""
        mean = self.mean(condition).to(torch.float64)
        return mean - self.update.prior_increment(self.update.observations.apply(mean.flatten(1))).reshape(mean.shape)

    def residual(self, x: Tensor, condition: Condition) -> Tensor:
        """Return the model's residuals r = f - m(c) for states x = f - mu(c), [rows, *event]."""
        return x + (self(condition) - self.mean(condition).to(torch.float64)).to(x)


def negative(mean: Mean) -> Mean:
    """Return the shift that turns residuals into fields."""
    return lambda condition: -mean(condition)
