"""Score models: a callable (x, t) -> grad log p_t(x), and wrappers for networks that predict something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..theory.process import Process

Network = Callable[[Tensor, Tensor], Tensor]
Prediction = Literal["score", "eps", "x0", "v", "flow"]


class ScoreModel(Protocol):
    """grad log p_t(x): states x [rows, *event] and their times t [rows] to scores [rows, *event]."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...


def broadcast(level: Tensor, x: Tensor) -> Tensor:
    """A number per row, [rows], as something that multiplies states [rows, *event], in the states' precision."""
    return level.to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))


def score_from_denoised(process: Process, denoised: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """(alpha D - x) / sigma^2, Tweedie's formula, for D = E[x_0 | x_t]."""
    t = t.to(torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (broadcast(alpha, x) * denoised - x) / broadcast(sigma**2, x)


def wrap(network: Network, *, predicts: Prediction, process: Process) -> ScoreModel:
    """A score model from a network (x [rows, *event], t [rows]) that predicts the score, the noise, x_0, v or the flow.

    v = alpha eps - sigma x_0 (Salimans and Ho 2022, divided by alpha^2 + sigma^2 for processes that do not preserve
    variance); flow = eps - x_0, the velocity of rectified flow. Raises ValueError for another word.
    """

    def levels(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(torch.float64)
        return broadcast(process.alpha(t), x), broadcast(process.sigma(t), x)

    def from_eps(x: Tensor, t: Tensor) -> Tensor:
        return -network(x, t) / levels(x, t)[1]

    def from_x0(x: Tensor, t: Tensor) -> Tensor:
        return score_from_denoised(process, network(x, t), x, t)

    def from_v(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = levels(x, t)
        return -(alpha * network(x, t) + sigma * x / (alpha**2 + sigma**2)) / sigma

    def from_flow(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = levels(x, t)
        return -(x + alpha * network(x, t)) / (sigma * (alpha + sigma))

    readings: dict[str, Network] = {"score": network, "eps": from_eps, "x0": from_x0, "v": from_v, "flow": from_flow}
    if predicts not in readings:
        raise ValueError(f"unknown prediction {predicts!r}; a network may predict {', '.join(readings)}")
    return readings[predicts]


class EDMPreconditioned:
    """Karras et al. 2022, table 1: D(x) = c_skip x + c_out F(c_in x, ln(t)/4) for the EDM process, from a raw network F."""

    def __init__(self, network: Network, sigma_data: float = 0.5):
        self.network, self.sigma_data = network, sigma_data

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        total = torch.sqrt(t**2 + self.sigma_data**2)
        skip, out = self.sigma_data**2 / total**2, t * self.sigma_data / total
        raw = self.network(x * broadcast(1 / total, x), torch.log(t) / 4)
        return broadcast(skip, x) * x + broadcast(out, x) * raw
