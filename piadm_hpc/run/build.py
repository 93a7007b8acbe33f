"""The parts of a run, each built from a complete configuration and a loaded model: grid, scheme, options, projection."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, cast, get_args

import torch
from torch import Tensor

from .. import integrators
from ..config import plugins
from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..gaussian.reference import GaussianReference
from ..integrators.conjugate import clock_of
from ..integrators.corrector import critical_corrector
from ..models.card import load_model
from ..models.guidance import guided
from ..models.volume import num_directions
from ..solvers.collocation import Collocation
from ..solvers.evaluate import Score
from ..solvers.moments import deviation_growth
from ..solvers.options import Corrector, Options, Start
from ..solvers.resolution import stretched
from ..solvers.scheme import Scheme
from ..solvers.solve import Projection
from ..solvers.steady import SteadyScore
from ..theory import grid as grids
from ..theory.chain import Chain
from ..theory.directions import orthogonal
from ..theory.grid import TimeGrid
from ..theory.phase import PhaseSpace
from ..theory.process import PSLD, Process, forward_time
from .conditions import given_conditions

if TYPE_CHECKING:
    from ..models.card import Model
    from ..models.observations.dated import Dated
    from ..models.observations.reading import Given

# a coarse but stable grid leaves samples well below this
MAX_GROWTH = 10.0
ROWS = 16  # of a call, where no call was timed


def make_grid(config: RunConfig, model: Model) -> TimeGrid:
    """The points and blocks of a run, in the model's own time. Raises ConfigError for a grid that does not fit the model."""
    spec, (horizon, delta) = config.grid, time_range(config, model)
    if spec.kind == "piadm":
        grid = grids.piadm(model.process, horizon=horizon, delta=delta, step=spec.step, block=spec.block)
    else:
        grid = _counted_grid(config, model, horizon, delta)
    grid = _teleported(config, model, grid)
    if spec.blocks == "auto":
        return grid if _published(config) else grid.with_blocks(1)
    if spec.blocks > grid.num_steps:
        raise ConfigError(f"grid.blocks = {spec.blocks} exceeds the {grid.num_steps} steps of the grid")
    return grid.with_blocks(int(spec.blocks)) if spec.cut == "even" else with_equal_blocks(grid, model.process, int(spec.blocks))


def with_equal_blocks(grid: TimeGrid, process: Process, blocks: int) -> TimeGrid:
    """The same points in blocks of nearly equal Lambda, the integral over a block of the frozen part's Lipschitz constant."""
    theta = forward_time(process, grid.t)
    return grid.with_edges_at(theta[0] - theta - torch.log(theta / theta[0]), blocks)


def time_range(config: RunConfig, model: Model) -> tuple[float, float]:
    """The forward times at which a run starts and stops. Raises ConfigError for an empty range."""
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
    """The grid without the points of high noise, which the closed-form flow of the Gaussian replaces."""
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
    """The forward time of a time on the model's own clock."""
    return float(forward_time(model.process, torch.tensor(t, dtype=torch.float64)))


def _published(config: RunConfig) -> bool:
    """Whether sweeps are those of the PIADM paper, whose number is bounded only within its blocks."""
    return config.solver.linear in ("process", "identity")


def make_reference(config: RunConfig, model: Model) -> GaussianReference:
    """The Gaussian for chain and sweeps: the model's own, or one from a file."""
    from ..models.packing import load_refitted

    if config.solver.reference is None:
        return model.reference
    return load_refitted(config.solver.reference, model.reference)


def make_posterior(config: RunConfig, model: Model, reference: GaussianReference) -> Given | None:
    """The posterior given the configured observations, with the run's Gaussian; None without observations. Raises ConfigError."""
    from ..models.observations.reading import read_given

    if config.observations is None or config.rollout.leads is not None:
        return None
    return read_given(config.observations, with_guidance(config, replace(model, reference=reference)), config.model)


def make_dated(config: RunConfig, model: Model, reference: GaussianReference) -> Dated | None:
    """The observations of the leads of a run's forecasts; None for a run without. Raises ConfigError."""
    from ..models.observations.dated import read_dated

    if config.observations is None or config.rollout.leads is None or model.conditioning is None:
        return None
    monthly = any(each.kind == "month" for each in model.conditioning.inputs)
    labels = [str(label) for label in given_conditions(config).labels.values]
    guided = with_guidance(config, replace(model, reference=reference))
    return read_dated(
        config.observations, guided, config.model, labels, config.rollout.leads, config.rollout.months if monthly else None
    )


def with_guidance(config: RunConfig, model: Model) -> Model:
    """The model under classifier-free guidance, which has no denoiser whose derivatives could be taken."""
    if model.conditioning is None or config.condition.guidance == 1:
        return model
    return replace(model, score=guided(model.score, model.conditioning.null, config.condition.guidance), denoiser=None)


def make_scheme(config: RunConfig, model: Model, grid: TimeGrid, reference: GaussianReference) -> Scheme:
    """The chain of the configured integrator, the collocation with as many points, or one step for a generator of one call."""
    if config.chain.generator is not None:
        return integrators.one_step(model.process, float(grid.t[0]))
    if config.chain.method.name == "collocation":
        return make_collocation(config, model, grid, reference)
    return make_chain(config, model, grid, reference)


def make_collocation(config: RunConfig, model: Model, grid: TimeGrid, reference: GaussianReference) -> Collocation:
    """The collocation of the probability flow between the ends of a grid, with as many points as the grid has steps.

    Where the model was probed, they are placed for how its flows vary.
    """
    integrators.require_space(config.chain.method, model.process)
    horizon, delta = forward_time(model.process, grid.t[[0, -1]]).tolist()
    return stretched(Collocation(model.process, reference, horizon, delta, grid.num_steps), reference.smoothness)


def make_chain(config: RunConfig, model: Model, grid: TimeGrid, reference: GaussianReference) -> Chain:
    """The chain of the configured integrator on a grid. Raises ConfigError for a chain that would blow up there."""
    spec = config.chain
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


def make_score(config: RunConfig, model: Model, grid: TimeGrid, *, guide: bool = True) -> Score:
    """The score that the scheme calls: the network's, the kernel of an integrator that has one, or a generator of one call.

    A conditional score is put under the configured guidance, except that of a posterior, which has it already.
    """
    if config.chain.generator is not None:
        return cast(Score, plugins.call("chain.generator", config.chain.generator, model))
    # networks of this package are deterministic, and compiled ones would be compiled for one more number of rows
    score = SteadyScore(model.score) if model.denoiser is None else model.score
    if model.conditioning is not None and guide:
        score = guided(score, model.conditioning.null, config.condition.guidance)
    return integrators.score_of(config.chain.method.name, score, model.process, grid, model.reference)


def make_options(config: RunConfig, model: Model, scheme: Scheme) -> Options:
    """The options of the solver, from the sections `solver`, `compute` and `corrector`."""
    given, own_start = config.solver, config.solver.start not in get_args(Start)
    names = {field.name for field in fields(Options)} & set(type(given).model_fields) - {"start", "tol", "student"}
    batch = config.compute.model_batch
    return Options(
        solver="picard" if given.kind == "auto" else given.kind,
        start="auto" if own_start else cast(Start, given.start),
        tol=None if given.fixed_depth else given.tol,
        operator=plugins.call("solver.start", given.start, model, scheme) if own_start else None,
        student=None if given.student is None else student_of(config, model),
        corrector=_corrector(config, model),
        in_flight=config.compute.in_flight,
        check_score=False,  # a run checks the score once, not in every batch
        model_batch=ROWS if batch == "auto" else int(batch),
        traces=config.density.chosen(num_directions(model)),
        **{name: getattr(given, name) for name in names},
    )


def student_of(config: RunConfig, model: Model) -> Score:
    """Load the score of a run's student, the cheaper network whose path is the start of the sweeps.

    Raises ConfigError for a student of other states, of another noise or under other conditions.
    """
    folder, device = str(config.solver.student), model.reference.mean.device
    try:
        student = load_model(folder, device, allow_code=config.allow_code)
    except ValueError as error:
        raise ConfigError(f"solver.student: {error}") from None
    ends = torch.tensor([model.horizon, (model.horizon * model.delta) ** 0.5, model.delta], dtype=torch.float64)
    inputs = [None if one.conditioning is None else one.conditioning.inputs for one in (student, model)]
    differ = {
        "states": student.event_shape != model.event_shape,
        "times": any(
            not torch.allclose(getattr(student.process, level)(ends), getattr(model.process, level)(ends), rtol=1e-6)
            for level in ("alpha", "sigma")
        ),
        "conditions": inputs[0] != inputs[1],
    }
    if any(differ.values()):
        found = ", ".join(name for name, other in differ.items() if other)
        raise ConfigError(f"solver.student: {student.name} has other {found} than {model.name}; a student has the same")
    return student.score


def projection_of(model: Model, device: str) -> Projection | None:
    """The projection to the subspace of all states of a model, or None if that is the whole space.

    States are zero at points without data, and molecules do not move or rotate as a whole.
    """
    masked = mask_projection(model.mask, model.event_shape, device)
    if model.constraint is None:
        return masked
    directions = model.constraint.to(device)
    if masked is None:
        return lambda states: orthogonal(states, directions)
    return lambda states: orthogonal(masked(states), directions)


def mask_projection(mask: Tensor | None, event_shape: tuple[int, ...], device: str) -> Projection | None:
    """Multiplication by a mask [d] that is zero on land or padding and one elsewhere; None keeps every point."""
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
