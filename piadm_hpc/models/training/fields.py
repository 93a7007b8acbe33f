"""Training of a denoiser on few fields: weighted denoising loss, averaged weights, early stopping, checkpoints.

Every random number of a step is a function of (seed, step), so an interrupted run that continues ends with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...data.geometry import Wrap, neighbours_of, places_of
from ...data.gridded import GriddedData, read_fields
from ...data.grids import geographic
from ...host.stop import StopReason, StopRequested
from ...schema.conditions import Condition, rows_of
from ...theory.process import by_name
from ..config import ConformerTrainConfig, NetworkConfig, OptimiserConfig, TrainConfig
from ..denoiser import GaussianDenoiser
from ..networks.cells import CellUNet
from ..networks.fields import make_field_network
from ..networks.unet import GridUNet, count_parameters
from ..phase_denoiser import denoiser_kind
from .checkpoint import TrainingState, load_checkpoint, put, save_checkpoint
from .clock import Clock
from .conditioned import condition_on
from .energy_targets import EnergyTargets
from .evaluation import DenoisingTable, denoising_table, even_levels
from .fitting import fit_reference
from .model_folder import publish
from .names import require_names
from .objective import NoiseLevels, Objective

Report = Callable[[str], None]
Stop = Callable[[], StopReason]


def say(line: str) -> None:
    """Print a line and flush, so that log files show it at once."""
    print(line, flush=True)


def never() -> StopReason:
    """The reason to stop when there is none."""
    return StopReason.NONE


# a resumed run may be longer or more patient than the one it continues
FREE_TO_CHANGE = ("steps", "patience", "max_minutes")


def train(config: TrainConfig, *, root: Path = Path(), report: Report = say, stop: Stop = never, afterwards: int = 0) -> Path:
    """Train a model of gridded fields and write it to the folder `config.output`; data files are found from `root`.

    An interrupted run continues from the checkpoints beside its output. `stop` is called after every step and returns
    whether, and why, to stop. The time limit leaves room for `afterwards` rows of the network after training. Raises
    ValueError for data or settings that cannot be used, StopRequested after a stop.
    """
    require_names(config.data)
    data = read_fields(config.data, root)
    mask = data.normalisation.state_mask()
    given = None if config.condition is None else condition_on(config.condition, config.data, data, root)
    require_suitable(config, data)
    states = data if given is None else given.states
    reference = fit_reference(states.train, states.validation, config.reference, mask=mask, grid=grid_of(data), **angles_of(data))
    counts = f"{len(states.train)} training, {len(states.validation)} validation, {len(states.test)} test states"
    report(f"{counts}; {states.excluded} left out" + ("" if given is None else f"; {given.words}"))
    process = by_name(config.noise.process, **config.process_parameters)
    kind = denoiser_kind(process)
    network = (
        None
        if config.network == "none"
        else make_network(config.network, data, data.wrap, config.seed, kind, None if given is None else given.sizes)
    )
    denoiser = kind(process, reference, network, mask)
    output = Path(config.output)
    state = None
    if network is not None:
        report(f"{count_parameters(network)} weights to train")
        checkpoints = output.with_name(f".{output.name}.training")
        state = fit_network(denoiser, states, config, checkpoints, report, stop, afterwards=afterwards)
    return publish(output, config, states, denoiser, state, given)


def require_suitable(config: TrainConfig, data: GriddedData) -> None:
    """Raise ValueError for a basis that does not suit the data's grid and channels."""
    cells, channels = len(data.coordinates) == 1, len(data.normalisation.mean)
    single = ("spherical", "fourier", "harmonic_eof")
    if config.reference.basis in single and (cells or channels > 1):
        what = "cells" if cells else f"{channels} channels, one for each level and step"
        raise ValueError(f"basis {config.reference.basis!r} takes one field on rows and columns, not {what}; use 'smooth'")


def grid_of(data: GriddedData) -> tuple[np.ndarray, np.ndarray]:
    """Places of the points of the data's grid, and pairs of neighbours among them."""
    grid = data.coordinates, data.auxiliary
    return places_of(*grid, wrap=data.wrap), neighbours_of(*grid, wrap=data.wrap)


def angles_of(data: GriddedData) -> dict[str, list[float]]:
    """Latitudes and longitudes in degrees of the data's grid, where it has any."""
    if not geographic(data.coordinates):
        return {}
    latitudes, longitudes = data.coordinates.values()
    return {"latitudes": latitudes.values.tolist(), "longitudes": longitudes.values.tolist()}


def make_network(
    config: NetworkConfig,
    data: GriddedData,
    wrap: Wrap,
    seed: int,
    kind: type[GaussianDenoiser] = GaussianDenoiser,
    given: tuple[int, int] | None = None,
) -> GridUNet | CellUNet:
    """Make a network for the data's grid and a kind of denoiser, with initial weights drawn from `seed`.

    `given` are the numbers of maps and of numbers of its condition, None without one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = len(data.normalisation.mean)
        sizes = kind.inputs * channels, kind.outputs * channels
        return make_field_network(*sizes, data.coordinates, data.auxiliary, wrap, config, given)


class States(Protocol):
    """States [n, *event] for training and for validation, and their conditions by part, if they have any."""

    @property
    def train(self) -> Tensor: ...

    @property
    def validation(self) -> Tensor: ...

    @property
    def conditions(self) -> Mapping[str, Condition]: ...


AnyConfig = TrainConfig | ConformerTrainConfig


def fit_network(
    denoiser: GaussianDenoiser,
    data: States,
    config: AnyConfig,
    checkpoints: Path,
    report: Report = say,
    stop: Stop = never,
    *,
    afterwards: int = 0,
    targets: EnergyTargets | None = None,
) -> TrainingState:
    """Train the denoiser's network in place and leave the best averaged weights in it, and the gate of these.

    Validation states choose the gate; without any the network counts in full. With `targets` it learns from the energy of the
    training states as well.

    Raises ValueError if the loss is not finite, StopRequested after a stop.
    """
    network, denoiser.gate = denoiser.network, None
    if network is None:
        raise ValueError("fit_network needs a denoiser with a network")
    options = config.optimiser
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.rate, weight_decay=options.weight_decay, betas=(0.9, 0.99), fused=True)
    state = TrainingState.start(network, optimiser)
    identity = _identity(config)
    if load_checkpoint(checkpoints, state, identity):
        report(f"continuing from step {state.step}, best {state.best_score:+.4f} at step {state.best_step}")
    levels, half = NoiseLevels(denoiser, config.noise), options.precision == "bfloat16"
    condition = getattr(config, "condition", None)
    dropout = 0.0 if condition is None else condition.dropout
    objective = Objective(denoiser, levels, half, data.conditions.get("train"), dropout, targets)
    clock = Clock(options, state.minutes, report, afterwards=afterwards)
    with torch.random.fork_rng():
        while state.step < options.steps and not _finished(state, options, clock.spent):
            loss = _step(state, objective, data.train, config, clock.spent)
            state.minutes = clock.tick(state.step, loss)
            last = state.step == options.steps or clock.spent >= 1
            if last or state.step % options.validate_every == 0:
                _validate(state, denoiser, data, config, report)
                save_checkpoint(checkpoints, state, identity)
            if not last and (asked := stop()):
                save_checkpoint(checkpoints, state, identity)
                text = f"stopped at step {state.step}: the same command continues from there"
                raise StopRequested(text, limit=asked == StopReason.LIMIT)
    put(network, state.best)
    network.eval()
    if len(data.validation):
        denoiser.gate = _table(denoiser, data, "validation", config).gate
    return state


def _step(state: TrainingState, objective: Objective, states: Tensor, config: AnyConfig, spent: float) -> float:
    """Take one step of AdamW on one batch and return the loss; `spent` is the share of the time that has passed."""
    options, network = config.optimiser, state.network
    torch.manual_seed(config.seed * 1_000_003 + state.step)  # for dropout
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = options.rate * _schedule(state.step, options, spent)
    network.train()
    loss: Tensor = objective(states, options.batch, generator)
    if not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {loss.item()} at step {state.step}; lower optimiser.rate or look for outliers in the data")
    state.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(network.parameters(), options.clip)
    state.optimiser.step()
    state.step += 1
    _average(state, options.ema)
    return float(loss.detach())


def _average(state: TrainingState, decay: float) -> None:
    """Update the exponential moving average of the weights; its memory is short at first."""
    keep = min(decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for name, parameter in state.network.named_parameters():
            state.average[name].lerp_(parameter, 1 - keep)


def _schedule(step: int, options: OptimiserConfig, spent: float) -> float:
    """The factor of the learning rate: linear warm-up to one, then half a cosine down to one hundredth.

    The cosine ends with the last step or with the time, whichever comes first by now.
    """
    if step < options.warm_up:
        return (step + 1) / options.warm_up
    passed = min(1.0, max((step - options.warm_up) / max(1, options.steps - options.warm_up), spent))
    return 0.01 + 0.99 * (1 + math.cos(math.pi * passed)) / 2


def _validate(state: TrainingState, denoiser: GaussianDenoiser, data: States, config: AnyConfig, report: Report) -> None:
    """Score the averaged weights on validation states, or on training states without any, and keep them if they are the best.

    Scores are those with the gate that validation states choose, which the model will have.
    """
    current = {name: p.detach().clone() for name, p in state.network.named_parameters()}
    put(state.network, state.average)
    state.network.eval()
    # every third field: neighbours in time are alike, and validation should not cost more than training
    if len(data.validation):
        table = _table(denoiser, data, "validation", config, every=3).with_gate()
    else:
        table = _table(denoiser, data, "train", config, every=3)
    put(state.network, current)
    if table.score < state.best_score:
        state.best_score, state.best_step = table.score, state.step
        state.best = {name: value.clone() for name, value in state.average.items()}
    state.history.append({"step": state.step, "score": table.score, "ratios": table.ratios})
    report(f"step {state.step}: validation {table.score:+.4f} (best {state.best_score:+.4f}), error over Gaussian's {table}")


def _table(denoiser: GaussianDenoiser, data: States, part: str, config: AnyConfig, every: int = 1) -> DenoisingTable:
    """The denoising errors of every so many states of a part, given their conditions, at the levels of the card."""
    some, levels = slice(None, None, every), even_levels(config.noise.lowest, config.noise.highest)
    given = None if part not in data.conditions else rows_of(data.conditions[part], some)
    return denoising_table(denoiser, getattr(data, part)[some], levels, seed=config.seed, condition=given)


def _finished(state: TrainingState, options: OptimiserConfig, spent: float) -> bool:
    stale = state.step - state.best_step > options.patience * options.validate_every
    return stale or spent >= 1


def _identity(config: AnyConfig) -> dict[str, Any]:
    """The part of the configuration that must be equal for a checkpoint to be continued."""
    record: dict[str, Any] = config.model_dump(mode="json", exclude={"output", "title", "horizon", "delta", "stored"})
    for key in FREE_TO_CHANGE:
        record["optimiser"].pop(key)
    return record
