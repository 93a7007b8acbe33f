"""Score models, callables (x, t) -> grad log p_t(x), and wrappers for networks that predict something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..solvers.errors import ScoreError
from ..theory.process import Process

Network = Callable[[Tensor, Tensor], Tensor]
Prediction = Literal["score", "eps", "x0", "v", "flow"]


class ScoreModel(Protocol):
    """The score grad log p_t(x): takes states x [rows, *event] and times t [rows] in their precision, returns [rows, *event]."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...


def broadcast(level: Tensor, x: Tensor) -> Tensor:
    """Reshape one number per row, [rows], so that it multiplies states [rows, *event], in the precision of the states."""
    return level.to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))


def score_from_denoised(process: Process, denoised: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Return the score (alpha D - x) / sigma^2 of a denoised estimate D = E[x_0 | x_t] (Tweedie's formula)."""
    t = t.to(torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (broadcast(alpha, x) * denoised - x) / broadcast(sigma**2, x)


def checked(result: object, x: Tensor, name: str = "the network") -> Tensor:
    """Return what a network gave for states x [rows, *event] if it is real numbers of the same shape; ScoreError otherwise.

    It is detached unless the states require gradients.
    """
    if not isinstance(result, Tensor):
        inner = " in its attribute `sample`" if isinstance(getattr(result, "sample", None), Tensor) else ""
        inner = " as its first entry" if isinstance(result, tuple) and result and isinstance(result[0], Tensor) else inner
        advice = f"; return the tensor that it holds{inner}" if inner else ""
        raise ScoreError(f"{name} returned {type(result).__name__}, not a tensor{advice}")
    if result.shape != x.shape:
        twice = x.ndim > 1 and result.shape == (x.shape[0], 2 * x.shape[1], *x.shape[2:])
        advice = "; of a network that predicts a variance as well, return the first half of the channels" if twice else ""
        raise ScoreError(
            f"{name} returned {list(result.shape)} for states {list(x.shape)} [rows, *event]; it must return the same shape"
            f"{advice}"
        )
    if not result.is_floating_point():
        raise ScoreError(f"{name} returned {result.dtype} for states of {x.dtype}; it must return real floating numbers")
    return result if x.requires_grad else result.detach()


def wrap(network: Network, *, predicts: Prediction, process: Process) -> ScoreModel:
    """Return a score model for a network that predicts the score, the noise, x_0, v or the flow.

    `network(x [rows, *event], t [rows])` is called with copies of the states and of the process's own times, both in the
    precision of the states, and must return the shape of the states. v = alpha eps - sigma x_0 (Salimans and Ho 2022, divided
    by alpha^2 + sigma^2 for processes that do not preserve variance); flow = eps - x_0, the velocity of rectified flow. Raises
    ValueError for another word; the score model raises ScoreError for an output of another shape or of complex numbers.
    """

    def output(x: Tensor, t: Tensor) -> Tensor:
        return checked(network(x.clone(), t.clone()), x)

    def levels(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(torch.float64)
        return broadcast(process.alpha(t), x), broadcast(process.sigma(t), x)

    def from_eps(x: Tensor, t: Tensor) -> Tensor:
        return -output(x, t) / levels(x, t)[1]

    def from_x0(x: Tensor, t: Tensor) -> Tensor:
        return score_from_denoised(process, output(x, t), x, t)

    def from_v(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = levels(x, t)
        return -(alpha * output(x, t) + sigma * x / (alpha**2 + sigma**2)) / sigma

    def from_flow(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = levels(x, t)
        return -(x + alpha * output(x, t)) / (sigma * (alpha + sigma))

    readings: dict[str, Network] = {"score": output, "eps": from_eps, "x0": from_x0, "v": from_v, "flow": from_flow}
    if predicts not in readings:
        raise ValueError(f"unknown prediction {predicts!r}; a network may predict {', '.join(readings)}")
    return readings[predicts]


class EDMPreconditioned:
    """The denoiser D(x) = c_skip x + c_out F(c_in x, ln(t)/4) of a raw network F (Karras et al. 2022, table 1), for EDM."""

    def __init__(self, network: Network, sigma_data: float = 0.5):
        self.network, self.sigma_data = network, sigma_data

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        total = torch.sqrt(t**2 + self.sigma_data**2)
        skip, out = self.sigma_data**2 / total**2, t * self.sigma_data / total
        raw = checked(self.network(x * broadcast(1 / total, x), torch.log(t) / 4), x)
        return broadcast(skip, x) * x + broadcast(out, x) * raw
