"""Calls of the score network: rows are split to fit into memory, and outputs are checked and projected."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..comm.failure import together
from ..schema.conditions import Condition, rows_of
from .errors import ScoreError

logger = logging.getLogger(__name__)

# score(x [rows, *event], t [rows]), and with a condition score(x, t, c) where every tensor of c is [rows, ...]
Score = Callable[..., Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Conditions:
    """The condition of every sample, found by the sample's id; `positions` maps ids to entries of `tree`."""

    tree: Condition
    positions: Mapping[int, int]

    def of(self, samples: Sequence[int]) -> Condition:
        """Return the condition of rows that belong to the given samples."""
        return rows_of(self.tree, torch.tensor([self.positions[sample] for sample in samples], dtype=torch.long))


@dataclass
class Evaluator:
    """Evaluates a score on flat rows x [rows, k, d] at times t [rows], with at most `max_rows` rows a call.

    With `fields` = k = 1 the score is called with [rows, *event], else with [rows, k, *event], and with `conditions` it also
    receives, for every row, the condition of the row's sample. `projection` maps states [rows, *event] to the subspace of all
    states; the input of the score must lie there already. An out-of-memory error halves `max_rows`, and a warning
    says so. `resolution` is the coarsest relative rounding of all scores so far. Raises
    ScoreError for a score of the wrong shape or type; `check` raises it for numbers that are not finite.
    """

    score: Score
    event_shape: tuple[int, ...]
    projection: Callable[[Tensor], Tensor] | None = None
    max_rows: int | None = None
    rank: int = 0
    fields: int = 1
    conditions: Conditions | None = None
    resolution: float = field(default=0.0)

    def project(self, flat: Tensor) -> Tensor:
        """Project flat states [rows, d] or [rows, k, d] to the subspace that they lie in."""
        if self.projection is None:
            return flat
        return self.projection(flat.reshape(-1, *self.event_shape)).reshape(flat.shape)

    def __call__(self, x: Tensor, t: Tensor, samples: Sequence[int]) -> Tensor:
        """Return the projected scores of projected flat rows x [rows, k, d] at times t [rows]; they are not checked yet.

        `samples` [rows] are the ids of the samples that the rows belong to.
        """
        parts, start = [], 0
        while start < len(x):
            stop = min(len(x), start + (self.max_rows or len(x)))
            try:
                part = self._call(x[start:stop], t[start:stop], samples[start:stop])
                # a score may return a buffer that its next call overwrites
                parts.append(part if stop - start == len(x) else part.clone())
                start = stop
            except torch.OutOfMemoryError:
                self.halve(stop - start)
        return self.project(parts[0] if len(parts) == 1 else torch.cat(parts))

    def _call(self, x: Tensor, t: Tensor, samples: Sequence[int]) -> Tensor:
        shape = (len(x), *self.event_shape) if self.fields == 1 else (len(x), self.fields, *self.event_shape)
        condition = () if self.conditions is None else (self.conditions.of(samples),)
        # a score may work in place, so it gets its own copies
        result = self.score(x.clone().reshape(shape), t.clone(), *condition)
        if not isinstance(result, Tensor) or result.shape != shape:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ScoreError(f"the score returned {got} for states of shape {shape}; it must return the same shape")
        if not result.is_floating_point():
            raise ScoreError(f"the score returned {result.dtype} for states of {x.dtype}; it must return real floating numbers")
        # a network of lower precision than the states limits the accuracy that sweeps can reach
        self.resolution = max(self.resolution, torch.finfo(result.dtype).eps)
        return result.detach().to(x.dtype).reshape(x.shape)

    def halve(self, rows: int) -> None:
        """Halve the number of rows per call, after a call of so many rows ran out of memory."""
        if rows == 1:
            raise ScoreError("out of memory with a single row a call; use a smaller model or a larger device")
        self.max_rows = math.ceil(rows / 2)
        logger.warning("out of memory at %d rows a call; going on with model_batch = %d", rows, self.max_rows)

    def check(self, scores: Tensor, t: Tensor, samples: Sequence[int]) -> None:
        """Raise ScoreError unless all scores are finite; `samples` names each row's sample."""
        finite = torch.isfinite(scores).flatten(1).all(dim=-1)
        if not bool(finite.all()):
            row = int(torch.nonzero(~finite)[0])
            raise ScoreError(
                f"the score is not finite for sample {samples[row]} at time t = {float(t[row]):.6g} on rank {self.rank}"
            )

    def together(self, comm: Communicator, action: Callable[[], T]) -> T:
        """Run an action that calls the score; when it fails on any rank, all ranks raise ScoreError. Collective."""
        return together(comm, action, self._as_score_error)

    def _as_score_error(self, error: Exception) -> ScoreError:
        """Turn whatever a user's score raised into a ScoreError that names the rank."""
        if isinstance(error, ScoreError):
            return error
        named = ScoreError(f"the score failed on rank {self.rank}: {type(error).__name__}: {error}")
        named.__cause__ = error
        return named
