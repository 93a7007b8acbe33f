"""From a validated run and a loaded model to a sampler: grid, chain, corrector, projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import grid as grids
from . import integrators
from .chain import Chain
from .config import RunConfig
from .grid import TimeGrid
from .process import forward_time
from .records import ConfigError
from .reference import GaussianReference
from .sampler import Sampler, critical_corrector
from .solving import Corrector, Projection

if TYPE_CHECKING:
    from .models.card import Model


def make_grid(config: RunConfig, model: Model) -> TimeGrid:
    """The run's grid points and blocks, in the model's own time."""
    spec = config.grid
    horizon = _theta(model, model.horizon) if spec.horizon == "auto" else float(spec.horizon)
    delta = _theta(model, model.delta) if spec.delta == "auto" else float(spec.delta)
    if not 0 < delta < horizon:
        raise ConfigError(f"grid.delta = {delta:g} must lie between 0 and grid.horizon = {horizon:g}")
    if spec.kind == "piadm":
        grid = grids.piadm(model.process, horizon=horizon, delta=delta, step=spec.step, block=spec.block)
    else:
        make = grids.log_snr if spec.kind == "log-snr" else grids.karras
        grid = make(model.process, spec.steps, horizon=horizon, delta=delta)
    if spec.blocks == "auto":
        return grid if _published(config) else grid.with_blocks(1)
    if spec.blocks > grid.num_steps:
        raise ConfigError(f"grid.blocks = {spec.blocks} exceeds the {grid.num_steps} steps of the grid")
    if spec.cut == "even":
        return grid.with_blocks(int(spec.blocks))
    # the frozen part's Lipschitz constant, integrated: time and the logarithm of what remains of it
    theta = forward_time(model.process, grid.t)
    return grid.with_edges_at(theta[0] - theta - torch.log(theta / theta[0]), int(spec.blocks))


def _theta(model: Model, t: float) -> float:
    """Forward time of a time on the model's own clock."""
    return float(forward_time(model.process, torch.tensor(t, dtype=torch.float64)))


def _published(config: RunConfig) -> bool:
    """Whether sweeps are the paper's own, whose number only blocks keep bounded."""
    return config.solver.linear in ("process", "identity")


def make_reference(config: RunConfig, model: Model) -> GaussianReference:
    """What the run's chain and sweeps are built on: the model's own reference, or one from a file."""
    from .models.packing import load_refitted

    if config.solver.reference is None:
        return model.reference
    return load_refitted(config.solver.reference, model.reference)


def make_chain(config: RunConfig, model: Model, grid: TimeGrid, reference: GaussianReference) -> Chain:
    """The run's chain on a grid."""
    spec, process = config.chain, model.process
    if spec.integrator == "gaussian":
        return integrators.gaussian_exponential(process, grid, reference, churn=spec.churn)
    if spec.integrator == "ddim":
        return integrators.ddim(process, grid, eta=spec.eta)
    if spec.integrator == "ddpm":
        return integrators.ddpm(process, grid, large_variance=spec.large_variance)
    if spec.integrator == "dpmpp-2m":
        return integrators.dpmpp_2m(process, grid)
    frozen = integrators.piadm if spec.integrator == "piadm" else integrators.euler_maruyama
    return frozen(process, grid, churn=spec.churn)


def make_sampler(config: RunConfig, model: Model, device: str = "cpu") -> Sampler:
    """The sampler a configuration describes; ConfigError for a grid that does not fit the model."""
    reference = make_reference(config, model)
    chain = make_chain(config, model, make_grid(config, model), reference)
    solver = config.solver
    return Sampler(
        chain,
        model.score,
        model.event_shape,
        config.seed,
        reference=reference,
        law=model.reference,
        project=mask_projection(model.mask, model.event_shape, device),
        corrector=_corrector(config, model),
        solver=solver.kind,
        linear=solver.linear,
        start=solver.start,
        tol=None if solver.fixed_depth else solver.tol,
        sweeps=solver.sweeps,
        window=solver.window,
        pipelined=solver.pipelined,
        in_flight=config.compute.in_flight,
        model_batch=config.compute.model_batch,
        dtype=getattr(torch, config.compute.precision),
        device=device,
    )


def require_points(config: RunConfig, sampler: Sampler, on_time: int) -> None:
    """ConfigError unless every block, and every block of the corrector, has a step for each of `on_time` time ranks."""
    steps = min(len(block) for block in sampler.chain.grid.blocks())
    shares = [("grid", steps, "fewer blocks or more steps")]
    if config.corrector.enabled:
        shares.append(("corrector", config.corrector.steps // config.corrector.blocks, "more corrector.steps"))
    for name, steps, advice in shares:
        if on_time > steps:
            raise ConfigError(
                f"{on_time} time ranks cannot share the {steps} step(s) of the {name}'s shortest block; "
                f"give --time-ranks {steps} or less, {advice}"
            )


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
