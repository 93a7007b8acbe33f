"""Settings that are valid alone but not together, for each part of a run's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..solvers.baselines.settings import POSITION_ONLY
from .limits import LARGEST_ID, MOST_SAMPLES

if TYPE_CHECKING:
    from .run import RunConfig


def mistakes_together(config: RunConfig) -> list[str]:
    """List the combinations in a configuration that are not possible, each with what to do."""
    return [*_of_chain(config), *_of_solver(config), *_of_given(config), *_of_numbers(config)]


def _of_chain(config: RunConfig) -> list[str]:
    """Integrator, grid, generator and corrector."""
    mistakes, method, calls = [], config.method, config.grid.calls
    per_step, name, generated = method.calls, method.name, config.chain.generator is not None
    if name == "collocation" and not generated:
        mistakes += _not_collocated(config)
    if config.corrector.enabled and method.channels > 1:
        mistakes.append(f"corrector.enabled: the corrector follows one-step chains of the position alone, not {name}")
    if generated and (calls or 1) != 1:
        mistakes.append(f"grid.calls = {calls}: a generator makes one call; leave calls out")
    if generated and config.corrector.enabled:
        mistakes.append("corrector.enabled: a generator makes clean samples, so there is nothing to correct; leave it out")
    if calls is not None and calls % per_step:
        least = max(per_step, calls - calls % per_step)
        fits = dict.fromkeys((least, calls - calls % per_step + per_step))
        words = f"{name} makes {per_step} calls a step; use {' or '.join(map(str, fits))}"
        mistakes.append(f"grid.calls = {calls}: {words}")
    if config.corrector.blocks > config.corrector.steps:
        mistakes.append("corrector.blocks: cannot exceed corrector.steps")
    return mistakes


def _not_collocated(config: RunConfig) -> list[str]:
    """Settings that collocation cannot have, because they belong to chains of steps."""
    given = {
        "solver.kind": config.solver.kind not in ("auto", "picard"),
        "solver.linear": config.solver.linear != "auto",
        "solver.start": config.solver.start != "auto",
        "solver.window": config.solver.window is not None,
        "solver.pipelined": config.solver.pipelined,
        "solver.alternate": config.solver.alternate,
        "corrector.enabled": config.corrector.enabled,
        "grid.blocks": config.grid.blocks not in ("auto", 1),
    }
    advice = "collocation solves all its points at once; for a chain of steps give chain.integrator, for example 'gaussian'"
    return [f"{', '.join(key for key, wrong in given.items() if wrong)}: {advice}"] if any(given.values()) else []


def _of_solver(config: RunConfig) -> list[str]:
    """Solver, ranks and corrector."""
    mistakes, solver, corrected = [], config.solver, config.corrector.enabled
    if solver.kind in POSITION_ONLY and (corrected or config.method.channels > 1):
        away = "corrector.enabled" if corrected else f"chain.integrator = {config.method.name!r}"
        words = "this baseline solves chains of the position alone; use picard or sequential"
        mistakes.append(f"solver.kind = {solver.kind!r} with {away}: {words}")
    if solver.kind == "sequential" and config.compute.time_ranks not in ("auto", 1):
        mistakes.append("compute.time_ranks: the sequential solver computes one step after the other, so use 1")
    if corrected and (solver.pipelined or solver.window is not None):
        mistakes.append("corrector.enabled: it follows blocks that end one after the other; use no window and no pipeline")
    return mistakes


def _of_given(config: RunConfig) -> list[str]:
    """Densities, leads, observations, steering, domains and statistics."""
    density, observed, leads = config.density.enabled, config.observations is not None, config.rollout.leads
    mistakes = config.statistics.mistakes(members=config.output.members)
    mistakes += config.density.mistakes(config.chain.integrator, config.chain.eta)
    mistakes += config.rollout.mistakes(
        file=config.condition.file, integrator=config.chain.integrator, eta=config.chain.eta,
        fixed_depth=config.solver.fixed_depth, observed=observed,
    )  # fmt: skip
    if config.steering is not None:
        method = config.method
        mistakes += config.steering.mistakes(
            ids=config.ids, batch=config.output.batch, blocks=config.grid.blocks, alone=not _with_more(config),
            noisy=config.chain.eta != 0 and method.channels == 1 and method.name != "collocation",
        )  # fmt: skip
    if leads is not None and density:
        mistakes.append("rollout.leads: forecasts have no densities; leave density out")
    if config.domain.shape is not None and (density or observed):
        mistakes.append("domain.shape: patches have no densities and take no observations; leave density and observations out")
    if density and config.observations is not None and config.observations.score not in ("auto", "kalman"):
        words = "has no derivative for densities; use observations.score = 'kalman'"
        mistakes.append(f"density.enabled: the score {config.observations.score!r} {words}")
    if config.chain.generator is not None and observed:
        mistakes.append("observations: a generator makes a sample in one call and has no score; use a model's network")
    return mistakes


def _with_more(config: RunConfig) -> bool:
    """Whether the run has conditions or observations, or draws more than samples."""
    given = (config.rollout.leads, config.observations, config.condition.file, config.chain.generator)
    return any(each is not None for each in given) or config.density.enabled or config.corrector.enabled


def _of_numbers(config: RunConfig) -> list[str]:
    """The ids of members, conditions and leads, and the files in which they are stored."""
    mistakes = []
    if config.output.format == "zarr" and config.only is not None:
        mistakes.append("output.format = 'zarr': row r of the store is sample r; draw the samples from 0 on, without only")
    conditions, leads = config.condition.count, config.rollout.leads or 1
    members = config.samples if config.only is None else len(config.only)
    count = members * conditions * leads
    last = (members if config.only is None else max(config.only) + 1) * conditions * leads - 1
    if count > MOST_SAMPLES or last > LARGEST_ID:
        product = f"{members} member(s), {conditions} condition(s) and {leads} lead(s) are {count} samples"
        limit = f"a run has at most {MOST_SAMPLES}, with ids up to {LARGEST_ID}: give fewer, or several runs"
        mistakes.append(f"{product}; {limit}")
    return mistakes
