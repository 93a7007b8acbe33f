"""Volumes that convert the density of a state to the density of the decoded physical fields."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..solvers.traces import subspace
from ..theory.directions import orthogonal
from .model import Model


def num_directions(model: Model) -> int:
    """Return the number of degrees of freedom of a state: its entries with data, less the rigid motions of a molecule."""
    size = math.prod(model.event_shape) if model.mask is None else int(model.mask.sum())
    return size - (0 if model.constraint is None else model.constraint.shape[1])


def log_volume(model: Model, x: Tensor) -> Tensor:
    """Return log |det of decoding| at states x [samples, *event] over their degrees of freedom, [samples] float64.

    A log-density of states less this is the log-density of the decoded fields, in their physical units.
    """
    sizes = model.normalisation.log_scale(x.detach().cpu()).flatten(1)
    if model.constraint is None:
        kept = sizes if model.mask is None else sizes[:, model.mask.cpu()]
        return kept.sum(1)
    directions = subspace(sizes.shape[1], _projection(model), torch.zeros(1, dtype=torch.float64))
    stretched = directions * torch.exp(sizes)[:, None]
    volume: Tensor = torch.linalg.slogdet(stretched @ stretched.mT)[1]
    return volume / 2


def _projection(model: Model) -> Callable[[Tensor], Tensor]:
    """Return the projection of flat states, on the host, to the subspace of the model's states."""
    mask, constraint = model.mask, model.constraint
    kept = torch.ones(math.prod(model.event_shape)) if mask is None else mask.cpu()
    return lambda flat: orthogonal(flat * kept.to(flat.dtype), None if constraint is None else constraint.cpu())
