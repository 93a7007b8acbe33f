"""Verification of gridded fields as sections of a report, beyond the scores of `piadm report`.

The sections are spectra by degree of spherical harmonics, variances of the reference's leading patterns, extremes, and the
distance to the nearest training field; with a true field also its rank histogram and fair CRPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from ...schema.layout import Variable
from ...theory.bases import SphericalHarmonics
from ..comparison import Comparison, as_record
from ..pages import Section, number
from ..scores import row_weights

Fields = Mapping[str, np.ndarray]
"""Real fields [n, lat, lon] by variable, on the samples' grid."""

PATTERNS = 8
LEVELS = (0.001, 0.01, 0.5, 0.99, 0.999)
SHOWN_DEGREES = (1, 2, 4, 8, 16, 32)


def sections_of(
    samples: xr.Dataset,
    variables: tuple[Variable, ...],
    compared: list[Comparison],
    real: Fields | None,
    truth: Fields | None,
    training: Fields | None,
) -> tuple[list[Section], dict[str, Any]]:
    """Sections and numbers for every variable; a note names the inputs that were not given."""
    sections, record = [_scores(one) for one in compared], {one.plane.name: as_record(one) for one in compared}
    for variable in variables:
        fields = stacked(samples, variable)
        weights = row_weights(samples, variable.dims[0])
        table: dict[str, Any] = {}
        if real is not None:
            reference = real[variable.name]
            sections.append(_extremes(variable.name, fields, reference, table))
            sections.append(_patterns(variable.name, fields, reference, weights, table))
            if _global(samples, variable):
                sections.append(_degrees(variable.name, fields, reference, samples[variable.dims[0]].values, table))
        if truth is not None:
            sections.append(_against_truth(variable.name, fields, truth[variable.name], weights, table))
        if training is not None:
            others = None if real is None else real[variable.name]
            sections.append(_nearest(variable.name, fields, training[variable.name], others, weights, table))
        record.setdefault(variable.name, {}).update(table)
    left_out = [what for what, given in (("--against", real), ("--truth", truth), ("--training", training)) if given is None]
    if left_out:
        sections.append(Section("Not compared", notes=[f"For more, give files of fields: {', '.join(left_out)}."]))
    return sections, record


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


def _global(dataset: xr.Dataset, variable: Variable) -> bool:
    lat = dataset[variable.dims[0]].values
    whole = bool(np.isfinite(stacked(dataset, variable)[0]).all())
    return whole and bool(np.abs(lat).max() <= 90 and np.ptp(lat) > 150)


def _scores(one: Comparison) -> Section:
    columns = ("samples", "standard_error", "reference", "held_out")
    rows = [[name, *(number(row.get(c, float("nan"))) for c in columns)] for name, row in one.rows().items()]
    notes = [f"Reference: {one.reference.label}. {one.real_label and f'Held out: {one.real_label}.'}"]
    return Section(f"{one.plane.name}: mean, spread, zonal spectra", ("score", *columns), rows, notes)


def _extremes(name: str, fields: np.ndarray, real: np.ndarray, table: dict[str, Any]) -> Section:
    quantiles = [np.nanquantile(values, LEVELS) for values in (fields, real)]
    table["quantiles"] = {str(level): (float(a), float(b)) for level, a, b in zip(LEVELS, *quantiles, strict=True)}
    rows = [[f"{100 * level:g} %", number(a), number(b)] for level, a, b in zip(LEVELS, *quantiles, strict=True)]
    return Section(f"{name}: extremes", ("quantile over all points", "samples", "reference"), rows)


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


def _degrees(name: str, fields: np.ndarray, real: np.ndarray, lat: np.ndarray, table: dict[str, Any]) -> Section:
    nlat, nlon = fields.shape[1:]
    harmonics = SphericalHarmonics(nlat, nlon, min(nlat, nlon // 2), lat.tolist(), area_weighted=False)
    power = []
    for values in (fields, real):
        deviations = torch.from_numpy((values - real.mean(0)).reshape(len(values), -1))
        power.append(harmonics.energy(harmonics.analyse(deviations)).numpy())
    ratio = power[0] / np.maximum(power[1], 1e-300)
    table["degree_power_ratio"] = [float(r) for r in ratio[: harmonics.lmax]]
    rows = [[str(k), number(float(ratio[k]))] for k in SHOWN_DEGREES if k < harmonics.lmax]
    return Section(f"{name}: power per degree on the sphere", ("degree", "samples over reference"), rows)


def _against_truth(name: str, fields: np.ndarray, truth: np.ndarray, weights: np.ndarray, table: dict[str, Any]) -> Section:
    """Fair CRPS and rank histogram of the truth among the samples, area-weighted."""
    try:
        import scoringrules
    except ImportError:
        raise ValueError("CRPS needs scoringrules: pip install 'piadm_hpc[verify]'") from None
    if len(truth) != 1 or truth.shape[1:] != fields.shape[1:]:
        raise ValueError(f"--truth has {truth.shape} for {name}; give one field on the samples' grid, {fields.shape[1:]}")
    there = np.isfinite(truth[0]) & np.isfinite(fields).all(0)
    area = np.broadcast_to(weights[:, None], there.shape)[there]
    scores = scoringrules.crps_ensemble(truth[0][there], fields[:, there], m_axis=0, estimator="fair")
    ranks = (fields[:, there] < truth[0][there]).sum(0)
    counts = np.bincount(ranks, weights=area, minlength=len(fields) + 1)
    error = np.abs(fields[:, there].mean(0) - truth[0][there])
    table["fair_crps"], table["rank_histogram"] = float(np.average(scores, weights=area)), (counts / counts.sum()).tolist()
    rows = [["fair CRPS", number(table["fair_crps"])], ["mean absolute error", number(float(np.average(error, weights=area)))]]
    rows += [["truth below all samples", number(float(counts[0] / counts.sum()))]]
    rows += [["truth above all samples", number(float(counts[-1] / counts.sum()))]]
    note = f"A calibrated ensemble has {1 / (len(fields) + 1):.3g} of the area at each end."
    return Section(f"{name}: against the truth", ("score", "value"), rows, [note])


def _nearest(
    name: str, fields: np.ndarray, training: np.ndarray, real: np.ndarray | None, weights: np.ndarray, table: dict[str, Any]
) -> Section:
    """Distance of samples, and of real fields, to the nearest training field; memorised samples are nearer than real fields."""
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
    return Section(f"{name}: nearest training field", ("root mean square distance", "median", "smallest"), rows, [note])


def _distance(field: np.ndarray, training: np.ndarray, weights: np.ndarray) -> float:
    square = np.nansum((training - field) ** 2 * weights[:, None], axis=(1, 2)) / training.shape[-1]
    return float(np.sqrt(square.min()))
