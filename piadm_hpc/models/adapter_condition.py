"""The condition of an adapter's network: the section `condition` of adapter.toml, and its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..config.validation import Record
from ..data.conditions import MAPS
from ..schema.conditions import Condition, rows_of

Tree = dict[str, Tensor]
ROWS = 16  # conditions of one call of a regression
NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


class InputSpec(Record):
    """One input of a foreign network: the variable of that name in files of conditions, and its form for the network.

    A "map" is a field on the grid and a "scalar" a number; the network receives (value - offset) / scale of both. A "lag" is the
    field of the model's own channel `variable`, `lag` steps earlier, in the scale of that channel. A "class" is a whole number
    below `classes`; `null` is the label that means "none" to the network. An "embedding" is an array over two `dims` of its own,
    of the sizes `shape`, such as the input of cross-attention.
    """

    name: str = Field(min_length=1, pattern=NAME)
    kind: Literal["map", "lag", "scalar", "class", "embedding"]
    variable: str = ""
    lag: int = Field(0, ge=0)
    units: str = "1"
    scale: float = 1.0
    offset: float = 0.0
    classes: int = Field(0, ge=0)
    null: int | None = Field(None, ge=0)
    shape: tuple[int, int] | None = None
    dims: tuple[str, str] = ("token", "feature")

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        mistakes = []
        if (self.kind == "class") != (self.classes > 1):
            mistakes.append(f'{self.name}: `classes`, at least two, belongs to kind = "class" and is needed there')
        if (self.kind == "embedding") != (self.shape is not None):
            mistakes.append(f'{self.name}: `shape`, [tokens, features], belongs to kind = "embedding" and is needed there')
        if self.kind != "class" and self.null is not None:
            mistakes.append(f'{self.name}: `null` belongs to kind = "class"')
        if self.kind in ("class", "lag") and (self.scale, self.offset) != (1.0, 0.0):
            mistakes.append(f"{self.name}: a {self.kind} has no scale and offset of its own")
        if (self.kind == "lag") != (self.lag > 0 and self.variable != ""):
            mistakes.append(
                f'{self.name}: `variable`, a channel, and `lag`, at least 1, belong to kind = "lag" and are needed there'
            )
        if self.scale == 0:
            mistakes.append(f"{self.name}: scale = 0 would make every value infinite")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def mean(self) -> float:
        """The value that becomes zero for the network."""
        return self.offset

    @property
    def spread(self) -> float:
        """Standard deviation of the values in training; infinite if the file has no `scale`."""
        return abs(self.scale) if "scale" in self.model_fields_set else float("inf")

    @property
    def own_dims(self) -> dict[str, int]:
        """Dimensions of the values beside those of the grid and of the conditions, with their sizes."""
        return {} if self.shape is None else dict(zip(self.dims, self.shape, strict=True))


class ConditionSpec(Record):
    """The inputs of a conditional network, in the order in which it takes them within their kind.

    With `dropout` above 0, the share of training without a condition, runs may guide it: without a condition maps, scalars and
    embeddings are zero and the class is its `null`.
    """

    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mistakes, names = [], [given.name for given in self.inputs]
        if len(set(names)) != len(names):
            mistakes.append(f"condition.inputs need different names, got {', '.join(names)}")
        for kind in ("class", "embedding"):
            several = [given.name for given in self.inputs if given.kind == kind]
            if len(several) > 1:
                mistakes.append(f"{' and '.join(several)}: a network takes one input of kind {kind!r}")
        unlabelled = [given.name for given in self.inputs if given.kind == "class" and given.null is None]
        if self.dropout and unlabelled:
            mistakes.append(f"{unlabelled[0]}: with condition.dropout give `null`, the label that means none")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def of_kind(self, *kinds: str) -> tuple[InputSpec, ...]:
        """The inputs of some kinds, in the order of the file."""
        return tuple(given for given in self.inputs if given.kind in kinds)


@dataclass(frozen=True)
class ForeignConditioning:
    """Encodes the inputs of a foreign network as its tensors, float32, of the kinds that it has.

    {"maps": [n, k, y, x], "scalars": [n, q], "classes": [n] int64, "embedding": [n, tokens, features]}, in this order. With a
    `regression`, a function of such tensors that returns the mean states [n, *event], states of the model are the residuals of
    that mean; the mean is the entry "mean", and with `shown` the first of the maps as well. `channels` has the scale and the
    offset of every channel of the states.
    """

    spec: ConditionSpec
    event_shape: tuple[int, ...]
    channels: Mapping[str, tuple[float, float]]
    regression: Callable[[Tree], Tensor] | None = None
    shown: bool = False

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs by name."""
        return self.spec.inputs

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables of the states."""
        return tuple(self.channels)

    def encode(self, values: Mapping[str, np.ndarray]) -> Tree:
        """Encode inputs in their own units, by name: maps [n, y, x], numbers [n], embeddings [n, tokens, features]."""
        tree = {}
        if maps := self.spec.of_kind(*MAPS):
            tree["maps"] = torch.stack([self._one(values[given.name], given) for given in maps], 1)
        if scalars := self.spec.of_kind("scalar"):
            tree["scalars"] = torch.stack([self._one(values[given.name], given) for given in scalars], 1)
        if classes := self.spec.of_kind("class"):
            tree["classes"] = self._one(values[classes[0].name], classes[0]).to(torch.int64)
        if embeddings := self.spec.of_kind("embedding"):
            tree["embedding"] = self._one(values[embeddings[0].name], embeddings[0])
        return self.with_mean(tree)

    def with_mean(self, tree: Tree) -> Tree:
        """Add the mean of the states given an encoded condition, where the model has a regression."""
        if self.regression is None:
            return tree
        count = len(next(iter(tree.values())))
        parts = (rows_of(tree, slice(start, start + ROWS)) for start in range(0, count, ROWS))
        mean = torch.cat([self.regression(arguments_of(part)).to(torch.float32).cpu() for part in parts])
        shown = {"maps": torch.cat([mean, *([tree["maps"]] if "maps" in tree else [])], 1)} if self.shown else {}
        return {**shown, **{key: part for key, part in tree.items() if key not in shown}, "mean": mean}

    def mean(self, condition: Condition) -> Tensor:
        """Return the mean states [n, *event] that an encoded condition holds; zero without a regression."""
        assert isinstance(condition, Mapping)
        if self.regression is None:
            return torch.zeros(1, *self.event_shape)
        mean = condition["mean"]
        assert isinstance(mean, Tensor)
        return mean

    @cached_property
    def null(self) -> Tree:
        """The condition that means "none", with one entry."""
        tree = {}
        if maps := self.spec.of_kind(*MAPS):
            tree["maps"] = torch.zeros(1, len(maps), 1, 1)
        if scalars := self.spec.of_kind("scalar"):
            tree["scalars"] = torch.zeros(1, len(scalars))
        if classes := self.spec.of_kind("class"):
            tree["classes"] = torch.tensor([classes[0].null or 0])
        if self.spec.of_kind("embedding"):
            tree["embedding"] = torch.zeros(1, 1, 1)
        return tree

    def trial(self, count: int) -> Tree:
        """Draw conditions of the network's own scale for a trial call."""
        generator = np.random.default_rng(0)

        def value(given: InputSpec) -> np.ndarray:
            if given.kind == "class":
                return np.arange(count) % given.classes
            shape = self.event_shape[1:] if given.kind in MAPS else given.shape or ()
            scale, offset = self._levels(given)
            return np.asarray(offset + scale * generator.normal(size=(count, *shape)))

        return self.encode({given.name: value(given) for given in self.inputs})

    def _levels(self, given: InputSpec) -> tuple[float, float]:
        return self.channels[given.variable] if given.kind == "lag" else (given.scale, given.offset)

    def _one(self, values: np.ndarray, given: InputSpec) -> Tensor:
        scale, offset = self._levels(given)
        encoded = (np.asarray(values, dtype=np.float64) - offset) / scale
        return torch.from_numpy(np.nan_to_num(encoded).astype(np.float32))  # maps have gaps where the model has no data


def arguments_of(condition: Condition) -> Tree:
    """Return the part of an encoded condition that a network receives: everything except the mean that is added to its states."""
    assert isinstance(condition, Mapping)
    return {key: part for key, part in condition.items() if key != "mean" and isinstance(part, Tensor)}
