"""Protocols of the scheme that a sampler solves (a chain of steps, or the points of a flow) and of the solver of its blocks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..theory.bases import Basis
from ..theory.grid import Block, TimeGrid
from .options import Corrector
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
    def drawn(self) -> int:
        """Number of fields that a step draws."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether the scheme draws noise between its first and its last point."""
        ...

    @property
    def basis(self) -> Basis | None:
        """The basis whose shells the tables refer to; None where the tables are the same for all coordinates."""
        ...

    @property
    def t(self) -> Tensor:
        """Times of the points, as the score expects them."""
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
    def point_counts(self) -> tuple[int, ...]:
        """Numbers of points that the first sweeps to a tolerance evaluate; the last one is that of all further sweeps."""
        ...

    @property
    def sequential_rounds(self) -> int | None:
        """Number of sequential score calls without sweeps; None where only sweeps solve the scheme."""
        ...

    @property
    def knows_levels(self) -> bool:
        """Whether the signal and noise levels of the score's input are known."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether the tables are valid only with one reference, because they refer to its shells or its mean."""
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
        """Return the signal [c] and the spread [c, c] of the first state."""
        ...


class BlockSolver(Protocol):
    """Solves the blocks of one scheme with one score."""

    def blocks(self) -> list[Block]:
        """Return the blocks, in order."""
        ...

    def solve(
        self, block: Block, state: Tensor, samples: list[int], carried: Tensor, should_stop: ShouldStop | None
    ) -> tuple[Tensor, BlockSolution]:
        """Solve a block from the states [samples, c, d] at its start, whose errors `carried` [samples] bounds.

        Returns the states [samples, c, d] at its end, and the block's solution with its costs.
        """
        ...

    def bytes_in_memory(self, points: int, slots: int, samples: int, itemsize: int) -> int:
        """Count the bytes of the arrays that stay in memory on a rank.

        The rank owns `points` points of a block and solves `slots` of `samples` samples at once; a number takes `itemsize`
        bytes.
        """
        ...

    def state(self, end: Tensor) -> Tensor:
        """Return the states [samples, c, d] that the `end` of a block's solution stands for."""
        ...

    def correct(
        self,
        corrector: Corrector,
        block: Block,
        state: Tensor,
        samples: list[int],
        carried: Tensor,
        should_stop: ShouldStop | None,
    ) -> tuple[Tensor, BlockSolution]:
        """Take the corrector's steps at a block's last time, from states [samples, c, d] whose errors `carried` bounds."""
        ...
