"""The posterior of a model given observations: a conditioned reference, a score, and a last step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...gaussian.conditioned import Update, condition, seen_variance
from ...gaussian.observed import LinearObservations
from ...gaussian.reference import GaussianReference
from ...theory.process import Process
from ..base import ScoreModel
from ..model import Model
from .function import FunctionObservations, linearised
from .scores import Denoise, Guidance, GuidedScore, KalmanScore, levels

AnyObservations = LinearObservations | FunctionObservations
FAR = 5.0
"""Deviations from the reference beyond which the middle observation is taken for one in other units."""


@dataclass(frozen=True)
class Posterior:
    """What a solver needs of p(x_0 | y).

    Attributes:
        observations: of the states.
        reference: the model's Gaussian given the observations, on which chain, sweeps and first states are built.
        score: the posterior's score.
        process: the noising process.
        update: the gain of the Kalman score; None for the other scores.
    """

    observations: AnyObservations
    reference: GaussianReference
    score: ScoreModel
    process: Process
    update: Update | None

    def last_step(self, x: Tensor, t: Tensor) -> Tensor:
        """Carry states x [rows, *event] from the chain's last time t (a scalar) to the data, with one call of the score.

        The result is (sqrt(g) x / alpha + D) / (1 + sqrt(g)) in the modes of the conditioned reference, with D the updated
        estimate E[x_0 | x_t, y] and g = lambda / (lambda + sigma^2 / alpha^2): the flow's end for a score whose difference from
        the Gaussian's is constant. Noise that early stopping leaves would otherwise spoil what accurate observations say.
        """
        times = t.to(x).expand(len(x))
        alpha, sigma = levels(self.process, times)
        noisy, score = x.flatten(1).to(torch.float64), self.score(x.clone(), times.clone()).flatten(1).to(torch.float64)
        estimate = (noisy + sigma[:, None] ** 2 * score) / alpha[:, None]
        spectrum, basis = self.reference.spectrum.to(torch.float64), self.reference.basis
        root = basis.expand(torch.sqrt(spectrum / (spectrum + (sigma[0] / alpha[0]) ** 2)))
        joined = (root * basis.analyse(noisy / alpha[:, None]) + basis.analyse(estimate)) / (1 + root)
        return basis.synthesise(joined).reshape(x.shape).to(x.dtype)


def posterior(
    score: ScoreModel,
    denoise: Denoise | None,
    process: Process,
    reference: GaussianReference,
    observations: AnyObservations,
    *,
    kind: Guidance | str = "auto",
    gamma: float = 0.01,
) -> Posterior:
    """Build the posterior of a model with a score, a Gaussian reference and observations of its states.

    `kind` is "kalman" (the default for linear observations), "mmps" (the default for a function), "sda" (with its `gamma`),
    "dps" or "pigdm"; all but the first need `denoise`, the estimate as a differentiable function of states [rows, *event] and
    times [rows]. Raises ValueError for a kind that cannot be had, and for observations far from anything that the reference
    gives.
    """
    reference = reference.to(reference.mean.device, torch.float64)
    observations = observations.to(reference.mean.device)
    linear = isinstance(observations, LinearObservations)
    chosen = ("kalman" if linear else "mmps") if kind == "auto" else kind
    straight = observations if isinstance(observations, LinearObservations) else linearised(observations, reference)
    if linear:
        require_likely(reference, straight)
    conditioned = condition(reference, straight)
    if chosen == "kalman":
        if not linear:
            raise ValueError("the Kalman score needs linear observations; use mmps for a function")
        update = Update(reference, straight)
        return Posterior(observations, conditioned, KalmanScore(score, process, update), process, update)
    if denoise is None:
        raise ValueError(f"{chosen} needs the derivative of the network, which this model does not give; use kalman")
    guided = GuidedScore(denoise, process, observations, chosen, gamma)  # type: ignore[arg-type]
    return Posterior(observations, conditioned, guided, process, None)


def require_likely(reference: GaussianReference, observations: LinearObservations) -> None:
    """Raise ValueError where half of the observations are further from the reference than FAR of its deviations."""
    spread = torch.sqrt(expected_variance(reference, observations))
    distance = (observations.values - observations.apply(reference.mean[None])[0]).abs() / spread
    if float(distance.median()) > FAR:
        raise ValueError(
            f"the middle observation lies {float(distance.median()):.3g} standard deviations from the model's mean; are they in "
            "other units, or absolute values for a model of anomalies (observations.absolute)?"
        )


def expected_variance(reference: GaussianReference, observations: LinearObservations) -> Tensor:
    """Return the variances of the observations under the reference, errors included, [m]."""
    return seen_variance(reference, observations) + observations.std**2


def of_model(model: Model, observations: AnyObservations, *, kind: str = "auto", gamma: float = 0.01) -> Posterior:
    """Build the posterior of a loaded model; ValueError for a model of position and momentum."""
    if model.process.fields > 1:
        raise ValueError("observations need a model of one field; this one describes position and momentum")
    denoise = model.denoiser
    return posterior(model.score, denoise, model.process, model.reference, observations, kind=kind, gamma=gamma)
