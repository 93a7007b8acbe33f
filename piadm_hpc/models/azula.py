"""Denoisers of azula as scores of this package, and models of this package as denoisers of azula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..schema.conditions import Condition
from ..theory.process import Process, bisected, forward_time
from .base import ScoreModel, broadcast, wrap
from .model import Model


@dataclass(frozen=True, eq=False)
class Scheduled:
    """The noising process of a schedule of azula, a function of times in [0, 1] that returns signal and noise level.

    `time` finds times by bisection; outside the schedule it returns its ends.
    """

    fields: ClassVar[int] = 1
    schedule: Callable[[Tensor], tuple[Tensor, Tensor]]

    def alpha(self, t: Tensor) -> Tensor:
        return self.schedule(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self.schedule(t)[1]

    def time(self, theta: Tensor) -> Tensor:
        return bisected(lambda t: forward_time(self, t), theta, 1.0)


def from_azula(denoiser: Any) -> tuple[ScoreModel, Process]:
    """Return the score and the process of a denoiser of azula, for chains, `solve` and `Sampler`.

    A condition is a dictionary, whose tensors are the denoiser's keyword arguments.
    """
    process = Scheduled(denoiser.schedule)

    def network(x: Tensor, t: Tensor, *condition: dict[str, Tensor]) -> Tensor:
        mean: Tensor = denoiser(x, t, **(condition[0] if condition else {})).mean
        return mean

    return wrap(network, predicts="x0", process=process), process


def to_azula(model: Model) -> Any:
    """Return a model as a denoiser of azula, for its samplers and posteriors.

    Its time 0 is the model's `delta` and 1 its `horizon`, between which the log-SNR is linear. The keyword argument
    `condition` is handed on to the score. Raises ValueError for a model of position and momentum, and where azula is not
    installed.
    """
    try:
        from azula.denoise import Denoiser, DiracPosterior
    except ImportError:
        raise ValueError("to_azula needs the package: pip install azula") from None
    if model.process.fields > 1:
        raise ValueError(f"{model.name} was trained on position and momentum, which azula's denoisers do not have")

    class AzulaDenoiser(Denoiser):  # type: ignore[misc]
        """The denoised estimate of the model at azula's times."""

        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule_of(model)

        def forward(self, x_t: Tensor, t: Tensor, *, condition: Condition | None = None) -> Any:
            own = model_time(model, t).to(x_t).expand(len(x_t))
            score = model.score(x_t.clone(), own.clone(), *(() if condition is None else (condition,)))
            alpha, sigma = (broadcast(level(own.to(torch.float64)), x_t) for level in (model.process.alpha, model.process.sigma))
            return DiracPosterior(mean=(x_t + sigma**2 * score) / alpha)

    return AzulaDenoiser()


def schedule_of(model: Model) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return signal and noise level of a model at times in [0, 1], in the precision of the times."""

    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        own = model_time(model, t)
        return model.process.alpha(own).to(t), model.process.sigma(own).to(t)

    return schedule


def model_time(model: Model, t: Tensor) -> Tensor:
    """Return the model's own times for times [*] in [0, 1], float64."""
    theta = forward_time(model.process, torch.tensor([model.delta, model.horizon], dtype=torch.float64))
    clean, noisy = torch.log(torch.expm1(theta)).to(t.device)
    return model.process.time(torch.log1p(torch.exp(clean + (noisy - clean) * t.to(torch.float64))))
