"""Training data of a conditional model: conditions encoded, and states less their mean given the condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...data.conditions import ConditionConfig, InputValues, read_inputs
from ...data.gridded import DataConfig, GriddedData, Stamps
from ...data.inputs import PARTS
from ...data.normalise import Normalisation
from ...gaussian.regression import Fit, Regression, fit_regression
from ...schema.conditions import Condition
from ..conditioning import Conditioning, encoded
from ..record import ConditionCard, InputCard

Data = TypeVar("Data")
FitMean = Callable[[Tensor, Tensor, Tensor], Fit]


@dataclass(frozen=True)
class Conditioned(Generic[Data]):
    """The states of a conditional model with their encoded conditions, and the data `original` they come from.

    Training states are residuals of a regression that was fitted to other training states, because its own residuals are too
    small.
    """

    states: Data
    original: Data
    conditioning: Conditioning
    card: ConditionCard

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of maps and of numbers that a network receives."""
        return self.conditioning.num_maps, self.conditioning.num_numbers

    @property
    def words(self) -> str:
        """The variance explained by the condition, for the log."""
        return f"the mean given the condition has {max(0, 100 * self.card.explained):.0f} % of the variance, in cross-validation"


def condition_on(config: ConditionConfig, recipe: DataConfig, data: GriddedData, root: Path) -> Conditioned[GriddedData]:
    """Read a recipe's inputs and fit the mean of the data's states given them; ValueError for inputs that do not fit."""
    values = read_inputs(config, recipe, data, root)
    cards = tuple(input_card(name, given, tuple(data.coordinates)) for name, given in values.items())
    whole = {part: np.flatnonzero(np.all([_whole(given, part, data) for given in values.values()], axis=0)) for part in PARTS}
    kept = _taken(data, whole)
    if len(kept.train) == 0:
        raise ValueError("no training sample has all inputs of the condition; look at their dates and their gaps")
    inputs = {part: {name: given.parts[part][whole[part]] for name, given in values.items()} for part in PARTS}
    states = {part: getattr(kept, part) for part in PARTS}
    found = fit_mean(cards, inputs, states, data.normalisation, config.dropout)
    return Conditioned(replace(kept, **found.residuals, conditions=found.conditions), kept, found.conditioning, found.card)


@dataclass(frozen=True)
class FittedMean:
    """What a mean given the condition leaves of the states, by part, and the encoded conditions of the parts that have any."""

    residuals: dict[str, Any]
    conditions: dict[str, Condition]
    conditioning: Conditioning
    card: ConditionCard


def fit_mean(
    cards: tuple[InputCard, ...], inputs: Mapping[str, Mapping[str, np.ndarray]], states: Mapping[str, Tensor],
    normalisation: Normalisation, dropout: float, fitted: FitMean = fit_regression,
) -> FittedMean:  # fmt: skip
    """Fit the mean of the training states given their inputs, and take it from all states; both by part of the data."""
    train = states["train"]
    fit = fitted(train, *encoded(cards, inputs["train"], normalisation))
    conditioning = Conditioning(cards, _single(fit.regression), normalisation)
    conditions: dict[str, Any] = {part: conditioning.encode(inputs[part]) for part in states if len(states[part])}
    residuals = {
        part: states[part] - conditioning.mean(conditions[part]) if part in conditions else states[part] for part in states
    }
    present = torch.from_numpy(normalisation.mask).reshape(normalisation.event_shape)
    residuals["train"] = fit.residuals.to(torch.float32).reshape(train.shape) * present
    card = ConditionCard(
        inputs=cards,
        shrinkage=fit.shrinkage,
        num_modes=fit.num_modes,
        penalty=fit.penalty,
        explained=round(fit.explained, 4),
        dropout=dropout,
    )
    return FittedMean(residuals, conditions, conditioning, card)


def input_card(name: str, given: InputValues, grid: tuple[str, ...] = ()) -> InputCard:
    """The card of an input, with mean and spread over the training samples; ValueError for one that does not vary."""
    scaled = given.kind in ("map", "scalar", "ensemble_mean")
    train = given.parts["train"]
    mean, scale = (float(np.nanmean(train)), float(np.nanstd(train))) if scaled else (0.0, 1.0)
    if not scale > 0:
        raise ValueError(f"condition.inputs.{name}: it does not vary between the training samples; leave it out")
    dims = grid if train.ndim > 1 else ()
    return InputCard(
        name=name, kind=given.kind, variable=given.variable, units=given.units, dims=dims, lag=given.lag,
        classes=given.classes, mean=mean, scale=scale,
    )  # fmt: skip


def _whole(given: InputValues, part: str, data: GriddedData) -> np.ndarray:
    """Which samples of a part have this input; a map needs it where the model has data."""
    values = given.parts[part]
    if values.ndim > 1:
        values = values[:, data.normalisation.mask.any(0)].sum(1)
    return np.asarray(np.isfinite(values))


def _taken(data: GriddedData, which: dict[str, np.ndarray]) -> GriddedData:
    left_out = sum(len(getattr(data, part)) - len(which[part]) for part in PARTS)
    states: dict[str, Any] = {part: getattr(data, part)[torch.from_numpy(which[part])] for part in PARTS}
    when = {part: _stamps(data.when[part], which[part]) for part in PARTS}
    return replace(data, **states, when=when, excluded=data.excluded + left_out)


def _stamps(when: Stamps, which: np.ndarray) -> Stamps:
    key, month, day, series = (
        None if values is None else values[which] for values in (when.key, when.month, when.day, when.series)
    )
    return Stamps(key, month, when.file[which], day, series)


def _single(regression: Regression) -> Regression:
    """The regression as it is stored, in single precision."""
    arrays = {
        name: getattr(regression, name).to(torch.float32).to(torch.float64) for name in ("gains", "modes", "coefficients", "mean")
    }
    return replace(regression, **arrays)
