"""Forecasts corrected by observations lead by lead: an ensemble Kalman smoother around draws conditioned on observations.

Before a lead is drawn, its observations update the fields on which it is conditioned, each member's by its own forecast with
errors drawn for it; then the lead is drawn conditioned on these fields and the observations. Both gains are those of the model's
Gaussian part, its regression and the reference of its residuals, so that no member depends on another, and for a model that is
this Gaussian every member is a draw of the Kalman filter's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..data.conditions import MAPS
from ..gaussian.conditioned import Update, covariance
from ..gaussian.filtering import Smoother, joined_rows, leading_rows
from ..gaussian.observed import LinearObservations, projected
from ..gaussian.reference import GaussianReference
from ..models.conditioning import Conditioning
from ..models.observations.posterior import Posterior
from ..schema.conditions import Condition
from ..solvers.links import Link
from ..solvers.rollout import Observed
from ..theory.noise import OBSERVED, NoiseSource
from .resolve import ResolvedRun, sampler_on
from .rollout import Starts

F64 = torch.float64
ONE, ZERO = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)


@dataclass
class Filter:
    """The observations of the leads of one start, and the covariance of the fields on which leads are conditioned.

    Leads are processed in their order; a lead that was passed is not built again.
    """

    run: ResolvedRun
    starts: Starts
    place: int
    _lead: int = 0
    _factor: Tensor | None = field(default=None, repr=False)
    _found: Observed | None = field(default=None, repr=False)

    def at(self, lead: int) -> Observed | None:
        """Return the effect of a lead's observations; None for a lead without observations."""
        while self._lead < lead:
            self._lead += 1
            self._found = self._advanced(self._lead)
        return self._found

    @property
    def _conditioning(self) -> Conditioning:
        conditioning = self.run.model.conditioning
        assert isinstance(conditioning, Conditioning)
        return conditioning

    def _advanced(self, lead: int) -> Observed | None:
        """Propagate the covariance over a lead, and return the effect of its observations."""
        dated, reference, size = self.run.dated, self.run.reference, len(self.run.reference.mean)
        assert dated is not None
        factor = self._factor
        if factor is None:  # starts are exact
            factor = torch.zeros(0, self.starts.order * size, dtype=F64, device=reference.mean.device)
        given = dated.at(self.place, lead)
        if given is None:
            self._factor = self._next(factor, self._forecast(factor), leading_rows(reference))
            return None
        assert isinstance(given.observations, LinearObservations)
        update, forecast = _prior_update(given, reference), self._forecast(factor)
        variance = projected(update.observations, partial(covariance, update.reference, update.reference.spectrum.to(F64)))
        smoother = Smoother.of(factor, forecast, update.observations, variance + update.observations.noise_matrix())
        kept, moved = smoother.reduced(factor), smoother.reduced(forecast)
        moved = moved - update.prior_increment(update.observations.apply(moved)) if len(moved) else moved
        self._factor = self._next(kept, moved, leading_rows(given.reference))
        sampler = sampler_on(
            self.run.config, given.seen_by(self.run.model), self.run.grid, given.reference, self.run.sampler.device, guide=False
        )
        return Observed(
            sampler=sampler,
            past=partial(self._smoothed, smoother, update),
            finish=partial(_finished, given, sampler.chain.t[-1], sampler.options.model_batch),
        )

    def _next(self, kept: Tensor, moved: Tensor, drawn: Tensor) -> Tensor:
        """The factor of the last fields after a lead: earlier fields move up by one, and the drawn field is added."""
        size = drawn.shape[1]
        uncertain = torch.cat([kept[:, size:], moved], dim=1)
        return joined_rows(uncertain, torch.cat([drawn.new_zeros(len(drawn), kept.shape[1] - size), drawn], dim=1))

    def _forecast(self, rows: Tensor) -> Tensor:
        """Return M z for rows z [k, order d]: how the mean of the next field moves with the last ones."""
        conditioning, order = self._conditioning, self.starts.order
        normalisation = conditioning.normalisation
        grid = normalisation.mean.shape
        last, maps = rows.cpu().reshape(len(rows), order, *grid), []
        for each in conditioning.inputs:
            if each.kind == "lag":
                maps.append(last[:, order - each.lag, normalisation.names.index(each.variable)])
            elif each.kind in MAPS:
                maps.append(last.new_zeros(len(rows), *grid[1:]))
        stacked = torch.cat([torch.stack(maps, dim=1), last.new_zeros(1, len(maps), *grid[1:])])
        found = conditioning.regression(stacked, last.new_zeros(len(stacked), conditioning.num_numbers - 1))
        return ((found[:-1] - found[-1:]) * torch.from_numpy(normalisation.mask).flatten()).to(rows.device)

    def _smoothed(self, smoother: Smoother, update: Update, past: Tensor, links: Sequence[Link], noise: NoiseSource) -> Tensor:
        """Return the last fields [rows, order, *event] given the observations of the lead that follows them."""
        if not len(smoother.factor):
            return past
        observations, d = update.observations, past[0, 0].numel()
        channels, device = 1 + -(-2 * len(observations) // d), update.reference.mean.device
        white = noise.at([0], range(len(past)), channels, OBSERVED)[0].to(device, F64)
        residual = update.reference.draw(white[:, 0].reshape(len(past), *past.shape[2:]), ONE, ZERO).flatten(1)
        errors = white[:, 1:].flatten(1)
        own, shared = errors[:, : len(observations)], errors[:, len(observations) : 2 * len(observations)]
        mean = self._conditioning.mean(self.starts.condition(past, links)).flatten(1).to(device, F64)
        forecast = observations.apply(mean + residual) + observations.errors(own, shared)
        return past + smoother.increment(observations.values - forecast).reshape(past.shape).to(past)


def _prior_update(made: Posterior, reference: GaussianReference) -> Update:
    """The gain of a lead's observations for the reference of residuals."""
    assert isinstance(made.observations, LinearObservations)
    return made.update or Update(reference.to(reference.mean.device, F64), made.observations)


def _finished(made: Posterior, t: Tensor, rows: int | None, x: Tensor, condition: Condition) -> Tensor:
    return made.finished(x, t, condition, rows)
