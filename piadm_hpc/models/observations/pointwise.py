"""Observations of fields whose variables are transformed: weighted sums of values, each a function of one entry of a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...data.transform_tensors import tensor_values
from ...data.transforms import Transform
from ...gaussian.observed import LinearObservations
from .function import FunctionObservations


@dataclass(frozen=True)
class PointwiseObservations(FunctionObservations):
    """Values y [m] of W g(x_0), with g a function of every entry by itself and W `weights` [m, d], sparse.

    `function` is W g. A derivative is a matrix as sparse as W.
    """

    weights: Tensor
    entrywise: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, linear: LinearObservations, entrywise: Callable[[Tensor], Tensor]) -> PointwiseObservations:
        """Build them from observations that would be linear in values."""
        rows, columns = linear.rows.indices()
        weights = linear.rows.values()

        def function(x: Tensor) -> Tensor:
            # products of sparse matrices have no derivative in forward mode
            shares = weights.to(x.device) * entrywise(x)[:, columns.to(x.device)]
            return shares.new_zeros(len(x), len(linear)).index_add(1, rows.to(x.device), shares)

        return cls(linear.values, function, linear.std, linear.group, linear.correlation, linear.rows, entrywise)

    def to(self, device: torch.device | str) -> PointwiseObservations:
        """Return the observations on another device."""
        linear = LinearObservations(self.values, self.weights, self.std, self.group, self.correlation).to(device)
        return PointwiseObservations.of(linear, self.entrywise)

    def at(self, x: Tensor) -> LinearObservations:
        """Return the linear observations that these are to first order around a flat state x [d]."""
        with torch.enable_grad():
            state = x.detach().to(torch.float64).requires_grad_()
            (slope,) = torch.autograd.grad(self.entrywise(state[None]).sum(), state)
        index, weights = self.weights.indices(), self.weights.values()
        rows = torch.sparse_coo_tensor(index, weights * slope[index[1]], self.weights.shape, check_invariants=True).coalesce()
        values = self.values - self.apply(x[None])[0].detach() + torch.sparse.mm(rows, x[:, None].to(torch.float64))[:, 0]
        return LinearObservations(values, rows, self.std, self.group, self.correlation)


def entry_values(
    names: tuple[str, ...], slope: np.ndarray, offset: np.ndarray, transforms: Mapping[str, Transform]
) -> Callable[[Tensor], Tensor]:
    """Return the values [n, variables points] of flat states as a differentiable function.

    Values are slope * state + offset [variables, points], of the variables in `transforms` through their inverse.
    """
    steep, shift = torch.from_numpy(slope), torch.from_numpy(offset)

    def values(x: Tensor) -> Tensor:
        scores = x.to(torch.float64).reshape(len(x), *steep.shape) * steep.to(x.device) + shift.to(x.device)
        parts = [
            tensor_values(transforms[name], scores[:, k]) if name in transforms else scores[:, k] for k, name in enumerate(names)
        ]
        return torch.stack(parts, dim=1).flatten(1)

    return values
