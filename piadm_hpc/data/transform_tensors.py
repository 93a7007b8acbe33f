"""The inverse transforms of single variables, as differentiable functions of tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .transforms import Transform


def tensor_values(transform: Transform, scores: Tensor) -> Tensor:
    """Return the values of scores, float64 in any shape, as `transform.values` does.

    Where scores belong to an atom, such as dry days, the derivative is that at its edge: the value is constant there, so that an
    observation could not change the score otherwise.
    """
    z, lower, upper = scores.to(torch.float64), transform.lower, transform.upper
    if transform.kind == "log":
        x = lower + torch.exp(z)
    elif transform.kind == "sqrt":
        x = lower + z.clamp(min=0) ** 2
    elif transform.kind == "logit":
        x = lower + (upper - lower) * torch.sigmoid(z)
    elif transform.kind == "boxcox":
        x = lower + _inverse_boxcox(z, transform.power)
    else:
        x = _of_quantiles(transform, z)
    x = x.clamp(lower, upper)
    if not np.isfinite(transform.atom):
        return x
    quantiles, knots = transform.table[:2].T
    slope = (quantiles[1] - quantiles[0]) / (knots[1] - knots[0])
    return torch.where(z <= transform.atom, lower + slope * (z - z.detach()), x)


def _inverse_boxcox(z: Tensor, power: float) -> Tensor:
    if power == 0:
        return torch.exp(z)
    return (power * z + 1).clamp(min=0) ** (1 / power) if power > 0 else (power * z + 1).clamp(min=1e-300) ** (1 / power)


def _of_quantiles(transform: Transform, z: Tensor) -> Tensor:
    """Interpolation in the table, and beyond it the tails."""
    quantiles, knots = (torch.from_numpy(np.array(column)).to(z.device) for column in transform.table.T)
    inside = z.clamp(knots[0], knots[-1])
    above = torch.searchsorted(knots, inside.detach().contiguous()).clamp(1, len(knots) - 1)
    share = (inside - knots[above - 1]) / (knots[above] - knots[above - 1])
    x = quantiles[above - 1] + share * (quantiles[above] - quantiles[above - 1])
    for side, sign in ((0, 1.0), (-1, -1.0)):
        scale, shape = transform.tails[side]
        beyond = sign * (z - knots[side]) < 0
        if scale > 0 and bool(beyond.any()):
            # both branches of `where` are differentiated, so that the other one must be finite
            reach = torch.where(beyond, z, knots[side])
            log_share = torch.special.log_ndtr(sign * reach) - torch.special.log_ndtr(sign * knots[side])
            excess = -log_share if shape == 0 else torch.expm1(-shape * log_share) / shape
            x = torch.where(beyond, quantiles[side] - sign * scale * excess, x)
    return x
