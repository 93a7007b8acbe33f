"""States at the nodes of pieces, gathered from samples and nodes alike into the rows of one call of the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .evaluate import Evaluator
from .pieces import PieceTables
from .whitening import Whitening


@dataclass(frozen=True)
class NodeRows:
    """Rows of a call: projected states x [rows, d], times t [rows], their `factor` [rows] float64, and sqrt(v) [rows, n or 1]."""

    x: Tensor
    t: Tensor
    factor: Tensor
    root: Tensor


def node_rows(whitening: Whitening, evaluator: Evaluator, at: Sequence[tuple[PieceTables, int]], y: Tensor) -> NodeRows:
    """Return the rows for whitened states y [rows, n] at pairs of a piece's tables and a node."""
    reference = whitening.reference
    alpha, factor, t = (
        torch.stack([getattr(tables.piece, name)[node] for tables, node in at]) for name in ("alpha", "factor", "t")
    )
    root = torch.stack([tables.root[node] for tables, node in at])
    x = evaluator.project(reference.basis.synthesise(root * y) + alpha.to(y)[:, None] * reference.mean)
    return NodeRows(x, t.to(y), factor, root)
