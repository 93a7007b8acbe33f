"""From a validated run and a loaded model to a sampler: grid, chain, corrector, projection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import Tensor

from .. import integrators
from ..config import plugins
from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..gaussian.reference import GaussianReference
from ..integrators.conjugate import clock_of
from ..solvers.baselines.dispatch import BaselineSettings
from ..solvers.collocation import Collocation, Scheme, choose
from ..solvers.evaluate import Score
from ..solvers.moments import deviation_growth
from ..solvers.sampler import Sampler, critical_corrector
from ..solvers.solve import Corrector, Projection, Start
from ..theory import grid as grids
from ..theory.bases import orthogonal
from ..theory.grid import TimeGrid
from ..theory.phase import PhaseSpace
from ..theory.process import PSLD, forward_time

if TYPE_CHECKING:
    from ..models.card import Model


# samples of a chain that a coarse grid merely blurs stay well below this
MAX_GROWTH = 10.0

STEPS = 48  # of a chain, where the model's card says nothing


def make_grid(config: RunConfig, model: Model) -> TimeGrid:
    """The run's grid points and blocks, in the model's own time."""
    config = resolve(config, model)
    spec, (horizon, delta) = config.grid, _range(config, model)
    if spec.kind == "piadm":
        grid = grids.piadm(model.process, horizon=horizon, delta=delta, step=spec.step, block=spec.block)
    else:
        grid = _counted_grid(config, model, horizon, delta)
    grid = _teleported(config, model, grid)
    if spec.blocks == "auto":
        return grid if _published(config) else grid.with_blocks(1)
    if spec.blocks > grid.num_steps:
        raise ConfigError(f"grid.blocks = {spec.blocks} exceeds the {grid.num_steps} steps of the grid")
    if spec.cut == "even":
        return grid.with_blocks(int(spec.blocks))
    # the frozen part's Lipschitz constant, integrated: time and the logarithm of what remains of it
    theta = forward_time(model.process, grid.t)
    return grid.with_edges_at(theta[0] - theta - torch.log(theta / theta[0]), int(spec.blocks))


def resolve(config: RunConfig, model: Model) -> RunConfig:
    """The configuration with values for what it leaves to the model: eta, steps, for collocation the points and their start.

    A network of position and momentum takes an integrator of phase space.

    Where the model was probed the points follow from how its flow varies; otherwise there are 8 for every digit of `tol`.
    """
    suits = {key: value for key, value in (model.card.get("sampling") or {}).items() if value is not None}
    if config.chain.eta == "auto":
        config = config.replace(chain={"eta": suits.get("eta", 1.0) if config.chain.method.eta else 0.0})
    if config.chain.integrator == "auto":
        config = config.replace(chain={"integrator": _default_integrator(config, model, suits)})
    spec = config.grid
    if spec.steps != "auto" or spec.calls is not None or spec.kind == "piadm":
        return config
    if config.chain.method.name != "collocation":
        return config.replace(grid={"steps": suits.get("steps", STEPS)})
    (horizon, delta), reference = _range(config, model), make_reference(config, model)
    if spec.teleport is not None:
        return config.replace(grid={"steps": _points(config.solver.tol)})
    begin, points = collocation_span(reference, config.solver.tol, horizon, delta)
    return config.replace(grid={"steps": points, "teleport": None if begin == horizon else math.sqrt(math.expm1(begin))})


def _default_integrator(config: RunConfig, model: Model, suits: Mapping[str, Any]) -> str:
    """What stands for "auto": of phase space where the network is one of it; for the flow what the card says."""
    if isinstance(model.process, PSLD):
        return "sscs" if config.chain.eta else "gddim-ab2"
    return "auto" if config.chain.eta else suits.get("flow", "auto")


def collocation_span(reference: GaussianReference, tol: float, horizon: float, delta: float) -> tuple[float, int]:
    """Forward time, at most `horizon`, at which collocation begins, and how many points a tolerance needs from there."""
    smoothness = None if reference.response is None else reference.response.smoothness
    if smoothness is None:
        return horizon, _points(tol)
    begin, points = choose(smoothness, tol, -math.log(math.expm1(horizon)), -math.log(math.expm1(delta)))
    return math.log1p(math.exp(-begin)), points


def _points(tol: float) -> int:
    """Eight for every digit of a tolerance."""
    return max(8, round(8 * -math.log10(tol)))


def _range(config: RunConfig, model: Model) -> tuple[float, float]:
    """Forward times at which a run starts and stops."""
    spec = config.grid
    horizon = _theta(model, model.horizon) if spec.horizon == "auto" else float(spec.horizon)
    delta = _theta(model, model.delta) if spec.delta == "auto" else float(spec.delta)
    if not 0 < delta < horizon:
        raise ConfigError(f"grid.delta = {delta:g} must lie between 0 and grid.horizon = {horizon:g}")
    if spec.teleport is not None and config.chain.method.name == "collocation":
        horizon = min(horizon, math.log1p(spec.teleport**2))
        if horizon <= delta:
            raise ConfigError(f"grid.teleport = {spec.teleport:g} leaves nothing of the flow; give a larger noise over signal")
    return horizon, delta


def _counted_grid(config: RunConfig, model: Model, horizon: float, delta: float) -> TimeGrid:
    """A grid with a given number of steps."""
    spec, method, calls = config.grid, config.chain.method, config.grid.calls
    steps = int(spec.steps) if calls is None else calls // method.calls
    if spec.kind == "power":
        own = (
            grids.phase_clock(_phase(config, model)) if method.space == "phase" else grids.process_clock(clock_of(model.process))
        )
        return grids.power(model.process, steps, horizon=horizon, delta=delta, exponent=spec.exponent, clock=own)
    make = grids.log_snr if spec.kind == "log-snr" else grids.karras
    return make(model.process, steps, horizon=horizon, delta=delta)


def _teleported(config: RunConfig, model: Model, grid: TimeGrid) -> TimeGrid:
    """The grid without the points that the Gaussian's closed form stands for; the prior is its marginal at the first left."""
    level = config.grid.teleport
    if level is None or config.chain.method.name == "collocation":
        return grid
    left = grid.t[model.process.sigma(grid.t) <= level * model.process.alpha(grid.t)]
    if len(left) < 2:
        raise ConfigError(f"grid.teleport = {level:g} leaves out every step of the grid; give a larger noise over signal")
    return grids.from_times(left)


def _phase(config: RunConfig, model: Model) -> PhaseSpace:
    """The phase space of the run: as configured, or the one that the model was trained in."""
    asked = PhaseSpace(**config.phase.model_dump())
    if not isinstance(model.process, PSLD) or asked == model.process.space:
        return asked
    if asked != PhaseSpace():
        raise ConfigError(f"phase: {model.name} was trained in a phase space of its own, {model.process.space}; leave phase out")
    return model.process.space


def _theta(model: Model, t: float) -> float:
    """Forward time of a time on the model's own clock."""
    return float(forward_time(model.process, torch.tensor(t, dtype=torch.float64)))


def _published(config: RunConfig) -> bool:
    """Whether sweeps are the paper's own, whose number only blocks keep bounded."""
    return config.solver.linear in ("process", "identity")


def make_reference(config: RunConfig, model: Model) -> GaussianReference:
    """What the run's chain and sweeps are built on: the model's own reference, or one from a file."""
    from ..models.packing import load_refitted

    if config.solver.reference is None:
        return model.reference
    return load_refitted(config.solver.reference, model.reference)


def make_chain(config: RunConfig, model: Model, grid: TimeGrid, reference: GaussianReference) -> Scheme:
    """The run's chain on a grid, or the collocation with as many points."""
    spec = resolve(config, model).chain
    if spec.method.name == "collocation":
        integrators.require_space(spec.method, model.process)
        horizon, delta = forward_time(model.process, grid.t[[0, -1]]).tolist()
        return Collocation(model.process, reference, horizon, delta, grid.num_steps)
    options = integrators.Options(float(spec.eta), spec.large_variance, spec.lam, spec.lam_s, spec.score_time)
    phase = _phase(config, model)
    chain = integrators.build(spec.method.name, model.process, grid, reference=reference, phase=phase, options=options)
    growth = float(deviation_growth(chain, reference).max())
    if not growth <= MAX_GROWTH:
        nearer = f", or lam nearer to zero than {spec.lam}" if "lam" in spec.method.reads and spec.lam else ""
        raise ConfigError(
            f"chain.integrator = {spec.method.name!r} is unstable on this grid: on the model's own Gaussian its samples would "
            f"have {growth:.3g} times the right deviation; take more steps{nearer}"
        )
    return chain


def make_sampler(config: RunConfig, model: Model, device: str = "cpu") -> Sampler:
    """The sampler a configuration describes; ConfigError for a grid that does not fit the model."""
    from ..models.compiled import with_compilation

    model = with_compilation(model, autocast=config.compute.autocast, compile_mode=config.compute.compile)
    config = resolve(config, model)
    reference = make_reference(config, model)
    grid = make_grid(config, model)
    chain, score = _chain_and_score(config, model, grid, reference)
    solver = config.solver
    own_start = solver.start not in get_args(Start)
    return Sampler(
        chain,
        score,
        model.event_shape,
        config.seed,
        reference=reference,
        prior=model.reference,
        project=projection_of(model, device),
        corrector=_corrector(config, model),
        solver=solver.kind,
        baseline=BaselineSettings(solver.memory, solver.parts, solver.coarse),
        linear=solver.linear,
        start="auto" if own_start else cast(Start, solver.start),
        tol=None if solver.fixed_depth else solver.tol,
        sweeps=solver.sweeps,
        window=solver.window,
        pipelined=solver.pipelined,
        in_flight=config.compute.in_flight,
        operator=plugins.call("solver.start", solver.start, model, chain) if own_start else None,
        model_batch=config.compute.model_batch,
        dtype=getattr(torch, config.compute.precision),
        device=device,
    )


def _chain_and_score(config: RunConfig, model: Model, grid: TimeGrid, reference: GaussianReference) -> tuple[Scheme, Score]:
    """The integrator's chain with the network's score, or a generator of one call as a chain of one step."""
    name = config.chain.generator
    if name is not None:
        return integrators.one_step(model.process, float(grid.t[0])), plugins.call("chain.generator", name, model)
    chain = make_chain(config, model, grid, reference)
    return chain, integrators.score_of(config.chain.method.name, model.score, model.process, grid, model.reference)


def require_points(config: RunConfig, sampler: Sampler, time_ranks: int) -> None:
    """ConfigError unless every block, and every block of the corrector, has a step for each of `time_ranks` time ranks."""
    steps = min(len(block) for block in sampler.chain.grid.blocks())
    shares = [("grid", steps, "fewer blocks or more steps")]
    if config.corrector.enabled:
        shares.append(("corrector", config.corrector.steps // config.corrector.blocks, "more corrector.steps"))
    for name, steps, advice in shares:
        if time_ranks > steps:
            raise ConfigError(
                f"{time_ranks} time ranks cannot share the {steps} step(s) of the {name}'s shortest block; "
                f"give --time-ranks {steps} or less, {advice}"
            )


def projection_of(model: Model, device: str) -> Projection | None:
    """To the subspace that all states of a model lie in: no rigid motions for molecules, nothing where there are no data."""
    masked = mask_projection(model.mask, model.event_shape, device)
    if model.constraint is None:
        return masked
    directions = model.constraint.to(device)
    if masked is None:
        return lambda states: orthogonal(states, directions)
    return lambda states: orthogonal(masked(states), directions)


def mask_projection(mask: Tensor | None, event_shape: tuple[int, ...], device: str) -> Projection | None:
    """Multiplication by a mask [d] of zeros (land, padding) and ones; None keeps every point."""
    if mask is None:
        return None
    kept = mask.reshape(event_shape).to(device)
    return lambda states: states * kept.to(states.dtype)


def _corrector(config: RunConfig, model: Model) -> Corrector | None:
    spec = config.corrector
    if not spec.enabled:
        return None
    return critical_corrector(
        model.process,
        model.reference,
        friction=None if spec.friction == "auto" else float(spec.friction),
        length=None if spec.length == "auto" else float(spec.length),
        num_steps=spec.steps,
        num_blocks=spec.blocks,
    )
