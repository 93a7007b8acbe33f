"""The training objective: the denoising loss of states, given their conditions, at random noise levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...schema.conditions import Condition, apply_to_leaves, leaves, rows_of
from ..config import NoiseConfig
from ..denoiser import GaussianDenoiser
from .energy_targets import EnergyTargets
from .evaluation import time_of


class NoiseLevels:
    """Distribution of the log-SNR at which the network is trained.

    A part is uniform; the rest is proportional to the share of the Wiener error that the network can explain, c_out^2 / error.
    """

    def __init__(self, denoiser: GaussianDenoiser, config: NoiseConfig, knots: int = 512):
        self.knots = torch.linspace(config.lowest, config.highest, knots, dtype=torch.float64)
        t = time_of(denoiser.process, self.knots)
        share = denoiser.output_scale(t) ** 2 / denoiser.wiener_error(t)
        density = config.spread / knots + (1 - config.spread) * share / share.sum()
        self.cumulative = torch.cumsum(density, 0)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` values, float64, one from each of `count` equally likely strata, so that every batch covers all levels."""
        strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        index = torch.searchsorted(self.cumulative, strata.to(torch.float64) * self.cumulative[-1])
        return self.knots[index.clamp(max=len(self.knots) - 1)]


@dataclass(frozen=True)
class Objective:
    """The denoising loss of a denoiser at random noise levels, towards the data or towards `targets` from their energy."""

    denoiser: GaussianDenoiser
    levels: NoiseLevels
    half: bool = False
    condition: Condition | None = None
    dropout: float = 0.0
    targets: EnergyTargets | None = None

    def __call__(self, states: Tensor, batch: int, generator: torch.Generator) -> Tensor:
        """The loss, a scalar, on a batch drawn from states [n, *event], with their conditions where there are any."""
        chosen = _strata(min(batch, len(states)), len(states), generator)
        clean = states[chosen]
        t = time_of(self.denoiser.process, self.levels.draw(len(clean), generator))
        white = self.denoiser.white(clean, generator)
        given = () if self.condition is None else (self._dropped(rows_of(self.condition, chosen), generator),)
        if self.targets is None:
            return self.denoiser.loss(clean, t, white, *given, half=self.half)
        process = self.denoiser.process
        target = clean + self.targets.correction(chosen, process.sigma(t) / process.alpha(t), white)
        return self.denoiser.error(self.denoiser.noised(clean, t, white), t, target, *given, half=self.half)

    def _dropped(self, condition: Condition, generator: torch.Generator) -> Condition:
        """Replace the share `dropout` of the conditions by none, which is zero everywhere."""
        count = len(next(leaves(condition))[1])
        kept = torch.rand(count, generator=generator) >= self.dropout
        return apply_to_leaves(condition, lambda values: values * kept.reshape(-1, *[1] * (values.ndim - 1)))


def _strata(batch: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `batch` of `count` indices in random order, one from each of `batch` equally long strata."""
    places = (torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator, dtype=torch.float64)) / batch
    return (places * count).long().clamp(max=count - 1)
