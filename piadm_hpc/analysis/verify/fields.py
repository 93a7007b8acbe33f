"""Verification of gridded fields as sections of a report, beyond the scores of `piadm report`.

The sections are maps and spectra, variances of the reference's leading patterns, extremes, correlations of variables, and
the distance to the nearest training field; with a true field also its rank histogram and fair CRPS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from ...schema.layout import Variable
from ...theory.bases import SphericalHarmonics
from ..comparison import Comparison, as_record
from ..drawing.labels import readable
from ..drawing.quantities import shown_units
from ..drawing.style import drawn
from ..figures import MapData
from ..grids import MapGrid
from ..pages import Section, number
from ..planes import Plane
from ..report.tables import described_scores
from ..scores import fair_crps, rank_shares
from .field_figures import against_truth, overview
from .joint import correlation_section

Fields = Mapping[str, np.ndarray]
"""Real fields [n, *sizes of a sample] by variable, on the samples' grid."""

PATTERNS = 8
LEVELS = (0.001, 0.01, 0.5, 0.99, 0.999)
SHOWN_DEGREES = (1, 2, 4, 8, 16, 32)


def sections_of(
    samples: xr.Dataset,
    planes: Sequence[Plane],
    compared: Sequence[Comparison],
    real: Fields | None,
    truth: Fields | None,
    training: Fields | None,
) -> tuple[list[Section], dict[str, Any]]:
    """Sections and numbers for every map, and for the maps together."""
    by_name = {one.plane.name: one for one in compared}
    sections: list[Section] = []
    record: dict[str, Any] = {}
    shown: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for plane in planes:
        one = by_name.get(plane.name)
        fields = (plane.samples(samples) if one is None else one.fields).astype(np.float64)
        reference = None if real is None else real[plane.name].astype(np.float64)
        data = _map_data(plane, fields, one, reference)
        shown[plane.name] = fields, data.examples
        table: dict[str, Any] = {}
        if one is not None:
            sections.append(_scores(one))
            record[plane.name] = as_record(one)
        sections += _maps(data, table)
        if reference is not None:
            sections.append(_extremes(plane, fields, reference, table))
            sections.append(_patterns(plane.name, fields, reference, plane.grid.weights, table))
        if truth is not None:
            sections.append(_against_truth(data, truth[plane.name], table))
        if training is not None:
            sections.append(_nearest(plane, fields, training[plane.name], reference, table))
        record.setdefault(plane.name, {}).update(table)
    return [*sections, *correlation_section(planes, shown, record)], record


def stacked(dataset: xr.Dataset, variable: Variable) -> np.ndarray:
    """Fields [n, lat, lon] of a variable in float64, with all other dimensions merged into the first.

    Raises ValueError for a variable, or a dimension of it, that the data set does not have.
    """
    if variable.name not in dataset:
        raise ValueError(f"no variable {variable.name}; there are {', '.join(map(str, dataset.data_vars))}")
    array = dataset[variable.name]
    absent = [dim for dim in variable.dims if dim not in array.dims]
    if absent:
        raise ValueError(f"{variable.name} has dimensions {array.dims}, without {', '.join(absent)}")
    others = [dim for dim in array.dims if dim not in variable.dims]
    return np.asarray(array.transpose(*others, *variable.dims).values, dtype=np.float64).reshape(
        -1, *(array.sizes[dim] for dim in variable.dims)
    )


def _map_data(plane: Plane, fields: np.ndarray, one: Comparison | None, real: np.ndarray | None) -> MapData:
    examples = real if real is not None or one is None else one.examples
    return MapData(
        name=plane.name,
        attrs=plane.attrs,
        grid=plane.grid,
        fields=fields,
        power=None if one is None else one.samples.power,
        reference=None if one is None else one.reference,
        examples=examples if examples is not None and len(examples) else None,
        examples_label="" if one is None else one.examples_label,
    )


def _maps(data: MapData, table: dict[str, Any]) -> list[Section]:
    """Maps, spectra and quantiles; the power by degree on the sphere also as a table."""
    whole = data.grid.whole and bool(np.isfinite(data.fields[0]).all())
    degrees = None
    rows: list[list[str]] = []
    if whole and data.examples is not None:
        centre = data.examples.mean(0) if data.reference is None else data.reference.mean
        own, real = (_degree_power(fields - centre, data.grid) for fields in (data.fields, data.examples))
        degrees = own, real.mean(0)
        ratio = degrees[0].mean(0) / np.maximum(degrees[1], 1e-300)
        table["degree_power_ratio"] = [float(r) for r in ratio]
        rows = [[str(k), number(float(ratio[k]))] for k in SHOWN_DEGREES if k < len(ratio)]
    figures = drawn(overview, data, degrees, data.examples_label)
    if not figures and not rows:
        return []
    head = ("power at a degree on the sphere", f"samples over {data.examples_label}") if rows else ()
    return [Section(f"{data.name}: maps and spectra", head, rows, (), figures)]


def _degree_power(deviations: np.ndarray, grid: MapGrid) -> np.ndarray:
    """Mean square of the coefficients of every degree, for every field [n, rows, columns]: [n, degrees]."""
    nlat, nlon = grid.shape
    harmonics = SphericalHarmonics(nlat, nlon, min(nlat, nlon // 2), grid.y.tolist(), area_weighted=False)
    coordinates = harmonics.analyse(torch.from_numpy(deviations.reshape(len(deviations), -1)))
    # after the degrees there is a last shell, for the remainder
    return torch.stack([harmonics.energy(one[None])[: harmonics.lmax] for one in coordinates]).numpy()


def _scores(one: Comparison) -> Section:
    columns = ("samples", "standard_error", "reference", "held_out")
    head = ("score", *(column.replace("_", " ") for column in columns))
    rows = [[name, *(number(row.get(c, float("nan"))) for c in columns)] for name, row in described_scores(one).items()]
    notes = [f"Reference: {one.reference.label}. {one.real_label and f'Held out: {one.real_label}.'}"]
    return Section(f"{one.plane.name}: mean, spread, spectra", head, rows, notes)


def _extremes(plane: Plane, fields: np.ndarray, real: np.ndarray, table: dict[str, Any]) -> Section:
    quantiles = [np.nanquantile(values, LEVELS) for values in (fields, real)]
    table["quantiles"] = {str(level): (float(a), float(b)) for level, a, b in zip(LEVELS, *quantiles, strict=True)}
    factor, units = shown_units(plane.attrs)
    rows = [
        [f"{100 * level:g} %", number(a * factor), number(b * factor)] for level, a, b in zip(LEVELS, *quantiles, strict=True)
    ]
    head = (f"quantile over all points [{readable(units) or '1'}]", "samples", "reference")
    return Section(f"{plane.name}: extremes", head, rows)


def _patterns(name: str, fields: np.ndarray, real: np.ndarray, weights: np.ndarray, table: dict[str, Any]) -> Section:
    """Variance of the samples along the leading area-weighted EOFs of the reference, relative to that of the reference."""
    mean = np.ma.masked_invalid(real).mean(0).filled(np.nan)
    root = np.sqrt(weights)[:, None]
    ours, theirs = (np.nan_to_num((values - mean) * root).reshape(len(values), -1) for values in (fields, real))
    modes = np.linalg.svd(theirs, full_matrices=False)[2][: min(PATTERNS, len(theirs) - 1)]
    ratio = (ours @ modes.T).var(0, ddof=1) / (theirs @ modes.T).var(0, ddof=1)
    table["pattern_variance_ratio"] = [float(r) for r in ratio]
    error = np.sqrt(2 / (len(ours) - 1) + 2 / (len(theirs) - 1))
    rows = [[str(k + 1), number(float(r))] for k, r in enumerate(ratio)]
    note = (
        f"Samples over reference; the standard error of a ratio of one is {error:.2g}. "
        "Patterns fitted to few fields overstate their own variance."
    )
    return Section(f"{name}: variance of leading patterns", ("EOF of the reference", "ratio"), rows, [note])


def _against_truth(data: MapData, truth: np.ndarray, table: dict[str, Any]) -> Section:
    """Fair CRPS and rank histogram of the truth among the samples, area-weighted."""
    fields = data.fields
    if len(truth) != 1 or truth.shape[1:] != fields.shape[1:]:
        raise ValueError(f"--truth has {truth.shape} for {data.name}; give one field on the samples' grid, {fields.shape[1:]}")
    there = np.isfinite(truth[0]) & np.isfinite(fields).all(0)
    area = np.broadcast_to(data.grid.weights[:, None], there.shape)[there]
    scores = np.full(there.shape, np.nan)
    scores[there] = fair_crps(fields[:, there], truth[0][there])
    shares = rank_shares(fields[:, there], truth[0][there], area)
    error = np.abs(fields[:, there].mean(0) - truth[0][there])
    table["fair_crps"], table["rank_histogram"] = float(np.average(scores[there], weights=area)), shares.tolist()
    factor, units = shown_units(data.attrs)
    words = f"[{readable(units) or '1'}]"
    rows = [
        [f"fair CRPS {words}", number(table["fair_crps"] * factor)],
        [f"mean absolute error {words}", number(float(np.average(error, weights=area)) * factor)],
    ]
    rows += [["truth below all samples", number(float(shares[0]))]]
    rows += [["truth above all samples", number(float(shares[-1]))]]
    note = f"A calibrated ensemble has {1 / (len(fields) + 1):.3g} of the area at each end."
    figures = drawn(against_truth, data, np.where(there, truth[0], np.nan), scores, shares.tolist())
    return Section(f"{data.name}: against the truth", ("score", "value"), rows, [note], figures)


def _nearest(plane: Plane, fields: np.ndarray, training: np.ndarray, real: np.ndarray | None, table: dict[str, Any]) -> Section:
    """Distance of samples, and of real fields, to the nearest training field; memorised samples are nearer than real fields."""
    weights = plane.grid.weights
    spread = float(
        np.sqrt(np.nansum(np.ma.masked_invalid(training).var(0).filled(np.nan) * weights[:, None]) / training.shape[-1])
    )
    rows = []
    for label, values in (("samples", fields), ("reference", real)):
        if values is not None:
            nearest = [_distance(field, training, weights) / spread for field in values]
            table.setdefault("nearest_training", {})[label] = float(np.median(nearest))
            rows.append([label, number(float(np.median(nearest))), number(float(np.min(nearest)))])
    note = "In standard deviations of the training fields. Samples much nearer than real fields are copies of training fields."
    return Section(f"{plane.name}: nearest training field", ("root mean square distance", "median", "smallest"), rows, [note])


def _distance(field: np.ndarray, training: np.ndarray, weights: np.ndarray) -> float:
    square = np.nansum((training - field) ** 2 * weights[:, None], axis=(1, 2)) / training.shape[-1]
    return float(np.sqrt(square.min()))
