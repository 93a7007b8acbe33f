"""The record of a model: its score, its process, its Gaussian reference, and the way from states to physical units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..data.channels import Channels
from ..data.normalise import Normalisation
from ..gaussian.reference import GaussianReference
from ..schema.conditions import Condition
from ..schema.layout import Layout
from ..theory.process import Process
from .adapter_condition import ForeignConditioning
from .base import ScoreModel
from .conditioning import Conditioning
from .denoiser import GaussianDenoiser
from .phase_denoiser import denoiser_kind


@dataclass(frozen=True)
class Model:
    """A model that is ready to sample from.

    `score` takes states [rows, *event] (for a network of phase space [rows, 2, *event], position and momentum), times [rows]
    of the process's own clock, both in the precision of the states, and of a conditional model the condition that `conditioning`
    encodes; its states are residuals of the mean given the condition. `denoiser` is None for a network of another
    package. `reference` is in float64. `mask` [d] (or None) is true where there are data, and no state has a component along
    `constraint` [d, k] (or None). `card` is the model's card, or adapter.toml, as a dictionary; `sha256` identifies all its
    numbers.
    """

    name: str
    score: ScoreModel
    denoiser: GaussianDenoiser | None
    process: Process
    event_shape: tuple[int, ...]
    reference: GaussianReference
    mask: Tensor | None
    constraint: Tensor | None
    layout: Layout
    normalisation: Normalisation | Channels
    horizon: float
    delta: float
    card: dict[str, Any]
    sha256: str
    conditioning: Conditioning | ForeignConditioning | None = None

    def wiener(self) -> GaussianDenoiser:
        """Return the Wiener filter of the reference, a denoiser without the network."""
        if self.denoiser is not None:
            return self.denoiser.without_network()
        mask = None if self.mask is None else self.mask.reshape(self.event_shape)
        return denoiser_kind(self.process)(self.process, self.reference, None, mask, self.constraint)

    def decode(self, x: Tensor, condition: Condition | None = None) -> dict[str, np.ndarray]:
        """Decode states [samples, *event] into fields in physical units by variable, NaN where there are no data.

        States of a conditional model lack the mean given their condition, which is added here. ValueError for a conditional
        model without a condition.
        """
        return self.normalisation.decode(x if self.conditioning is None else x + self._mean(condition).to(x))

    def encode(self, fields: Mapping[str, np.ndarray], condition: Condition | None = None) -> Tensor:
        """Encode fields in physical units by variable, each [samples, lat, lon], as states [samples, *event] float32.

        ValueError for a conditional model without a condition.
        """
        states = self.normalisation.encode(fields)
        return states if self.conditioning is None else states - self._mean(condition)

    def _mean(self, condition: Condition | None) -> Tensor:
        if self.conditioning is None or condition is None:
            raise ValueError(f"{self.name} is a model of fields given a condition; give the condition of every field")
        return self.conditioning.mean(condition)
