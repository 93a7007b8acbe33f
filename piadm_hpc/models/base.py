"""Score models, callables (x, t) -> grad log p_t(x), and wrappers for networks that predict something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..schema.conditions import Condition
from ..solvers.errors import ScoreError
from ..theory.process import Process

Network = Callable[..., Tensor]
Prediction = Literal["score", "eps", "x0", "v", "flow"]


# the score grad log p_t(x): takes states x [rows, *event] and times t [rows] in their precision, returns [rows, *event]; that of
# a conditional model, grad log p_t(x | c), takes a condition as well, whose tensors are [rows, ...]
ScoreModel = Callable[..., Tensor]


def broadcast(level: Tensor, x: Tensor) -> Tensor:
    """Reshape one number per row, [rows], so that it multiplies states [rows, *event], in the precision of the states."""
    return level.to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))


def score_from_denoised(process: Process, denoised: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Return the score (alpha D - x) / sigma^2 of a denoised estimate D = E[x_0 | x_t] (Tweedie's formula)."""
    t = t.to(torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (broadcast(alpha, x) * denoised - x) / broadcast(sigma**2, x)


def checked(result: object, x: Tensor, name: str = "the network") -> Tensor:
    """Return a network's output for states x [rows, *event] if it is real and of the same shape; ScoreError otherwise.

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

    `network(x [rows, *event], t [rows])` takes states and the process's own times, both in the precision of the states, and
    returns the shape of the states. A condition of the score is passed on as third argument. v = alpha eps - sigma x_0
    (Salimans and Ho 2022, divided by alpha^2 + sigma^2 for processes that do not preserve variance); flow = eps - x_0, the
    velocity of rectified flow. Networks may work in place, so callers give states and times that they do not need again, as
    solvers always do. Raises ValueError for another word; the score model raises ScoreError for an output of another shape or
    of complex numbers.
    """
    # the score is a x + b F of the network's output F; both weights are numbers per row
    weights: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
        "eps": lambda alpha, sigma: (torch.zeros_like(sigma), -1 / sigma),
        "x0": lambda alpha, sigma: (-1 / sigma**2, alpha / sigma**2),
        "v": lambda alpha, sigma: (-1 / (alpha**2 + sigma**2), -alpha / sigma),
        "flow": lambda alpha, sigma: (-1 / (sigma * (alpha + sigma)), -alpha / (sigma * (alpha + sigma))),
    }
    if predicts == "score":
        return lambda x, t, *condition: checked(network(x, t, *condition), x)
    if predicts not in weights:
        raise ValueError(f"unknown prediction {predicts!r}; a network may predict {', '.join(['score', *weights])}")

    def score(x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        time = t.to(torch.float64)
        of_state, of_output = (broadcast(each, x) for each in weights[predicts](process.alpha(time), process.sigma(time)))
        # a network may work in place, so its states are read before it is called
        own = of_state * x
        return own + of_output * checked(network(x, t, *condition), x)

    return score


class EDMPreconditioned:
    """The denoiser D(x) = c_skip x + c_out F(c_in x, ln(t)/4) of a raw network F (Karras et al. 2022, table 1), for EDM."""

    def __init__(self, network: Network, sigma_data: float = 0.5):
        self.network, self.sigma_data = network, sigma_data

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        total = torch.sqrt(t**2 + self.sigma_data**2)
        skip, out = self.sigma_data**2 / total**2, t * self.sigma_data / total
        raw = checked(self.network(x * broadcast(1 / total, x), torch.log(t) / 4, *condition), x)
        return broadcast(skip, x) * x + broadcast(out, x) * raw
