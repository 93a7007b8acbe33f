"""The observations that a configuration names, read and prepared for a loaded model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...config import plugins
from ...config.observations import ObservationsConfig
from ...config.validation import ConfigError
from ...data.normalise import Normalisation
from ...data.observations import ObservationTable, read_observations
from ...schema.layout import STEP
from ..climatology import climatology_of
from ..model import Model
from ..registry import find_model
from .decoded import straight_lines
from .encode import encode
from .function import FunctionObservations
from .geometry import geometry_of, of_positions
from .pointwise import entry_values
from .posterior import AnyObservations, Posterior, of_model

Operator = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Given:
    """Observations as they were read, and the resulting posterior."""

    table: ObservationTable
    posterior: Posterior

    def bytes_in_memory(self, levels: int) -> int:
        """Bytes of the factors of that many noise levels and of the last step, without the one that any call makes."""
        update = self.posterior.update
        return 0 if update is None else update.factor_bytes(levels + 1) - update.factor_bytes(1)

    def cost(self, levels: int) -> str:
        """Describe the number of observations, the solution of their systems, and its memory."""
        update, count = self.posterior.update, f"{len(self.posterior.observations)} of {self.table.sha256[:12]}"
        if update is None:
            return f"{count}, guidance by derivatives of the network"
        if not update.dense:
            return f"{count}, conjugate gradients, preconditioned in {update.factor_bytes(levels + 1) / 1e6:.1f} MB"
        return f"{count}, factors of {levels + 1} noise levels, {update.factor_bytes(levels + 1) / 1e6:.1f} MB"


def read_given(config: ObservationsConfig, model: Model, folder: str) -> Given:
    """Read observations for the `model` in `folder` and build the posterior.

    Raises ConfigError with all mistakes of the observations, and for observations that are not those of `config.sha256`.
    """
    with as_config_error():
        observations, table = read_for(config, model, folder)
        given = of_model(model, observations, kind=config.score, gamma=config.gamma)
    require_same(config, table)
    return Given(table, given)


@contextmanager
def as_config_error() -> Iterator[None]:
    """Raise ConfigError for a ValueError about observations."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"observations: {error}") from None


def require_same(config: ObservationsConfig, table: ObservationTable) -> None:
    """Raise ConfigError for observations other than those for which the configuration was written."""
    if config.sha256 not in (None, table.sha256):
        raise ConfigError(
            f"observations: {config.file} holds other numbers than those that observations.sha256 names; leave the digest out "
            "for a new run"
        )


def read_for(
    config: ObservationsConfig, model: Model, folder: str, *, dated: bool = False
) -> tuple[AnyObservations, ObservationTable]:
    """Return observations of a model's states, and the rows of the table to which they belong. Raises ValueError.

    With `dated`, rows of other times are other observations.
    """
    names = [variable.name for variable in model.layout.variables]
    placed = config.operator is None and model.layout.topology is None
    along = {dim: model.layout.coordinates[dim] for dim in model.layout.leading} if placed else {}
    if config.steps is not None and STEP not in along:
        raise ValueError("observations.steps: only for models of sequences, and not with an operator; leave it out")
    table = read_observations(
        config.file, names, select=config.select, std=config.std, placed=placed, along=along, steps=config.steps
    )
    if config.operator is not None:
        operator = plugins.call("observations.operator", config.operator, model)
        return _of_function(table, operator, model), table
    if model.layout.topology is not None:
        return _of_molecule(table, model), table
    removed = climatology(config, model, folder) if config.absolute else None
    return encode(table, model, nearest=config.nearest, cells=config.cells, removed=removed, dated=dated)


def _of_function(table: ObservationTable, operator: Operator, model: Model) -> FunctionObservations:
    """Observations by a function of fields [n, ...] in physical units by variable."""
    decode = differentiable_decoding(model)
    shape = model.event_shape

    def function(flat: Tensor) -> Tensor:
        return operator(decode(flat.reshape(-1, *shape)))

    return FunctionObservations(
        torch.from_numpy(table["value"].copy()),
        function,
        torch.from_numpy(table["std"].copy()),
        torch.from_numpy(table["group"].copy()),
        torch.from_numpy(table["correlation"].copy()),
    )


def _of_molecule(table: ObservationTable, model: Model) -> FunctionObservations:
    """Observations of the distances, angles and positions that a table names by their atoms; ValueError for averages."""
    assert model.layout.topology is not None
    if (averaged := table.columns.get("average", np.full(len(table), "")) != "").any():
        raise ValueError(
            f"averages over an ensemble are no observations of one conformer: {table.of_mistake(averaged)}; draw conformers "
            "without them and give the table to `piadm weigh --averages`"
        )
    geometry, values, std = geometry_of(table, len(model.layout.topology))
    return FunctionObservations(
        torch.from_numpy(values),
        of_positions(geometry, differentiable_decoding(model), model.event_shape),
        torch.from_numpy(std),
        torch.from_numpy(table["group"].copy()),
        torch.from_numpy(table["correlation"].copy()),
    )


def differentiable_decoding(model: Model) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return the model's decoding as a function of tensors, zero where there are no data.

    Variables that the model transforms are values, through the inverse of their transform. Raises ValueError for a model whose
    states have entries that belong to no variable.
    """
    shapes = {name: values[0].shape for name, values in model.normalisation.decode(torch.zeros(1, *model.event_shape)).items()}
    sizes, grid = [math.prod(shape) for shape in shapes.values()], model.event_shape[1:]
    apart = len(shapes) > 1 and any(shape[len(shape) - len(grid) :] != grid for shape in shapes.values())
    if sum(sizes) != math.prod(model.event_shape) or apart:
        raise ValueError("functions of fields need a model whose fields fill its states")
    transforms = model.normalisation.transforms if isinstance(model.normalisation, Normalisation) else {}
    labels = model.normalisation.labels if isinstance(model.normalisation, Normalisation) and transforms else ("all",)
    slope, offset, _ = (part.reshape(len(labels), -1) for part in straight_lines(model))
    decode = entry_values(labels, slope, offset, transforms)

    def fields_of(x: Tensor) -> dict[str, Tensor]:
        parts = torch.split(decode(x.flatten(1)), sizes, dim=1)
        return {name: part.reshape(len(x), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    return fields_of


def climatology(config: ObservationsConfig, model: Model, folder: str) -> np.ndarray:
    """Return the climatology [channels, points] that a model of anomalies was trained without. Raises ValueError.

    That of a step of a sequence is of the step's own month, counted from `observations.month`, the first step's.
    """
    found = climatology_of(find_model(folder), model.sha256)
    if found is None:
        raise ValueError("observations.absolute: the model is not one of anomalies; leave it out")
    step = model.layout.coordinates.get(STEP)
    months = np.zeros(1 if step is None else len(step.values), dtype=np.int64)
    if found.monthly:
        first = None if step is None else step.attrs.get("first_month")
        if config.month is None and first is None:
            raise ValueError("observations.absolute: the model's climatology is monthly; give observations.month")
        if None not in (config.month, first) and config.month != first:
            raise ValueError(f"observations.month: all sequences of the model begin in month {first}; leave it out")
        if step is not None and "months_per_step" not in step.attrs:
            raise ValueError("observations.absolute: the steps are no whole months apart; give values as anomalies")
        apart = 1 if step is None else int(step.attrs["months_per_step"])
        months = ((config.month or int(first or 1)) - 1 + np.arange(len(months)) * apart) % 12
    channels = []
    for variable in model.layout.variables:
        rows = months if STEP in variable.dims else months[:1]
        channels.append(found.fields[variable.name][rows].reshape(math.prod(model.layout.channels(variable)), -1))
    return np.concatenate(channels)
