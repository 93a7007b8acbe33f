"""Training data of a conditional model: conditions encoded, and states less their mean given the condition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.conditions import ConditionConfig, InputConfig, InputValues, read_inputs
from ...data.gridded import DataConfig, GriddedData, Stamps
from ...data.inputs import PARTS
from ...gaussian.regression import Fit, Regression, fit_regression
from ..conditioning import Conditioning, encoded
from ..record import ConditionCard, InputCard


@dataclass(frozen=True)
class Conditioned:
    """The states of a conditional model with their encoded conditions, and the fields `original` they come from.

    Training states are what a regression fitted to other training states leaves, because its own residuals are too small.
    """

    states: GriddedData
    original: GriddedData
    conditioning: Conditioning
    card: ConditionCard

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of maps and of numbers that a network is given."""
        return self.conditioning.num_maps, self.conditioning.num_numbers

    @property
    def words(self) -> str:
        """What the condition explains, for the log."""
        return f"the mean given the condition has {100 * self.card.explained:.0f} % of the variance, in cross-validation"


def condition_on(config: ConditionConfig, recipe: DataConfig, data: GriddedData, root: Path) -> Conditioned:
    """Read a recipe's inputs and fit the mean of the data's states given them; ValueError for inputs that do not fit."""
    values = read_inputs(config, recipe, data, root)
    cards = tuple(_card(name, config.inputs[name], given, data) for name, given in values.items())
    whole = {part: np.flatnonzero(np.all([_whole(given, part, data) for given in values.values()], axis=0)) for part in PARTS}
    kept = _taken(data, whole)
    if len(kept.train) == 0:
        raise ValueError("no training sample has all inputs of the condition; look at their dates and their gaps")
    inputs = {part: {name: given.parts[part][whole[part]] for name, given in values.items()} for part in PARTS}
    fit = fit_regression(kept.train, *encoded(cards, inputs["train"], data.normalisation))
    conditioning = Conditioning(cards, _single(fit.regression), data.normalisation)
    conditions = {part: conditioning.encode(inputs[part]) for part in PARTS if len(whole[part])}
    residuals: dict[str, Any] = {
        part: getattr(kept, part) - conditioning.mean(conditions[part]) if part in conditions else getattr(kept, part)
        for part in PARTS
    }
    present = torch.from_numpy(data.normalisation.mask).reshape(data.normalisation.event_shape)
    residuals["train"] = fit.residuals.to(torch.float32).reshape(kept.train.shape) * present
    card = ConditionCard(
        inputs=cards,
        shrinkage=fit.shrinkage,
        num_modes=fit.num_modes,
        penalty=fit.penalty,
        explained=round(_explained(kept.train, fit), 4),
        dropout=config.dropout,
    )
    return Conditioned(replace(kept, **residuals, conditions=conditions), kept, conditioning, card)


def _card(name: str, config: InputConfig, given: InputValues, data: GriddedData) -> InputCard:
    scaled = given.kind in ("map", "scalar", "ensemble_mean")
    train = given.parts["train"]
    mean, scale = (float(np.nanmean(train)), float(np.nanstd(train))) if scaled else (0.0, 1.0)
    if not scale > 0:
        raise ValueError(f"condition.inputs.{name}: it does not vary between the training samples; leave it out")
    dims = tuple(data.coordinates) if train.ndim > 1 else ()
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


def _explained(states: Tensor, fit: Fit) -> float:
    x = states.flatten(1).to(torch.float64)
    return 1 - float(fit.residuals.square().sum() / (x - x.mean(0)).square().sum())
