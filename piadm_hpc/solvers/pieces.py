"""Pieces of a flow: the tables for sweeps over their nodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.chebyshev import last_quarters
from .collocation import Collocation, Piece


@dataclass(frozen=True)
class PieceTables:
    """The tables of a piece with M nodes, in the precision and on the device of the states; the piece's end comes last.

    Attributes:
        piece: the piece itself.
        root: whitens the states at the nodes and the end, [M + 1, n or 1].
        weights: sum remainders at the nodes to whitened states, [M + 1, M].
        steps: differences of `weights` from node to node.
        doubt: the shares of the last Chebyshev coefficients in those sums, and of those before them, [2, M + 1, M].
        own: slope of the reference's own whitened denoised estimate, [M, n or 1].
        tail: gives the last quarter of the Chebyshev coefficients, and the quarter before, [2, quarter, M].
        gain: the slope of the remainder that sweeps treat exactly, [M, n or 1]; None where the model was not probed.
        inverse: solves for the states at the nodes with that slope, [n or 1, M, M].
    """

    piece: Piece
    root: Tensor
    weights: Tensor
    steps: Tensor
    doubt: Tensor
    own: Tensor
    tail: Tensor
    gain: Tensor | None
    inverse: Tensor | None

    @property
    def nodes(self) -> int:
        """The number of nodes M."""
        return len(self.piece.t)

    @classmethod
    def of(cls, scheme: Collocation, reference: GaussianReference, low: float, high: float, like: Tensor) -> PieceTables:
        """Build the tables between coordinates low and high for states like `like`."""
        piece, basis = scheme.piece(low, high), reference.basis

        def expanded(table: Tensor) -> Tensor:
            return basis.expand(table.to(like))

        weights = piece.weights.to(like)
        steps = torch.diff(weights, dim=0, prepend=torch.zeros_like(weights[:1]))
        gain = inverse = None
        own, response = _own_slope(scheme.reference, piece), scheme.reference.response
        # the probed Jacobian diagonal of the model gives the mean slope of the remainder
        slope = None if response is None else piece.rate[:-1, None] * (response.at((piece.sigma / piece.alpha)[:-1]) - own)
        if slope is not None:
            eye = torch.eye(len(slope), dtype=torch.float64)
            solved = torch.linalg.inv(eye - piece.weights[:-1] * slope.T[:, None, :])
            gain, inverse = expanded(slope), expanded(solved.movedim(0, -1)).movedim(-1, 0).contiguous()
        tail = last_quarters(len(piece.t)).to(like)
        return cls(piece, expanded(piece.root), weights, steps, piece.doubt.to(like), expanded(own), tail, gain, inverse)

    def path(self, y: Tensor, remainder: Tensor, at: Tensor) -> Tensor:
        """Compute the states [M + 1, n] at nodes and end from the first state y [n] and the remainders at states `at` [M, n].

        The slope `gain` carries a remainder from the old state to the new one: (I - W G) y_new = y + W (g - G at), per shell.
        """
        if self.gain is None or self.inverse is None:
            return torch.addmm(y, self.weights, remainder)
        right = torch.addmm(y, self.weights, remainder - self.gain * at)
        nodes = torch.einsum("nij,jn->in", self.inverse.expand(right.shape[-1], -1, -1), right[:-1])
        end = right[-1] + self.weights[-1] @ (self.gain * nodes)
        return torch.cat([nodes, end[None]])

    def next_defect(self, defect: Tensor, missed: Tensor, moved: Tensor, move: Tensor) -> Tensor:
        """Predict the defects [M] of the next path, which moves by `move` [M].

        The present path has the defects `defect` [M], which are sums of the changes `missed` [M] of the remainders after moves
        `moved`.
        """
        shares = self.steps.abs().to(missed) * missed
        ratio = torch.where(moved > 0, move / torch.where(moved > 0, moved, 1.0), 1.0)
        # without a change of the remainder there is no defect either
        return defect * (shares @ ratio) / shares.sum(1).clamp(min=torch.finfo(shares.dtype).tiny)

    def predicted(self, remainder: Tensor, at: Tensor, path: Tensor) -> Tensor:
        """Predict the remainders [M, n] along a path from the remainders at the states `at`."""
        return remainder if self.gain is None else remainder + self.gain * (path[:-1] - at)


def _own_slope(reference: GaussianReference, piece: Piece) -> Tensor:
    """Slope of the reference's whitened denoised estimate per shell, [M, num_shells]: alpha^2 lambda / v."""
    alpha, sigma = piece.alpha[:-1], piece.sigma[:-1]
    return alpha[:, None] ** 2 * reference.spectrum.to(torch.float64).cpu() / reference.variance(alpha, sigma).cpu()
