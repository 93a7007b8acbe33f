"""The statistics of a run: the groups of members, the bins of every point, and the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..config.run import RunConfig
from ..config.validation import ConfigError
from ..data.anomalies import NAMES
from ..data.truth import read_truth
from ..models.card import Model
from ..models.climatology import Climatology, climatology_of
from ..models.registry import find_model
from ..schema.layout import Coordinate, Layout
from ..store.statistics.recipe import NEEDS, Recipe
from .conditions import SAMPLE_DIM, given_conditions, months_of_run, starts_described

REACH, STRETCH = 12.0, 2.5  # bins reach so many deviations of the data, and are three times as wide as evenly spaced ones there
BINNED = {kind for kind, arrays in NEEDS.items() if "values" in arrays}
KEPT_BITS = np.uint32(0xFFFFFF00)  # digits of an edge, so that two hosts that round differently have the same edges


def recipe_of(config: RunConfig, model: Model) -> Recipe | None:
    """The statistics that a run's configuration requests; None for none. Raises ConfigError if they do not fit the model."""
    asked = config.statistics
    if not asked.kinds:
        return None
    if model.layout.topology is not None:
        raise ConfigError(f"statistics.kinds: {model.name} makes conformers; statistics are of fields, so leave the section out")
    names = [variable.name for variable in model.layout.variables]
    if strange := sorted(set(asked.thresholds or {}) - set(names)):
        raise ConfigError(f"statistics.thresholds: {model.name} makes {', '.join(names)}, not {', '.join(strange)}")
    climatology, rows = _climatology(config) if asked.absolute else (None, (0,))
    groups = _groups(config)
    layout = _layout(model.layout, climatology, SAMPLE_DIM if groups else model.layout.sample_dim)
    added = {} if climatology is None else dict(climatology.fields)
    edges = _edges(model, asked.bins, {name: fields[list(set(rows))].mean(0) for name, fields in added.items()})
    gaps = {name: np.isnan(fields[0]) for name, fields in edges.items()}
    truth: dict[str, np.ndarray] = {}
    if asked.truth is not None:
        ranges = {name: (fields[0], fields[-1]) for name, fields in edges.items()}
        grid = {dim: layout.coordinates[dim] for dim in layout.variables[0].dims}
        try:
            truth = read_truth(Path(asked.truth), layout.variables, grid, groups, ranges)
        except ValueError as error:
            raise ConfigError(f"statistics.truth: {error}") from None
    return Recipe(
        layout,
        asked.kinds,
        asked.quantiles,
        asked.thresholds or {},
        edges=edges if BINNED.intersection(asked.kinds) else {},
        exact=asked.exact,
        truth=truth,
        gaps=gaps,
        groups=groups,
        added=added,
        rows=rows,
    )


@dataclass(frozen=True)
class Counted:
    """Bytes of a run's statistics: in the memory of a rank that writes, and on disk; `words` describe them."""

    memory: int = 0
    disk: int = 0
    words: str = ""

    def __str__(self) -> str:
        return self.words

    @classmethod
    def of(cls, config: RunConfig, recipe: Recipe | None, batch: int) -> Counted:
        """The bytes for batches of so many samples."""
        if recipe is None:
            return cls()
        members = -(-len(config.ids) // recipe.num_groups)
        memory, disk = recipe.bytes_in_memory(members, batch), recipe.num_groups * recipe.bytes_of_group(members)
        every = f", {recipe.num_groups} times" if recipe.num_groups > 1 else ""
        how = "beside the samples" if config.output.members else "the samples are not stored"
        words = (
            f"  statistics       {', '.join(recipe.kinds)}{every}: {memory / 1e6:.1f} MB of the memory of a rank that writes, "
            f"{disk / 1e6:.1f} MB of sums on disk for each of these; {how}\n"
        )
        return cls(memory, disk, words)


def _climatology(config: RunConfig) -> tuple[Climatology | None, tuple[int, ...]]:
    """The climatology of a model of anomalies, and its row for every sample in turn; None for a model of absolute fields."""
    try:
        climatology = climatology_of(find_model(config.model))
        months = months_of_run(config)
    except ValueError as error:
        raise ConfigError(f"statistics.absolute: {error}") from None
    given = config.statistics.month
    if climatology is None or not climatology.monthly:
        if given is not None:
            raise ConfigError("statistics.month: the model has no monthly climatology; leave it out")
        return climatology, (0,)
    if months is None and given is None:
        raise ConfigError(
            "statistics.month: give the month, since the model's climatology is monthly and the run does not determine it"
        )
    if months is not None and given is not None:
        raise ConfigError("statistics.month: the run knows its months; leave it out")
    found = [given] if months is None else months.tolist()
    if absent := sorted(set(found) - set(climatology.months)):
        raise ConfigError(f"statistics.month: the model has no climatology for month {', '.join(map(str, absent))}")
    return climatology, tuple(int(month) - 1 for month in found if month is not None)


def _layout(layout: Layout, climatology: Climatology | None, sample_dim: str) -> Layout:
    """The layout of the counted fields: that of the samples, with the names of absolute fields if these are requested."""
    if climatology is None:
        return replace(layout, sample_dim=sample_dim)
    variables = [
        replace(each, attrs={k: v for k, v in each.attrs.items() if k not in NAMES} | dict(climatology.names.get(each.name, {})))
        for each in layout.variables
    ]
    return replace(layout, variables=tuple(variables), sample_dim=sample_dim)


def _groups(config: RunConfig) -> dict[str, Coordinate]:
    """The dimensions along which statistics are separate: conditions, or starts and leads of forecasts."""
    leads = config.rollout.leads
    if config.condition.count == 1 and leads is None:
        return {}
    labels = given_conditions(config).labels
    if leads is None:
        return {labels.dims[0]: labels}
    numbers = np.arange(1, leads + 1, dtype=np.int32)
    return {
        "init_time": Coordinate(("init_time",), labels.values, starts_described(labels)),
        "lead_time": Coordinate(("lead_time",), numbers, {"long_name": "number of the lead", "units": "1"}),
    }


def _edges(model: Model, bins: int, added: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Edges of the bins of every point by variable, [bins + 1, *shape] float32: narrow about the data's mean, wide far from it.

    They are decoded from states, so that they follow transforms and bounds of a variable.
    """
    reference, scale = model.reference, 1.0
    if model.conditioning is None:  # else the reference is that of residuals given the condition, which are smaller than states
        variance = float(reference.basis.expand(reference.spectrum.to(torch.float64)).expand(reference.basis.num_coords).sum())
        scale = 2.0 ** round(math.log2(max(math.sqrt(variance / len(reference.mean)), 1e-30)))
    mean = reference.mean.to("cpu", torch.float64).reshape(1, *model.event_shape)
    places = np.sinh(STRETCH * np.linspace(-1, 1, bins + 1)) / np.sinh(STRETCH) * REACH * scale
    found: dict[str, list[np.ndarray]] = {}
    for place in places.tolist():
        for name, fields in model.normalisation.decode(mean + place).items():
            field = np.asarray(fields[0] + added.get(name, 0.0), dtype=np.float32)
            found.setdefault(name, []).append((field.view(np.uint32) & KEPT_BITS).view(np.float32))
    # a decoder with a falling scale gives falling edges
    return {name: np.sort(np.stack(fields), axis=0) for name, fields in found.items()}
