"""First nodes of a piece that sweeps leave out, because moves of their states change the remainders too little to matter.

The flow starts at high noise, where a sweep moves states little and remainders hardly respond. The remainders of nodes that are
left out follow from their slopes, and count in the error bound as the answers to all moves since they were last evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Settled:
    """How many first nodes a sweep leaves out, and what is known of the nodes' answers.

    Attributes:
        count: number of first nodes that the next sweep leaves out.
        before: number of those that the sweep before it left out.
        answer: size of a remainder's change over that of its state's move, beyond what the slope predicts, [M]; infinite where
            no move was measured.
        strayed: sizes of the moves of the states since they were last evaluated, summed, [M].
    """

    answer: Tensor
    strayed: Tensor
    count: int = 0
    before: int = 0

    @classmethod
    def none(cls, nodes: int) -> Settled:
        """Leave out none of so many nodes."""
        return cls(torch.full((nodes,), torch.inf, dtype=torch.float64), torch.zeros(nodes, dtype=torch.float64))

    @property
    def unmeasured(self) -> int:
        """Number of first nodes without evaluations in both of the last two sweeps, and so without a change between them."""
        return max(self.count, self.before)

    def completed(self, missed: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Take the sizes of the changes and moves in a sweep, [M]; return changes and moves since the last evaluations.

        The changes of nodes that were left out are their answers to these moves.
        """
        evaluated, since = torch.arange(len(moved)) >= self.count, self.strayed + moved
        measured = torch.where(since > 0, missed / torch.where(since > 0, since, 1.0), torch.inf)
        self.answer = torch.where(evaluated, measured, self.answer)
        self.strayed = torch.where(evaluated, 0.0, since)
        return torch.where(evaluated, missed, self.answer * since), since

    def expected(self, move: Tensor) -> Tensor:
        """Return the sizes [M] of the changes that a move of sizes [M] to the next path adds up to, where it is not evaluated."""
        return (self.answer * (self.strayed + move)).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def settle(self, expected: Tensor, steps: Tensor, growth: Tensor, allowed: float) -> None:
        """Leave out the first nodes whose `expected` changes [M] together add at most `allowed` to the bound of the next path.

        `steps` [M + 1, M] sums remainders over the steps from node to node, in which errors grow by `growth` [M + 1].
        """
        later = torch.where(growth > 0, growth, 1.0).flip(0).cumprod(0).flip(0)
        added = (torch.cat([later[1:], later.new_ones(1)]) @ steps.abs().to(later)) * expected
        self.before, self.count = self.count, int((added.cumsum(0) <= allowed).sum())
