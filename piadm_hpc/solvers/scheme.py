"""What a sampler solves, a chain of steps or the points of the flow, behind one protocol; and what solves its blocks."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ..theory.bases import Basis
from ..theory.chain import Chain
from ..theory.grid import Block, TimeGrid
from .options import Options
from .solution import BlockSolution, ShouldStop


class Scheme(Protocol):
    """Points in time between noise and data: `Chain`, whose steps follow one another, or `Collocation`."""

    @property
    def channels(self) -> int:
        """Number of fields of a state."""
        ...

    @property
    def reads(self) -> int:
        """Number of fields that the score reads and returns."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether the scheme draws noise on the way."""
        ...

    @property
    def basis(self) -> Basis | None:
        """The basis of tables with several shells."""
        ...

    @property
    def t(self) -> Tensor:
        """Times of the points, the score's own."""
        ...

    @property
    def ratio(self) -> Tensor:
        """Noise over signal at the points."""
        ...

    @property
    def num_steps(self) -> int:
        """Number of points at which a sweep evaluates the score."""
        ...

    @property
    def sequential_rounds(self) -> int | None:
        """Calls of the score that follow one another without sweeps; None where only sweeps solve the scheme."""
        ...

    @property
    def knows_levels(self) -> bool:
        """Whether signal and noise of what the score reads are known."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether its tables mean something in the basis, or about the mean, of one reference alone."""
        ...

    @property
    def edges(self) -> tuple[int, ...]:
        """Points at which blocks begin and end."""
        ...

    @property
    def grid(self) -> TimeGrid:
        """The points as a grid of blocks."""
        ...

    def entry(self) -> tuple[Tensor, Tensor]:
        """Signal [c] and spread [c, c] of the first state."""
        ...


class BlockSolver(Protocol):
    """Solves the blocks of one scheme with one score."""

    problem: Any

    def blocks(self) -> list[Block]:
        """The blocks, in order."""
        ...

    def solve(
        self, block: Block, state: Tensor, samples: list[int], carried: Tensor, should_stop: ShouldStop | None
    ) -> tuple[Tensor, BlockSolution]:
        """States [samples, c, d] at a block's end from those at its start; `carried` [samples] bounds the errors of these."""
        ...

    def bytes_held(self, points: int, slots: int, samples: int, itemsize: int) -> int:
        """Bytes of the arrays that stay in memory on a rank.

        The rank has `points` points of a block and works on `slots` of `samples` samples at once; a number takes `itemsize`.
        """
        ...

    def state(self, end: Tensor) -> Tensor:
        """States [samples, c, d] of the ends that a block's solution holds."""
        ...

    def along(self, chain: Chain, options: Options, *, stream: int, step_offset: int) -> BlockSolver:
        """The same score with another chain and another stream of noise."""
        ...
