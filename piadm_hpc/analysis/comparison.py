"""Comparison of the samples of a run with the statistics in its model's folder, or with a file of real fields."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..data.grids import row_shares
from ..data.matching import MatchedFields, read_like
from ..models.card import STATISTICS
from ..models.registry import find_model
from ..models.target import target_of
from ..models.variables import described, variables_of
from ..schema.layout import Coordinate
from ..store.arrays import read_arrays
from .planes import MAX_BYTES, Plane, planes_of
from .scores import (
    Ensemble,
    Moments,
    Reference,
    counted,
    ensemble,
    moments,
    reference_of,
    scores,
    standard_errors,
)
from .slices import plain_arrays


@dataclass(frozen=True)
class Comparison:
    """One map of a run compared with a reference.

    `fields` [n, lat, lon] are the samples that are scored, out of `available`. `own` are their scores with standard `errors`,
    `reference_scores` those of a perfect ensemble, and `real` those of held-out fields, which `real_label` describes.
    `examples` [m, lat, lon] are some real fields, `examples_label` says which.
    """

    plane: Plane
    fields: np.ndarray
    available: int
    reference: Reference
    samples: Ensemble
    own: dict[str, float]
    errors: dict[str, float]
    reference_scores: dict[str, float]
    real_label: str
    real: dict[str, float]
    examples: np.ndarray
    examples_label: str

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
    """Scores of the samples of a run by variable, or by map of it, as plain values for a model card or a JSON file.

    `model` is the name of a shipped model or a folder. Real fields come from its statistics.h5, or from `against`, any file
    that xarray opens with the variables on the same grid. Raises ValueError if there is nothing to compare with.
    """
    return {c.plane.name: as_record(c) for c in compare(dataset, model, against=against)}


def as_record(comparison: Comparison) -> dict[str, Any]:
    """A comparison as nested plain values."""
    return {
        "units": comparison.plane.units,
        "num_samples": len(comparison.fields),
        "reference": comparison.reference.label,
        "held_out": comparison.real_label,
        "scores": comparison.rows(),
    }


def compare(
    dataset: xr.Dataset,
    model: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    fields: Mapping[str, np.ndarray] | None = None,
    maps: Collection[str] | None = None,
) -> list[Comparison]:
    """One comparison per map of the model's variables, or of the named `maps`; raises ValueError with nothing to compare with.

    `fields` are those of the file `against`, as `fields_like` gives them, where they have been read.
    """
    folder = find_model(Path(model))
    variables = variables_of(folder)
    absent = [v.name for v in variables if v.name not in dataset]
    if absent:
        raise ValueError(f"the samples have no {', '.join(absent)}, which model {folder.name} makes; give the run's own model")
    planes = [plane for plane in planes_of(dataset, variables)[0] if maps is None or plane.name in maps]
    if against is not None:
        real = fields_like(folder, against).fields if fields is None else fields
        return [_with_file(dataset, plane, real[plane.name], Path(against).name) for plane in planes]
    statistics, _ = read_arrays(_statistics_file(folder))
    return [_with_statistics(dataset, plane, statistics) for plane in planes]


def _with_file(dataset: xr.Dataset, plane: Plane, real: np.ndarray, file: str) -> Comparison:
    label = f"{file}, {counted(len(real), 'field')}"
    reference = reference_of(label, real, plane.grid.weights, plane.grid.transform)
    return _compare(dataset, plane, reference, None, real, label)


def _with_statistics(dataset: xr.Dataset, plane: Plane, statistics: Mapping[str, Coordinate]) -> Comparison:
    examples = np.empty((0, *plane.grid.shape))
    if "held_out_examples" in statistics:
        examples = _map_of(statistics, "held_out_examples", plane, 1)
    return _compare(dataset, plane, _shipped(statistics, plane), statistics, examples, counted(len(examples), "held-out field"))


def _map_of(statistics: Mapping[str, Coordinate], name: str, plane: Plane, axis: int = 0) -> np.ndarray:
    """The entry of a map in an array of all variables' maps along `axis`, as rows and columns."""
    values = statistics[name].values.take(plane.number, axis)
    return np.asarray(values.reshape(*values.shape[:axis], *plane.grid.shape))


def fields_like(folder: Path, file: str | os.PathLike[str]) -> MatchedFields:
    """Fields of a file, or of all files that match a glob, in the slices (`slices`) and on the grid of the model in `folder`.

    If there are too many fields, evenly spaced ones are taken. Raises ValueError for fields that cannot be converted.
    """
    card, layout = described(folder)
    target = target_of(folder, card, layout)
    try:
        found = read_like(Path(file), target, most=max(2, MAX_BYTES // (8 * int(np.prod(target.mask.shape[1:])))))
        return replace(found, fields=plain_arrays(found.fields, layout))
    except ValueError as error:
        wanted = ", ".join(v.name for v in layout.variables)
        raise ValueError(f"{error}; it cannot be compared with the samples, give {wanted} on their grid") from None


def has_statistics(model: str | os.PathLike[str]) -> bool:
    """Whether a shipped model or a model folder contains the statistics that samples are compared with."""
    return (find_model(Path(model)) / STATISTICS).is_file()


def _compare(
    dataset: xr.Dataset,
    plane: Plane,
    reference: Reference,
    statistics: Mapping[str, Coordinate] | None,
    examples: np.ndarray,
    examples_label: str,
) -> Comparison:
    fields = plane.samples(dataset)
    if fields.shape[1:] != reference.mean.shape:
        raise ValueError(f"{plane.name} is {fields.shape[1:]}, {reference.label} {reference.mean.shape}; compare on one grid")
    samples = ensemble(fields, reference)
    label, real = ("", {}) if statistics is None else _held_out(statistics, plane, reference, examples, len(fields))
    return Comparison(
        plane=plane,
        fields=fields,
        available=int(np.prod([size for dim, size in dataset[plane.variable].sizes.items() if dim not in plane.dims])),
        reference=reference,
        samples=samples,
        own=_single(moments(samples), reference),
        errors=standard_errors(samples, reference),
        reference_scores=_of_itself(reference),
        real_label=label,
        real=real,
        examples=examples,
        examples_label=examples_label,
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


def _shipped(statistics: Mapping[str, Coordinate], plane: Plane) -> Reference:
    """The training data of a map as a reference; without a spectrum where the file has none of the grid's transform."""
    rows, mean = plane.grid.dims[0], _map_of(statistics, "train_mean", plane)
    # the area means in the file were taken with these weights
    stored = row_shares(rows, statistics[rows].values, statistics[rows].attrs) if plane.grid.rectangular else plane.grid.weights
    area_means = _area_means(statistics, "train", plane.number, mean, stored)
    std = _map_of(statistics, "train_std", plane) * _unbiased(len(area_means))
    label = f"training data, {counted(len(area_means), 'field')}"
    transform = plane.grid.transform if f"train_{plane.grid.transform}_power" in statistics else None
    return Reference(label, mean, std, _power(statistics, "train", plane, transform), area_means, stored, transform)


def _power(statistics: Mapping[str, Coordinate], part: str, plane: Plane, transform: str | None) -> np.ndarray:
    return np.empty(0) if transform is None else np.asarray(statistics[f"{part}_{transform}_power"].values[plane.number])


def _area_means(statistics: Mapping[str, Coordinate], part: str, k: int, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area means of every field over points with data; the file has those of deviations, with gaps counted as zero."""
    there = np.isfinite(mean).astype(np.float64)
    share = (there * weights[:, None]).sum() / there.shape[1]
    centre = (np.nan_to_num(mean) * weights[:, None]).sum() / there.shape[1]
    values: np.ndarray = (statistics[f"{part}_area_mean"].values[:, k] + centre) / share
    return values


def _held_out(
    statistics: Mapping[str, Coordinate], plane: Plane, reference: Reference, examples: np.ndarray, count: int
) -> tuple[str, dict[str, float]]:
    """A label and the scores of held-out fields: as many as samples if the file has so many, else all; empty without any."""
    if count <= len(examples):
        chosen = np.linspace(0, len(examples) - 1, count).round().astype(int)
        return counted(count, "held-out field"), _single(moments(ensemble(examples[chosen], reference)), reference)
    part = next((name for name in ("test", "validation") if f"{name}_mean" in statistics), None)
    if part is None:
        return "", {}
    area_means = _area_means(statistics, part, plane.number, reference.mean, reference.weights)
    held_out = Moments(
        (_map_of(statistics, f"{part}_mean", plane) - reference.mean)[None],
        (_map_of(statistics, f"{part}_std", plane) * _unbiased(len(area_means)))[None],
        _power(statistics, part, plane, reference.transform)[None],
        area_means.mean(keepdims=True),
        area_means.std(keepdims=True) * _unbiased(len(area_means)),
    )
    return counted(len(area_means), "held-out field"), _single(held_out, reference)


def _unbiased(count: int) -> float:
    return float(np.sqrt(count / (count - 1))) if count > 1 else float("nan")
