"""Verification of posterior samples: at the assimilated observations, at withheld ones, and as maps.

At withheld observations members get errors of their own, drawn from R, so that a calibrated ensemble and the observed value are
exchangeable (Hamill 2001; Fortin et al. 2014).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ...config.observations import ObservationsConfig
from ...data.observations import ObservationTable
from ...gaussian.conditioned import condition, covariance
from ...gaussian.observed import LinearObservations, projected
from ...models.card import load_model
from ...models.model import Model
from ...models.observations.encode import encode
from ...models.observations.pointwise import PointwiseObservations
from ...models.observations.posterior import expected_variance
from ...models.observations.reading import climatology, read_for
from ...models.observations.record import FILE, read_table
from ..drawing.style import drawn
from ..pages import Section, number
from ..planes import chosen, planes_of
from ..scores import fair_crps, rms
from .fields import stacked
from .maps import map_figure

BINS = 10
EXACT = 1e-6  # share of the spread that is used as the error of values without one
LEVELS = (0.5, 0.9)
MOST_DENSE = 5000
MOST_MAPS = 4  # of one variable, of evenly spaced steps and levels if it has more


@dataclass(frozen=True)
class Predicted:
    """Members at observations, with the values observed: `members` [n, m], `noisy` [n, m] with errors, all in physical units."""

    members: np.ndarray
    noisy: np.ndarray
    values: np.ndarray
    std: np.ndarray


def sections_of(
    folder: Path,
    samples: xr.Dataset,
    model_folder: Path,
    config: ObservationsConfig,
    withheld: str | None,
    select: Mapping[str, str],
) -> tuple[list[Section], dict[str, Any]]:
    """Return sections and numbers for a run with observations; with `withheld` also those at withheld observations.

    `select` chooses maps by step and level. Raises ValueError for observations that cannot be read, or are not of the model's
    variables.
    """
    model = load_model(model_folder)
    states = _states(samples, model)
    record: dict[str, Any] = {}
    sections = []
    observations, table = given_observations(folder, model, config, model_folder)
    if isinstance(observations, LinearObservations) and table is not None:
        sections.append(_innovations(observations, table, model, states, record))
    if withheld is not None:
        changes = {"file": withheld, "sha256": None, "operator": None, "score": "auto"}
        other = config.model_copy(update=changes)
        if other.std is None:
            other = other.model_copy(update={"std": EXACT})
        kept, rows = read_for(other, model, str(model_folder))
        assert isinstance(kept, LinearObservations | PointwiseObservations)
        sections.append(_withheld(kept, rows, observations, model, states, record))
    sections.append(_maps(samples, model, table, select))
    return sections, record


def _states(samples: xr.Dataset, model: Model) -> Tensor:
    """The samples as flat states [n, d] float64."""
    fields = {variable.name: np.nan_to_num(stacked(samples, variable)) for variable in model.layout.variables}
    return model.encode(fields).flatten(1).to(torch.float64)


def given_observations(
    folder: Path, model: Model, config: ObservationsConfig, model_folder: Path
) -> tuple[LinearObservations | PointwiseObservations | None, ObservationTable | None]:
    """Return the observations in a run's folder, and their table; no operator for those by a function. Raises ValueError."""
    path = (folder if folder.is_dir() else folder.parent) / FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it is written by `piadm sample --observations`")
    table = read_table(path)
    if config.operator is not None:
        return None, None
    removed = climatology(config, model, str(model_folder)) if config.absolute else None
    return encode(table, model, nearest=config.nearest, cells=config.cells, removed=removed)


def _innovations(
    observations: LinearObservations, table: ObservationTable, model: Model, states: Tensor, record: dict[str, Any]
) -> Section:
    """The distances of the reference, and of the members, from the assimilated observations."""
    reference = model.reference
    before = (observations.values - observations.apply(reference.mean[None])[0]).numpy()
    spread = torch.sqrt(expected_variance(reference, observations)).numpy()
    after = (observations.values - observations.apply(states)).numpy()
    scale = table["std"] / observations.std.numpy()
    found = {
        "observations": len(observations),
        "innovation_rms": rms(before * scale),
        "innovation_mean": float((before * scale).mean()),
        "innovation_normalised_rms": rms(before / spread),
        "residual_rms_of_mean": rms(after.mean(0) * scale),
        "chi_square_per_observation": float((after**2 / observations.std.numpy() ** 2).mean()),
    }
    if len(observations) <= MOST_DENSE:
        found["innovation_chi_square"] = _chi_square(observations, model, before)
    record["given"] = found
    wanted = {"innovation_normalised_rms": "1", "innovation_chi_square": "1", "chi_square_per_observation": "1"}
    rows = [[name.replace("_", " "), number(float(value)), wanted.get(name, "")] for name, value in found.items()]
    notes = [
        "Innovations are observations less the mean of the model's Gaussian; their chi-square is per observation, with all "
        "correlations. The last chi-square is of the members, (y - Hx)^2 over the error's variance; it is 1 on average over "
        "truths, with a standard deviation of about sqrt(2 / observations)."
    ]
    return Section("Given observations", ("statistic", "value", "calibrated"), rows, notes)


def _chi_square(observations: LinearObservations, model: Model, innovation: np.ndarray) -> float:
    reference = model.reference
    predicted = projected(observations, lambda x: covariance(reference, reference.spectrum.to(torch.float64), x))
    factor = torch.linalg.cholesky(predicted + observations.noise_matrix())
    white = torch.linalg.solve_triangular(factor, torch.from_numpy(innovation)[:, None], upper=False)
    return float((white**2).mean())


def predicted(
    observations: LinearObservations | PointwiseObservations, table: ObservationTable, states: Tensor, seed: int = 0
) -> Predicted:
    """Return the members at observations, with and without errors drawn from `seed`."""
    scale = table["std"] / observations.std.numpy()
    members = observations.apply(states)
    generator = torch.Generator().manual_seed(seed)
    white, shared = (torch.randn(members.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    noisy = members + observations.errors(white, shared)
    values = observations.values.numpy() * scale
    return Predicted(members.numpy() * scale, noisy.numpy() * scale, values, table["std"])


def ensemble_scores(ensemble: Predicted) -> dict[str, Any]:
    """Return fair CRPS, spread over skill, rank histogram with its chi-square, and the coverage of central intervals.

    Intervals end at the quantiles k / (n + 1) of the n members, between which a calibrated value lies with their nominal
    probability; intervals that n members cannot resolve are left out.
    """
    members, noisy, values = ensemble.members, ensemble.noisy, ensemble.values
    n = len(members)
    error = members.mean(0) - values
    spread = members.var(0, ddof=1) * (n + 1) / n + ensemble.std**2
    found: dict[str, Any] = {
        "observations": len(values),
        "fair_crps": float(fair_crps(noisy, values).mean()),
        "rmse_of_mean": rms(error),
        "spread_over_skill": float(np.sqrt(spread.mean()) / rms(error)),
    }
    for level in LEVELS:
        if n >= 2 / (1 - level) - 1:
            ends = np.quantile(noisy, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
            found[f"coverage_{round(100 * level)}"] = float(((values >= ends[0]) & (values <= ends[1])).mean())
    ranks = (noisy < values).sum(0)
    counts, expected = _binned(ranks, n)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    p = torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), torch.tensor(statistic / 2).double())
    return found | {"rank_histogram": (counts / counts.sum()).tolist(), "rank_chi_square": statistic, "rank_p_value": float(p)}


def gaussian_crps(mean: np.ndarray, std: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the CRPS [m] of N(mean, std^2) at values [m] (Gneiting and Raftery 2007, eq. 21)."""
    z = (values - mean) / std
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = torch.special.ndtr(torch.from_numpy(z)).numpy()
    return np.asarray(std * (z * (2 * cumulative - 1) + 2 * density - 1 / math.sqrt(math.pi)))


def _binned(ranks: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of ranks 0 .. n in at most BINS bins of nearly equal size, and the counts expected."""
    bins = min(BINS, n + 1)
    which = np.arange(n + 1) * bins // (n + 1)
    counts = np.bincount(which[ranks], minlength=bins).astype(np.float64)
    return counts, np.bincount(which) * len(ranks) / (n + 1)


def _withheld(
    kept: LinearObservations | PointwiseObservations, rows: ObservationTable,
    given: LinearObservations | PointwiseObservations | None, model: Model, states: Tensor, record: dict[str, Any],
) -> Section:  # fmt: skip
    """Scores at withheld observations, beside those of the model's Gaussian, alone and given the same observations.

    Values of variables that the model transforms have no Gaussian for comparison.
    """
    ensemble = predicted(kept, rows, states)
    found = ensemble_scores(ensemble)
    columns: dict[str, Mapping[str, Any]] = {"samples": found}
    if isinstance(kept, LinearObservations):
        if isinstance(given, LinearObservations):
            columns["optimal interpolation"] = _of_gaussian(kept, rows, condition(model.reference, given), ensemble.values)
        columns["climatology"] = _of_gaussian(kept, rows, model.reference, ensemble.values)
    record["withheld"] = {name.replace(" ", "_"): dict(values) for name, values in columns.items()}
    wanted = {"spread_over_skill": "1", "coverage_50": "0.5", "coverage_90": "0.9", "rank_p_value": "above 0.01"}
    names = [name for name in found if name != "rank_histogram"]
    body = [
        [name.replace("_", " "), *(number(float(c[name])) if name in c else "-" for c in columns.values()), wanted.get(name, "")]
        for name in names
    ]
    notes = [
        "Optimal interpolation is the model's Gaussian given the same observations, climatology the same Gaussian without them. "
        "Observations near each other err alike, so the p-value of the rank histogram is too small where they are dense.",
        f"Rank histogram: {', '.join(f'{share:.3f}' for share in found['rank_histogram'])}.",
    ]
    return Section("Withheld observations", ("score", *columns, "calibrated"), body, notes)


def _of_gaussian(kept: LinearObservations, rows: ObservationTable, reference: Any, values: np.ndarray) -> dict[str, Any]:
    """The scores that a Gaussian has in closed form."""
    scale = rows["std"] / kept.std.numpy()
    mean = kept.apply(reference.mean[None])[0].numpy() * scale
    std = torch.sqrt(expected_variance(reference, kept)).numpy() * scale
    error = mean - values
    found = {"fair_crps": float(gaussian_crps(mean, std, values).mean()), "rmse_of_mean": rms(error)}
    found["spread_over_skill"] = float(np.sqrt((std**2).mean()) / rms(error))
    for level in LEVELS:
        reach = math.sqrt(2) * float(torch.special.erfinv(torch.tensor(level, dtype=torch.float64)))
        found[f"coverage_{round(100 * level)}"] = float((np.abs(error) <= reach * std).mean())
    return found


def _maps(samples: xr.Dataset, model: Model, table: ObservationTable | None, select: Mapping[str, str]) -> Section:
    """Mean, spread and increment of every variable, at some of its steps and levels, and their sizes."""
    before = model.decode(model.reference.mean.reshape(1, *model.event_shape).to(torch.float32))
    rows: list[list[str]] = []
    figures: list[Any] = []
    planes, left_out = chosen(planes_of(samples, model.layout.variables, steps=True)[0], select, MOST_MAPS)
    dims = {variable.name: variable.dims for variable in model.layout.variables}
    for plane in planes:
        fields = plane.samples(samples).astype(np.float64)
        own = xr.DataArray(before[plane.variable][0], dims=dims[plane.variable]).isel(plane.at).transpose(*plane.grid.dims)
        mean = fields.mean(0)
        maps = {"mean": mean, "spread": fields.std(0, ddof=1), "increment": mean - own.values.reshape(mean.shape)}
        weights = np.broadcast_to(plane.grid.weights[:, None], mean.shape)
        sizes = [_weighted_rms(maps[name], weights) for name in ("spread", "increment")]
        rows.append([plane.name, *(number(size) for size in sizes)])
        attrs = {**plane.attrs, "long_name": plane.title} if plane.at else plane.attrs
        figures += drawn(map_figure, maps, plane.grid, plane.variable, attrs, table)
    notes = [
        "Spread and increment are root mean squares over the area; the increment is the mean less the model's own.",
        *left_out,
    ]
    return Section("Maps", ("variable", "spread", "increment"), rows, notes, figures)


def _weighted_rms(field: np.ndarray, weights: np.ndarray) -> float:
    there = np.isfinite(field)
    return float(np.sqrt(np.average(field[there] ** 2, weights=weights[there])))
