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
from ..climatology import climatology_of
from ..model import Model
from ..registry import find_model
from .encode import Fields, encode, straight_lines
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

    def bytes_held(self, levels: int) -> int:
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
        made = of_model(model, observations, kind=config.score, gamma=config.gamma)
    require_same(config, table)
    return Given(table, made)


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
    table = read_observations(config.file, names, select=config.select, std=config.std, placed=placed)
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
    filled = sum(math.prod(shape) for shape in shapes.values()) == math.prod(model.event_shape)
    if not filled or (len(shapes) > 1 and (len(set(shapes.values())) > 1 or model.event_shape[0] != len(shapes))):
        raise ValueError("functions of fields need a model whose fields fill its states")
    if isinstance(model.normalisation, Normalisation) and model.normalisation.transforms:
        fields = Fields.of(model)
        slope, offset, transforms = fields.slope, fields.offset, fields.transforms
    else:
        (slope, offset, _), transforms = straight_lines(model), {}
    decode = entry_values(tuple(shapes), slope, offset, transforms)

    def fields_of(x: Tensor) -> dict[str, Tensor]:
        values = decode(x.flatten(1)).reshape(len(x), len(shapes), -1)
        return {name: values[:, k].reshape(len(x), *shape) for k, (name, shape) in enumerate(shapes.items())}

    return fields_of


def climatology(config: ObservationsConfig, model: Model, folder: str) -> np.ndarray:
    """Return the climatology [variables, lat, lon] that was removed before training. Raises ValueError."""
    found = climatology_of(find_model(folder), model.sha256)
    if found is None:
        raise ValueError("observations.absolute: the model is not one of anomalies; leave it out")
    if found.monthly and config.month is None:
        raise ValueError("observations.absolute: the model's climatology is monthly; give observations.month")
    month = 0 if config.month is None or not found.monthly else config.month - 1
    return np.stack([fields[month] for fields in found.fields.values()])
