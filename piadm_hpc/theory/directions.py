"""Directions in which the states of some data never differ, such as the mean position of a molecule."""

from __future__ import annotations

from torch import Tensor


def orthogonal(x: Tensor, directions: Tensor | None) -> Tensor:
    """Remove the components of states [rows, *event] along orthonormal directions [d, k]; with None, return them unchanged."""
    if directions is None:
        return x
    flat, along = x.flatten(1), directions.to(x)
    return (flat - (flat @ along) @ along.T).reshape(x.shape)
