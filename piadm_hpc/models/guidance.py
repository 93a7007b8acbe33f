"""Classifier-free guidance: the score with and without its condition, in one call of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schema.conditions import Condition, apply_to_leaves, joined
from .base import ScoreModel


@dataclass(frozen=True)
class Guided:
    """The score s(x, t, null) + weight (s(x, t, c) - s(x, t, null)) of Ho and Salimans (2022, 2207.12598).

    `null` is the condition that means "no condition" to the score, with one entry. A call of R rows is one call of the score
    with 2R rows.
    """

    score: ScoreModel
    null: Condition
    weight: float

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """Return the guided score [rows, *event] of states x [rows, *event] at times t [rows]."""
        absent = apply_to_leaves(self.null, lambda values, like: values.to(like).expand(like.shape), condition)
        both = self.score(torch.cat([x, x]), torch.cat([t, t]), joined(condition, absent))
        given, plain = both.chunk(2)
        return plain + self.weight * (given - plain)


def guided(score: ScoreModel, null: Condition, weight: float) -> ScoreModel:
    """Return a conditional score under classifier-free guidance; with weight 1 the score itself, at no extra cost.

    Weights above 1 strengthen the condition, 0 ignores it. `null` is the condition that means "no
    condition" to the score; every tensor of it has one entry. Raises ValueError for a weight that is not finite.
    """
    if not math.isfinite(weight):
        raise ValueError(f"guidance = {weight}: give a finite number; 1 leaves the score as it is")
    return score if weight == 1 else Guided(score, null, weight)
