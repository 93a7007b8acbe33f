"""Pieces of a flow with what sweeps over their nodes need: tables for the states at hand, and the quasi-Newton inverse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from .collocation import Collocation, Piece


@dataclass(frozen=True)
class PieceTables:
    """A piece in the precision and on the device of the states, M nodes and the piece's end last.

    `root` [M + 1, n or 1] whitens, `weights` [M + 1, M] sum remainders, `steps` are their differences from node to node, and
    `doubt` is the share of the highest Chebyshev coefficients. `gain` [M, n or 1] is the slope of the remainder that sweeps
    treat exactly and `inverse` [n or 1, M, M] solves for the nodes with it; None where the model was not probed.
    """

    piece: Piece
    root: Tensor
    weights: Tensor
    steps: Tensor
    doubt: Tensor
    gain: Tensor | None
    inverse: Tensor | None

    @classmethod
    def of(cls, scheme: Collocation, reference: GaussianReference, low: float, high: float, like: Tensor) -> PieceTables:
        """The tables of log-SNRs low .. high for states like `like`."""
        piece, basis = scheme.piece(low, high), reference.basis

        def expanded(table: Tensor) -> Tensor:
            return basis.expand(table.to(like))

        weights = piece.weights.to(like)
        steps = torch.diff(weights, dim=0, prepend=torch.zeros_like(weights[:1]))
        gain = inverse = None
        slope = _slope(scheme, piece)
        if slope is not None:
            eye = torch.eye(len(slope), dtype=torch.float64)
            solved = torch.linalg.inv(eye - piece.weights[:-1] * slope.T[:, None, :])
            gain, inverse = expanded(slope), expanded(solved.movedim(0, -1)).movedim(-1, 0).contiguous()
        return cls(piece, expanded(piece.root), weights, steps, piece.doubt.to(like), gain, inverse)

    def path(self, y: Tensor, remainder: Tensor, at: Tensor) -> Tensor:
        """States [M + 1, n] at nodes and end from the piece's first state y [n] and remainders taken at states `at` [M, n].

        A remainder is carried on to the new state along `gain`: (I - W G) y_new = y + W (g - G at), per shell.
        """
        if self.gain is None or self.inverse is None:
            return torch.addmm(y, self.weights, remainder)
        right = torch.addmm(y, self.weights, remainder - self.gain * at)
        nodes = torch.einsum("nij,jn->in", self.inverse.expand(right.shape[-1], -1, -1), right[:-1])
        end = right[-1] + self.weights[-1] @ (self.gain * nodes)
        return torch.cat([nodes, end[None]])

    def predicted(self, remainder: Tensor, at: Tensor, path: Tensor) -> Tensor:
        """Remainders [M, n] that a path made from `remainder` at `at` stands for."""
        return remainder if self.gain is None else remainder + self.gain * (path[:-1] - at)


def _slope(scheme: Collocation, piece: Piece) -> Tensor | None:
    """Mean slope dg/dy of the remainder per shell, from the model's probed Jacobian diagonal: [M, num_shells]."""
    reference = scheme.reference
    if reference.response is None:
        return None
    alpha, sigma = piece.alpha[:-1], piece.sigma[:-1]
    own = alpha[:, None] ** 2 * reference.spectrum.to(torch.float64).cpu() / reference.variance(alpha, sigma).cpu()
    return reference.response.at(sigma / alpha) - own
