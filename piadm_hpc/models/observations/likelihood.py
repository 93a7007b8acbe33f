"""The likelihood of observations: log p(y | x) of states, with Gaussian errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...gaussian.observed import LinearObservations


def log_likelihood(observations: LinearObservations, x: Tensor) -> Tensor:
    """Return log N(y; H x, R), [n] float64, of flat states x [n, d], per unit of the values in the units of states."""
    away = observations.values - observations.apply(x)
    whitened = observations.noise_inverse(away, torch.zeros(len(away), dtype=torch.float64, device=away.device))
    volume = torch.linalg.slogdet(observations.noise_matrix())[1] + len(observations) * math.log(2 * math.pi)
    found: Tensor = -((away * whitened).sum(1) + volume) / 2
    return found
