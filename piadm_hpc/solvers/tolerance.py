"""When a block is done, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

# told between two sweeps how many samples are finished, it may end the work there; collective
ShouldStop = Callable[[int], bool]
GUARD = 4.0  # how many times the tolerance a change may be for a prediction to be believed
SLOWEST = 0.9  # factor by which changes may be seen to shrink; slower, they shrink like this at best
SURE = 1 / 4  # of the tolerance must be all that such a prediction leaves: near a boundary between modes changes grow again
# changes that grow again below so many times the tolerance, and below this share of the data's scale, show a sample near such
# a boundary, where what is left can grow a thousandfold: it is held to a smaller share of the tolerance from then on
RELAPSE, SMALL, WARY = 50.0, 0.5, 1 / 50


class Status(IntEnum):
    """How a sample's block ended."""

    CONVERGED = 0
    DEPTH_REACHED = 1
    ROUND_OFF_FLOOR = 2
    FINISHED_SEQUENTIALLY = 3
    NOT_RESOLVED = 4


@dataclass(frozen=True)
class Tolerance:
    """When to stop: `tol` on the error left in the denoised estimate (data of unit scale), or a fixed depth of `sweeps`.

    A sample is done when its last change is below `tol` and shrinking so fast that no more than that is left, or at most
    GUARD * tol and SURE * tol is left; a wary one when that holds for WARY * tol. With `tol` None exactly `sweeps` sweeps
    are made, as published. With both, samples that have not met `tol` after `sweeps` sweeps are finished sequentially.
    `scale` is the data's standard deviation, a number or a field [d].
    """

    tol: float | None
    sweeps: int | None = None
    scale: float | Tensor = 1.0

    def met(self, change: Tensor, before: Tensor, wary: Tensor | bool = False) -> Tensor:
        """Whether samples with these last two changes are done: [samples] booleans."""
        if self.tol is None:
            return torch.zeros_like(change, dtype=torch.bool)
        tol = self.limit(torch.as_tensor(wary))
        left = remaining_error(change, before)
        return ((change <= tol) & (left <= tol)) | ((change <= GUARD * tol) & (left <= SURE * tol))

    def limit(self, wary: Tensor) -> Tensor:
        """The tolerance of each sample, smaller for a `wary` one; zero where there is none."""
        return torch.where(wary, WARY, 1.0).to(torch.float64) * (self.tol or 0.0)

    def relapsed(self, change: Tensor, before: Tensor) -> Tensor:
        """Whether changes that were small have grown again: [samples] booleans."""
        return (before < change) & (change < min(RELAPSE * (self.tol or 0.0), SMALL))

    def __post_init__(self) -> None:
        mistakes = []
        if self.tol is None and self.sweeps is None:
            mistakes.append("give a tolerance `tol`, a fixed depth `sweeps`, or both")
        if self.tol is not None and not self.tol > 0:
            mistakes.append(f"tol must be positive, got {self.tol}")
        if self.sweeps is not None and self.sweeps < 1:
            mistakes.append(f"sweeps must be at least 1, got {self.sweeps}")
        if mistakes:
            raise ValueError("; ".join(mistakes))


def remaining_error(change: Tensor, before: Tensor) -> Tensor:
    """Estimate of what later sweeps would still change, from the last two changes of the denoised estimate [samples].

    Changes that shrink by a factor rho leave change * rho / (1 - rho); sweeps converge faster than any fixed factor
    (the Lambda law), so this is on the safe side once they shrink at all. Factors above SLOWEST, which rounding too can
    cause, count as that; after the first sweep the estimate is its change.
    """
    rho = (change / before).nan_to_num(nan=1.0).clamp(max=SLOWEST)
    return torch.where(torch.isfinite(before), change * rho / (1 - rho), change)


@dataclass(frozen=True)
class BlockSolution:
    """End states [samples, c, n] in coordinates and, per sample, sweeps, residual, status, calls and sequential steps.

    `residual` is the estimate of the error that is left in the denoised path, in units of the data's scale.
    """

    end: Tensor
    sweeps: Tensor
    residual: Tensor
    status: Tensor
    calls: Tensor
    sequential_steps: Tensor

    def of(self, samples: Sequence[int]) -> BlockSolution:
        """The same for some of the samples."""
        return BlockSolution(**{field.name: getattr(self, field.name)[list(samples)] for field in fields(self)})


class Interrupted(Exception):
    """A watch ended the work on a block: `found` describes the samples at the positions `done`, the others are lost."""

    def __init__(self, done: Sequence[int], found: BlockSolution):
        super().__init__(f"interrupted with {len(done)} samples done")
        self.done, self.found = list(done), found


def unsolved(first: Tensor, num_samples: int) -> BlockSolution:
    """A solution still to be filled in, for states like `first` [samples, c, n]."""
    counts = [torch.zeros(num_samples, dtype=torch.long) for _ in range(4)]
    residual = torch.full((num_samples,), float("inf"), dtype=torch.float64)
    return BlockSolution(torch.empty_like(first), counts[0], residual, counts[1], counts[2], counts[3])
