"""Comparison of the samples of a run with the statistics in its model's folder, or with a file of real fields."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..data.matching import MatchedFields, read_like
from ..models.card import STATISTICS
from ..models.record import VariableCard
from ..models.registry import find_model
from ..models.target import target_of
from ..models.variables import described, variables_of
from ..schema.layout import Coordinate, Variable
from ..store.arrays import read_arrays
from .scores import (
    Ensemble,
    Moments,
    Reference,
    area_weights,
    counted,
    ensemble,
    moments,
    reference_of,
    row_weights,
    scores,
    standard_errors,
)
from .slices import COLUMN, plain_arrays, plain_fields

MAX_BYTES = 2**30
"""Bytes of the fields of one variable; of larger runs, evenly spaced samples are scored."""


@dataclass(frozen=True)
class Comparison:
    """One variable of a run compared with a reference.

    `fields` [n, lat, lon] are the samples that are scored, out of `available`. `own` are their scores with standard `errors`,
    `reference_scores` those of a perfect ensemble, and `real` those of held-out fields, which `real_label` describes.
    """

    variable: VariableCard
    fields: np.ndarray
    available: int
    reference: Reference
    samples: Ensemble
    own: dict[str, float]
    errors: dict[str, float]
    reference_scores: dict[str, float]
    real_label: str
    real: dict[str, float]

    def rows(self) -> dict[str, dict[str, float]]:
        """The scores that are defined, each with keys samples, standard_error, reference and held_out."""
        columns = {"samples": self.own, "standard_error": self.errors, "reference": self.reference_scores, "held_out": self.real}
        names = [name for name, value in self.own.items() if np.isfinite(value)]
        return {
            name: {key: float(f"{column[name]:.6g}") for key, column in columns.items() if np.isfinite(column.get(name, np.nan))}
            for name in names
        }


def score_table(
    dataset: xr.Dataset, model: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Scores of the samples of a run by variable, as plain values for a model card or a JSON file.

    `model` is the name of a shipped model or a folder. Real fields come from its statistics.h5, or from `against`, any file
    that xarray opens with the variables on the same grid. Raises ValueError if there is nothing to compare with.
    """
    return {c.variable.name: as_record(c) for c in compare(dataset, model, against=against)}


def as_record(comparison: Comparison) -> dict[str, Any]:
    """A comparison as nested plain values."""
    return {
        "units": comparison.variable.units,
        "num_samples": len(comparison.fields),
        "reference": comparison.reference.label,
        "held_out": comparison.real_label,
        "scores": comparison.rows(),
    }


def compare(
    dataset: xr.Dataset, model: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None
) -> list[Comparison]:
    """One comparison per variable of the model; raises ValueError if there is nothing to compare with."""
    folder = find_model(Path(model))
    cards = variables_of(folder)
    absent = [v.name for v in cards if v.name not in dataset]
    if absent:
        raise ValueError(f"the samples have no {', '.join(absent)}, which model {folder.name} makes; give the run's own model")
    dataset, variables = plain_fields(dataset, cards, described(folder)[1])
    if against is not None:
        real = fields_like(folder, against).fields
        label = Path(against).name
        references = [
            reference_of(f"{label}, {counted(len(real[v.name]), 'field')}", real[v.name], _weights(dataset, v)) for v in variables
        ]
        return [_compare(dataset, v, reference, None) for v, reference in zip(variables, references, strict=True)]
    statistics, _ = read_arrays(_statistics_file(folder))
    statistics = _with_columns(statistics, variables[0].dims)
    return [_compare(dataset, v, _shipped(statistics, k, v), (statistics, k)) for k, v in enumerate(variables)]


def _with_columns(statistics: Mapping[str, Coordinate], dims: tuple[str, ...]) -> dict[str, Coordinate]:
    """Statistics of fields on cells as those of rows of one column."""
    if dims[-1] != COLUMN:
        return dict(statistics)
    fields = {name: c for name, c in statistics.items() if c.dims[-1:] == dims[:1] and len(c.dims) > 1}
    return {**statistics, **{name: Coordinate((*c.dims, COLUMN), c.values[..., None], c.attrs) for name, c in fields.items()}}


def fields_like(folder: Path, file: str | os.PathLike[str]) -> MatchedFields:
    """Fields of a file, or of all files that match a glob, in the slices (`slices`) and on the grid of the model in `folder`.

    Of too many fields, evenly spaced ones. Raises ValueError for fields that cannot be converted.
    """
    card, layout = described(folder)
    target = target_of(folder, card, layout)
    try:
        found = read_like(Path(file), target, most=_most(target.mask.shape[1:]))
        return replace(found, fields=plain_arrays(found.fields, layout))
    except ValueError as error:
        wanted = ", ".join(v.name for v in layout.variables)
        raise ValueError(f"{error}; it cannot be compared with the samples, give {wanted} on their grid") from None


def _most(shape: tuple[int, ...]) -> int:
    """The largest number of fields of this shape that are scored."""
    return max(2, MAX_BYTES // (8 * int(np.prod(shape))))


def has_statistics(model: str | os.PathLike[str]) -> bool:
    """Whether a shipped model or a model folder contains the statistics that samples are compared with."""
    return (find_model(Path(model)) / STATISTICS).is_file()


def load_fields(dataset: xr.Dataset, variable: VariableCard | Variable) -> np.ndarray:
    """Samples [n, lat, lon] of a variable, at most MAX_BYTES of them, evenly spaced.

    Raises ValueError for dimensions other than samples and the two of the variable.
    """
    array = dataset[variable.name]
    others = [dim for dim in array.dims if dim not in variable.dims]
    if len(array.dims) - len(others) != 2 or not others:
        raise ValueError(f"{variable.name} has dimensions {array.dims}; scores need samples over {variable.dims}")
    stacked = array.transpose(*others, *variable.dims)
    stacked = stacked if len(others) == 1 else stacked.stack(all_samples=others).transpose("all_samples", *variable.dims)
    count = len(stacked)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _most(stacked.shape[1:]))).round().astype(int))
    return stacked.isel({stacked.dims[0]: chosen}).values


def _compare(
    dataset: xr.Dataset, variable: VariableCard, reference: Reference, held_out: tuple[Mapping[str, Coordinate], int] | None
) -> Comparison:
    fields = load_fields(dataset, variable)
    if fields.shape[1:] != reference.mean.shape:
        raise ValueError(f"{variable.name} is {fields.shape[1:]}, {reference.label} {reference.mean.shape}; compare on one grid")
    samples = ensemble(fields, reference)
    label, real = ("", {}) if held_out is None else _held_out(*held_out, reference, len(fields))
    return Comparison(
        variable=variable,
        fields=fields,
        available=int(np.prod([size for dim, size in dataset[variable.name].sizes.items() if dim not in variable.dims])),
        reference=reference,
        samples=samples,
        own=_single(moments(samples), reference),
        errors=standard_errors(samples, reference),
        reference_scores=_of_itself(reference),
        real_label=label,
        real=real,
    )


def _single(one: Moments, reference: Reference) -> dict[str, float]:
    return {name: float(values[0]) for name, values in scores(one, reference).items()}


def _of_itself(reference: Reference) -> dict[str, float]:
    """The scores of a perfect, infinite ensemble."""
    own = Moments(
        np.zeros((1, *reference.mean.shape)),
        reference.std[None],
        reference.power[None],
        reference.area_means.mean(keepdims=True),
        reference.area_means.std(ddof=1, keepdims=True),
    )
    return _single(own, reference)


def _statistics_file(folder: Path) -> Path:
    path = folder / STATISTICS
    if not path.is_file():
        raise ValueError(f"{path}: no such file; train the model again to get it, or give a file of real fields to compare with")
    return path


def _shipped(statistics: Mapping[str, Coordinate], k: int, variable: VariableCard) -> Reference:
    """The training data of variable number `k` as a reference."""
    rows = statistics[variable.dims[0]].values
    weights = np.full(len(rows), 1 / len(rows)) if variable.dims[1] == COLUMN else area_weights(rows)
    mean = statistics["train_mean"].values[k]
    area_means = _area_means(statistics, "train", k, mean, weights)
    std = statistics["train_std"].values[k] * _unbiased(len(area_means))
    label = f"training data, {counted(len(area_means), 'field')}"
    return Reference(label, mean, std, statistics["train_zonal_power"].values[k], area_means, weights)


def _area_means(statistics: Mapping[str, Coordinate], part: str, k: int, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area means of every field over points with data; the file has those of deviations, with gaps counted as zero."""
    there = np.isfinite(mean).astype(np.float64)
    share = (there * weights[:, None]).sum() / there.shape[1]
    centre = (np.nan_to_num(mean) * weights[:, None]).sum() / there.shape[1]
    values: np.ndarray = (statistics[f"{part}_area_mean"].values[:, k] + centre) / share
    return values


def _held_out(statistics: Mapping[str, Coordinate], k: int, reference: Reference, count: int) -> tuple[str, dict[str, float]]:
    """A label and the scores of held-out fields: as many as samples if the file has so many, else all; empty without any."""
    examples = statistics["held_out_examples"].values[:, k] if "held_out_examples" in statistics else np.empty(0)
    if count <= len(examples):
        chosen = np.linspace(0, len(examples) - 1, count).round().astype(int)
        return counted(count, "held-out field"), _single(moments(ensemble(examples[chosen], reference)), reference)
    part = next((name for name in ("test", "validation") if f"{name}_mean" in statistics), None)
    if part is None:
        return "", {}
    area_means = _area_means(statistics, part, k, reference.mean, reference.weights)
    mean, std, power = (statistics[f"{part}_{name}"].values[k] for name in ("mean", "std", "zonal_power"))
    held_out = Moments(
        (mean - reference.mean)[None],
        (std * _unbiased(len(area_means)))[None],
        power[None],
        area_means.mean(keepdims=True),
        area_means.std(keepdims=True) * _unbiased(len(area_means)),
    )
    return counted(len(area_means), "held-out field"), _single(held_out, reference)


def _unbiased(count: int) -> float:
    return float(np.sqrt(count / (count - 1))) if count > 1 else float("nan")


def _weights(dataset: xr.Dataset, variable: VariableCard) -> np.ndarray:
    return row_weights(dataset, variable.dims[0])
