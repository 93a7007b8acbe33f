"""The posterior of a model given observations: a conditioned reference, a score, and a last step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...gaussian.conditioned import Update, condition, seen_variance
from ...gaussian.observed import LinearObservations
from ...gaussian.reference import GaussianReference, levels
from ...schema.conditions import Condition, rows_of
from ...theory.process import Process
from ..base import ScoreModel
from ..model import Model
from .conditional import Centre, Shifted, negative
from .function import FunctionObservations, linearised
from .scores import Denoise, Guidance, GuidedScore, KalmanScore

AnyObservations = LinearObservations | FunctionObservations
FAR = 5.0
"""Standard deviations from the reference beyond which the median observation is assumed to have other units."""


@dataclass(frozen=True)
class Posterior:
    """The posterior p(x_0 | y), as a solver needs it.

    Attributes:
        observations: of the states.
        reference: the model's Gaussian given the observations, for chain, sweeps and first states.
        score: the posterior's score.
        process: the noising process.
        update: the gain of the Kalman score; None for the other scores.
        centre: for a conditional model, the difference of fields and states: the reference's mean given their condition.
    """

    observations: AnyObservations
    reference: GaussianReference
    score: ScoreModel
    process: Process
    update: Update | None
    centre: Centre | None = None

    def seen_by(self, model: Model) -> Model:
        """Return the model for chains and solvers: with the posterior's score and reference."""
        return replace(model, score=self.score, reference=self.reference)

    def last_step(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        """Carry states x [rows, *event] from the chain's last time t (a scalar) to the data, with one call of the score.

        The result is (sqrt(g) x / alpha + D) / (1 + sqrt(g)) in the modes of the conditioned reference, with D the updated
        estimate E[x_0 | x_t, y] and g = lambda / (lambda + sigma^2 / alpha^2): the flow's end for a score whose difference from
        the Gaussian's is constant. The remaining noise of early stopping would otherwise spoil the information of accurate
        observations.
        """
        times = t.to(x).expand(len(x))
        alpha, sigma = levels(self.process, times)
        noisy, score = (
            x.flatten(1).to(torch.float64),
            self.score(x.clone(), times.clone(), *condition).flatten(1).to(torch.float64),
        )
        estimate = (noisy + sigma[:, None] ** 2 * score) / alpha[:, None]
        spectrum, basis = self.reference.spectrum.to(torch.float64), self.reference.basis
        root = basis.expand(torch.sqrt(spectrum / (spectrum + (sigma[0] / alpha[0]) ** 2)))
        joined = (root * basis.analyse(noisy / alpha[:, None]) + basis.analyse(estimate)) / (1 + root)
        return basis.synthesise(joined).reshape(x.shape).to(x.dtype)

    def finished(self, states: Tensor, t: Tensor, condition: Condition | None, rows: int | None = None) -> Tensor:
        """Return the model's samples for states [samples, *event] at the chain's last time, in calls of so many rows."""
        parts = []
        with torch.no_grad():
            for part in torch.split(torch.arange(len(states)), rows or len(states)):
                given = () if condition is None else (rows_of(condition, part),)
                done = self.last_step(states[part], t, *given)
                parts.append(done if self.centre is None else self.centre.residual(done, *given))
        return torch.cat(parts)


def posterior(
    score: ScoreModel,
    denoise: Denoise | None,
    process: Process,
    reference: GaussianReference,
    observations: AnyObservations,
    *,
    kind: Guidance | str = "auto",
    gamma: float = 0.01,
    likely: bool = True,
) -> Posterior:
    """Build the posterior of a model with a score, a Gaussian reference and observations of its states.

    `kind` is "kalman" (the default for linear observations), "mmps" (the default for a function), "sda" (with its `gamma`),
    "dps" or "pigdm"; all but the first need `denoise`, the estimate as a differentiable function of states [rows, *event] and
    times [rows]. Raises ValueError for a kind that is not possible, and with `likely` for observations far from the reference.
    """
    reference = reference.to(reference.mean.device, torch.float64)
    observations = observations.to(reference.mean.device)
    linear = isinstance(observations, LinearObservations)
    chosen = ("kalman" if linear else "mmps") if kind == "auto" else kind
    straight = observations if isinstance(observations, LinearObservations) else linearised(observations, reference)
    if linear and likely:
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
    """Raise ValueError if half of the observations are further from the reference than FAR of its standard deviations."""
    spread = torch.sqrt(expected_variance(reference, observations))
    distance = (observations.values - observations.apply(reference.mean[None])[0]).abs() / spread
    if float(distance.median()) > FAR:
        raise ValueError(_unlikely(float(distance.median())))


def expected_variance(reference: GaussianReference, observations: LinearObservations) -> Tensor:
    """Return the variances of the observations under the reference, errors included, [m]."""
    return seen_variance(reference, observations) + observations.std**2


def of_model(model: Model, observations: AnyObservations, *, kind: str = "auto", gamma: float = 0.01) -> Posterior:
    """Build the posterior of a loaded model, whose fields are observed; ValueError for a model of position and momentum.

    That of a conditional model has states around its `centre`, and takes linear observations alone.
    """
    if model.process.fields > 1:
        raise ValueError("observations need a model of one field; this one describes position and momentum")
    if model.conditioning is None:
        return posterior(model.score, model.denoiser, model.process, model.reference, observations, kind=kind, gamma=gamma)
    if not isinstance(observations, LinearObservations):
        raise ValueError(f"{model.name} is conditional; conditional models take linear observations, and no operator")
    require_plausible(observations)
    mean = model.conditioning.mean
    score = Shifted(model.score, model.process, negative(mean))
    denoise = None if model.denoiser is None else Shifted(model.denoiser, model.process, negative(mean), estimates=True)
    conditioned = posterior(
        score, denoise, model.process, model.reference, observations, kind=kind, gamma=gamma, likely=False
    )  # fmt: skip
    update = conditioned.update or Update(model.reference, observations)
    centre = Centre(mean, update)
    return replace(conditioned, score=Shifted(conditioned.score, model.process, centre), centre=centre)


def require_plausible(observations: LinearObservations) -> None:
    """Raise ValueError if half of the observations are further than FAR from the mean of fields of unit standard deviation."""
    distance = observations.values.abs() / torch.sqrt(1 + observations.std**2)
    if float(distance.median()) > FAR:
        raise ValueError(_unlikely(float(distance.median())))


def _unlikely(distance: float) -> str:
    return (
        f"the middle observation lies {distance:.3g} standard deviations from the model's mean; are they in other units, or "
        "absolute values for a model of anomalies (observations.absolute)?"
    )
