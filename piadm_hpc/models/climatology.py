"""The climatology that was removed before training, and the names of the absolute fields; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.alignment import channels_of
from ..data.anomalies import absolute_names
from ..schema.layout import STEP, Coordinate, Variable
from ..store.arrays import read_arrays
from .card import REFERENCE, joint_digest, verify_files
from .foreign import ADAPTER
from .record import Card, read_card
from .registry import CARD

CLIMATOLOGY, NAMES = "climatology", "absolute_names"


@dataclass(frozen=True)
class Climatology:
    """Mean fields by variable in physical units, of each calendar month [12, *levels, *grid] or over time [1, *levels, *grid].

    `names` holds the standard_name and long_name of the absolute field of every variable, as far as they are known.
    """

    fields: Mapping[str, np.ndarray]
    names: Mapping[str, Mapping[str, str]]

    @property
    def monthly(self) -> bool:
        """Whether there is a mean field of each calendar month."""
        return all(len(fields) == 12 for fields in self.fields.values())

    @property
    def months(self) -> list[int]:
        """The calendar months, 1 to 12, of which there were training data."""
        known = [~np.isnan(fields.reshape(len(fields), -1)).all(1) for fields in self.fields.values()]
        return [int(month) + 1 for month in np.flatnonzero(np.all(known, axis=0))]


def climatology_of(folder: Path, sha256: str | None = None) -> Climatology | None:
    """Read the climatology in a model's folder; None for a model whose fields are absolute, or whose data are not described.

    With `sha256`, that of the model that samples were made with, the folder must hold that model. Raises ValueError for another
    model, for files that were changed, and for a model of anomalies that keeps no climatology.
    """
    if (folder / ADAPTER).is_file():
        return None
    card = read_card(folder / CARD)
    if sha256 not in (None, joint_digest(card)):
        differ = f"sha256 {joint_digest(card)[:12]}, theirs {str(sha256)[:12]}"
        raise ValueError(f"{folder} is not the model the samples were made with ({differ}); put the run's own model there")
    if card.anomaly == "none":
        return None
    verify_files(folder, card)
    arrays, _ = read_arrays(folder / REFERENCE)
    if CLIMATOLOGY not in arrays:
        raise ValueError(f"{folder} is a model of anomalies and keeps no climatology; add or subtract it yourself")
    stored = arrays[CLIMATOLOGY]
    levels = {dim: arrays[dim] for dim in card.leading if dim != STEP}
    variables = tuple(Variable(v.name, tuple(dim for dim in v.dims if dim != STEP)) for v in card.variables)
    channels = channels_of(variables, levels)
    shape = (12 if card.anomaly == "monthly" else 1, *_sizes(arrays, card.grid))
    if (stored.values.shape[0], *stored.values.shape[2:]) != shape or stored.values.shape[1] != list(channels.values())[-1].stop:
        raise ValueError(f"{folder / REFERENCE}: {CLIMATOLOGY} is {stored.values.shape}, which does not fit the grid {shape[1:]}")
    fields = {
        v.name: stored.values[:, channels[v.name]].astype(np.float64).reshape(shape[0], *_sizes(arrays, v.dims))
        for v in variables
    }
    return Climatology(fields, _names(card, stored.attrs))


def _sizes(arrays: Mapping[str, Coordinate], dims: Sequence[str]) -> tuple[int, ...]:
    return tuple(len(arrays[dim].values) for dim in dims)


def _names(card: Card, stored: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The stored names; for a model without them, those that follow from its recipe and the long names of its anomalies."""
    if NAMES in stored:
        found: dict[str, dict[str, str]] = json.loads(str(stored[NAMES]))
        return found
    recipe: Mapping[str, Any] = card.training.config.get("data", {}).get("attributes", {})
    return {v.name: absolute_names({"long_name": v.long_name, **recipe.get(v.name, {})}) for v in card.variables}
