"""From a configuration and a model to one record with nothing left open, which every part of a run shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..gaussian.reference import GaussianReference
from ..models.card import Model
from ..models.compiled import with_compilation
from ..models.foreign import ADAPTER
from ..models.observations.dated import Dated
from ..models.observations.reading import Given
from ..models.patches import of_domain
from ..models.registry import CARD
from ..schema.conditions import Condition, rows_of
from ..solvers.resolution import choose
from ..solvers.sampler import Sampler
from ..solvers.scheme import Scheme
from ..theory.grid import TimeGrid
from .build import (
    make_dated,
    make_grid,
    make_options,
    make_posterior,
    make_reference,
    make_scheme,
    make_score,
    projection_of,
    time_range,
)
from .conditions import completed, encoded_conditions, of_samples

STEPS = 24  # of the default chain, where the model's card does not say
STEERED_BLOCKS = 4
GIVEN_STEPS = 48  # of a chain with another integrator


@dataclass(frozen=True)
class ResolvedRun:
    """A configuration whose settings "auto" are replaced by values for its model, and the objects built from both.

    Attributes:
        config: the configuration, complete.
        model: the model, with its network compiled if that is requested.
        reference: the Gaussian for chain and sweeps; the model's own, or one from a file.
        grid: points in the model's own time.
        sampler: draws the samples.
        given: the observations that samples are conditioned on, or None.
        dated: the observations that leads of forecasts are conditioned on, or None.
        condition: the conditions of the run's samples, one entry for each; None for a model without conditions.
    """

    config: RunConfig
    model: Model
    reference: GaussianReference
    grid: TimeGrid
    sampler: Sampler
    given: Given | None = None
    dated: Dated | None = None
    condition: Condition | None = None

    def condition_of(self, samples: Sequence[int]) -> Condition | None:
        """The condition of every sample, by the samples' ids."""
        leads = self.config.rollout.leads or 1
        return of_samples(self.condition, self.config.condition.count, [sample // leads for sample in samples])

    @property
    def timed(self) -> Sampler:
        """The sampler with a score of states and times alone, whose calls can be timed: that of the run's first condition."""
        if self.condition is None:
            return self.sampler
        first, score = self.condition, self.sampler.score

        def under_the_first(x: Tensor, t: Tensor) -> Tensor:
            return score(x, t, rows_of(first, torch.zeros(len(x), dtype=torch.long)))

        return replace(self.sampler, score=under_the_first)

    @property
    def scheme(self) -> Scheme:
        """The chain of steps, or the points of the flow."""
        return self.sampler.chain

    def with_settings(self, settings: Mapping[str, Mapping[str, Any]]) -> ResolvedRun:
        """The same run with some keys of the sections `solver`, `compute` and `output` changed; the scheme does not change."""
        config = self.config.replace(**settings)
        return replace(self, config=config, sampler=replace(self.sampler, options=make_options(config, self.model, self.scheme)))

    def finished(self, states: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the samples of solved states [samples, *event]; with observations, after the last step of the posterior.

        With densities there is no such step: they are those of the states at the last noise level.
        """
        if self.given is None or self.config.density.enabled:
            return states
        return self.given.posterior.finished(states, self.scheme.t[-1], condition, self.sampler.options.model_batch)

    def require_points(self, time_ranks: int) -> None:
        """ConfigError unless every block, and every block of the corrector, has a step for each of `time_ranks` ranks."""
        config, steps = self.config, min(len(block) for block in self.scheme.grid.blocks())
        shares = [("grid", steps, "fewer blocks or more steps")]
        if config.corrector.enabled:
            shares.append(("corrector", config.corrector.steps // config.corrector.blocks, "more corrector.steps"))
        for name, steps, advice in shares:
            if time_ranks > steps:
                raise ConfigError(
                    f"{time_ranks} time ranks cannot share the {steps} step(s) of the {name}'s shortest block; "
                    f"give --time-ranks {steps} or less, {advice}"
                )


def resolve(config: RunConfig, model: Model, device: str = "cpu") -> ResolvedRun:
    """Build the run that a configuration describes; ConfigError for settings that do not fit the model.

    A solver that is left open sweeps, until `run.choose` has chosen.
    """
    _require_own_folder(config)
    model = with_compilation(model, autocast=config.compute.autocast, compile_mode=config.compute.compile)
    model = of_domain(model, config.domain)
    reference = make_reference(config, model)
    config = with_defaults(completed(config), model, reference)
    own, given, dated = model, make_posterior(config, model, reference), make_dated(config, model, reference)
    if given is not None:
        if config.density.enabled and given.posterior.update is None:
            raise ConfigError("density.enabled: observations by a function have a score without derivative; leave one out")
        config = config.replace(observations={"sha256": given.table.sha256})
        model, reference = given.posterior.seen_by(model), given.posterior.reference
    if dated is not None:
        config = config.replace(observations={"sha256": dated.table.sha256})
    condition = encoded_conditions(config, own, device)
    grid = make_grid(config, model)
    sampler = sampler_on(config, model, grid, reference, device, guide=given is None)
    return ResolvedRun(config, own, reference, grid, sampler, given, dated, condition)


def _require_own_folder(config: RunConfig) -> None:
    """Raise ConfigError for a run in the folder of a model, which training it again would delete."""
    if any((Path(config.out) / name).is_file() for name in (CARD, ADAPTER)):
        raise ConfigError(f"out: {config.out} is the folder of a model; give the run a folder of its own")


def sampler_on(
    config: RunConfig, model: Model, grid: TimeGrid, reference: GaussianReference, device: str, *, guide: bool
) -> Sampler:
    """Build the sampler of a complete configuration on a grid; with `guide` under its guidance."""
    scheme = make_scheme(config, model, grid, reference)
    return Sampler(
        scheme,
        make_score(config, model, grid, guide=guide),
        model.event_shape,
        config.seed,
        make_options(config, model, scheme),
        reference=reference,
        prior=model.reference,
        project=projection_of(model, device),
        stride=config.condition.count,
        dtype=getattr(torch, config.compute.precision),
        device=device,
    )


def make_sampler(config: RunConfig, model: Model, device: str = "cpu") -> Sampler:
    """Build the sampler that a configuration describes; ConfigError for settings that do not fit the model."""
    return resolve(config, model, device).sampler


def count_time_ranks(config: RunConfig, size: int) -> int:
    """The number of ranks, of `size`, that share a sample's time axis: as given, else those left when every sample has a rank."""
    if config.compute.time_ranks != "auto":
        return int(config.compute.time_ranks)
    if config.solver.kind == "sequential":
        return 1
    groups = max(n for n in range(1, size + 1) if size % n == 0 and n <= len(config.ids))
    return size // groups


def with_defaults(config: RunConfig, model: Model, reference: GaussianReference) -> RunConfig:
    """Fill in the settings that depend on the model: eta, the integrator, the number of steps. Settings of sweeps select sweeps.

    The steps of the model's card suit the default integrator; another one takes GIVEN_STEPS.

    A network of position and momentum gets an integrator of phase space. Collocation of a probed model gets its number of points
    and its first time from the variation of its flow along time; for another model it gets 8 points for every digit of `tol`.
    """
    suits = {key: value for key, value in (model.card.get("sampling") or {}).items() if value is not None}
    left_open = config.chain.integrator == "auto"
    two_steps = left_open and config.method.name != "gaussian"
    open_chain = left_open and config.chain.eta == "auto" and config.chain.generator is None
    if config.density.enabled or (config.rollout.leads is not None and open_chain and model.process.fields == 1):
        config = config.replace(chain={"eta": 0.0, "integrator": "collocation"})
    if config.steering is not None:
        config = config.replace(
            chain={"eta": 1.0} if config.chain.eta == "auto" else {},
            grid={"blocks": STEERED_BLOCKS} if config.grid.blocks == "auto" else {},
            output={"batch": config.steering.group},
        )
    if config.solver.kind == "auto" and not config.solver.free:
        config = config.replace(solver={"kind": "picard"})
    if config.chain.eta == "auto":
        usual = suits.get("eta", 1.0) if config.observations is None else 0.0
        random = config.chain.integrator == "auto" or config.chain.method.eta
        config = config.replace(chain={"eta": usual if random else 0.0})
    if config.chain.integrator == "auto" and config.chain.generator is None:
        config = config.replace(chain={"integrator": _default_integrator(config, model, suits)})
    spec = config.grid
    if spec.steps != "auto" or spec.calls is not None or spec.kind == "piadm":
        return config
    if config.chain.method.name != "collocation":
        return config.replace(grid={"steps": suits.get("steps", STEPS) if two_steps else GIVEN_STEPS})
    horizon, delta = time_range(config, model)
    if spec.teleport is not None:
        return config.replace(grid={"steps": _points(config.solver.tol)})
    begin, points = collocation_span(reference, config.solver.tol, horizon, delta)
    return config.replace(grid={"steps": points, "teleport": None if begin == horizon else math.sqrt(math.expm1(begin))})


def _default_integrator(config: RunConfig, model: Model, suits: Mapping[str, Any]) -> str:
    """Choose the integrator: of phase space for a network of two fields, and for the flow the one on the card."""
    if model.process.fields > 1:
        return "sscs" if config.chain.eta else "gddim-ab2"
    return str(config.method.name if config.chain.eta else suits.get("flow", config.method.name))


def collocation_span(reference: GaussianReference, tol: float, horizon: float, delta: float) -> tuple[float, int]:
    """Return the forward time, at most `horizon`, at which collocation begins, and the number of points for a tolerance."""
    if reference.smoothness is None:
        return horizon, _points(tol)
    begin, points = choose(reference.smoothness, tol, -math.log(math.expm1(horizon)), -math.log(math.expm1(delta)))
    return math.log1p(math.exp(-begin)), points


def _points(tol: float) -> int:
    """Eight for every digit of a tolerance."""
    return max(8, round(8 * -math.log10(tol)))
