"""Posterior sampling of the shipped climate model given stations: rounds, calibration, and scores compared with other methods.

    python benchmarks/posterior.py                      twin experiment: truths are the model's own samples
    python benchmarks/posterior.py --data FILE.nc       fields of TREFHT(time, lat, lon) that the model was not trained on

Stations are drawn by area, and their observations have errors of 0.5 K. Scores are means by area over all other grid points,
against the true field. Optimal interpolation is the closed form of the model's Gaussian given the same stations. SDA and DPS use
the same network, step by step from noise, with a derivative of the network in every step.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from common import Report, at_least, at_most, between, parser
from torch import Tensor

from piadm_hpc import RunConfig, integrators, load_model
from piadm_hpc.analysis.scores import fair_crps
from piadm_hpc.analysis.verify.posterior import gaussian_crps
from piadm_hpc.gaussian.conditioned import covariance
from piadm_hpc.gaussian.observed import LinearObservations, projected
from piadm_hpc.models.model import Model
from piadm_hpc.models.observations.scores import GuidedScore
from piadm_hpc.run.resolve import ResolvedRun, resolve
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.theory import grid

MODEL, NOISE = "ccsm-temperature", 0.5
SCORES = ("CRPS [K]", "RMSE of mean [K]", "spread / skill", "in 50 %", "in 90 %", "rounds", "calls", "CPU s a member")


@dataclass(frozen=True)
class Case:
    """A true field with stations: the field [d] in K, the grid points of stations, and the run given their observations."""

    number: int
    truth: np.ndarray
    stations: np.ndarray
    run: ResolvedRun

    @property
    def observations(self) -> LinearObservations:
        assert self.run.given is not None and isinstance(self.run.given.posterior.observations, LinearObservations)
        return self.run.given.posterior.observations

    @property
    def others(self) -> np.ndarray:
        """Where the truth is compared: at all grid points without a station."""
        apart = np.ones(len(self.truth), dtype=bool)
        apart[self.stations] = False
        return apart


def truths(data: str | None, years: list[int], model: Model) -> list[np.ndarray]:
    """True fields, flat, in K: of a file, or samples of the model."""
    if data is not None:
        with xr.open_dataset(data, decode_times=False) as file:
            return [file.TREFHT.isel(time=year).values.astype(np.float64).ravel() for year in years]
    run = resolve(RunConfig(model=MODEL, seed=99, chain={"eta": 0.0}), model)
    fields = model.decode(run.sampler.draw(years).x)["TREFHT"]
    return [field.astype(np.float64).ravel() for field in fields]


def case(model: Model, truth: np.ndarray, count: int, number: int, folder: Path, **settings: Any) -> Case:
    """Draw stations by area, observe the truth there with errors, and resolve the run given these observations."""
    lat, lon = (model.layout.coordinates[dim].values for dim in ("lat", "lon"))
    area = np.repeat(np.cos(np.deg2rad(lat)), len(lon))
    generator = np.random.default_rng(1000 * count + number)
    stations = generator.choice(len(area), size=count, replace=False, p=area / area.sum())
    rows, columns = np.divmod(stations, len(lon))
    table = xr.Dataset(
        {
            "lat": ("station", lat[rows].astype(np.float64)),
            "lon": ("station", lon[columns].astype(np.float64)),
            "value": ("station", truth[stations] + NOISE * generator.standard_normal(count), {"units": "K"}),
            "std": ("station", np.full(count, NOISE)),
        }
    )
    path = folder / f"stations-{count}-{number}.nc"
    table.to_netcdf(path)
    config = RunConfig(model=MODEL, observations={"file": str(path)}, **settings)
    return Case(number, truth, stations, resolve(config, model))


def scores(members: np.ndarray, one: Case, area: np.ndarray) -> dict[str, float]:
    """Scores of members [n, d] in K at the points without stations."""
    others, n = one.others, len(members)
    fields, truth, weights = members[:, others], one.truth[others], area[others] / area[others].sum()
    skill = float(weights @ (fields.mean(0) - truth) ** 2)
    spread = float(weights @ fields.var(0, ddof=1)) * (n + 1) / n
    found = {"crps": float(weights @ fair_crps(fields, truth)), "skill": skill, "spread": spread}
    for level in (0.5, 0.9):
        low, high = np.quantile(fields, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
        found[f"cover{level}"] = float(weights @ ((truth >= low) & (truth <= high)))
    return found


def drawn(one: Case, sampler: Sampler, members: int, model: Model, area: np.ndarray, *, finish: bool) -> dict[str, float]:
    """Draw members, score them and measure their cost."""
    start = time.process_time()
    solution = sampler.draw(list(range(members)))
    states = one.run.finished(solution.x) if finish else solution.x
    spent = time.process_time() - start
    fields = model.decode(states)["TREFHT"].reshape(members, -1).astype(np.float64)
    cost = {"rounds": float(solution.rounds.double().median()), "calls": float(solution.calls.double().mean())}
    bad = float((~solution.converged).sum())
    return scores(fields, one, area) | cost | {"seconds": spent / members, "not converged": bad}


def interpolated(one: Case, prior: Tensor, model: Model, area: np.ndarray) -> dict[str, float]:
    """Scores of optimal interpolation, in closed form, from the prior's variance [d] at every point."""
    reference, observations = model.reference, one.observations
    spectrum = reference.spectrum.to(torch.float64)
    seen = projected(observations, lambda x: covariance(reference, spectrum, x)) + observations.noise_matrix()
    factor = torch.linalg.cholesky(seen)
    columns = covariance(reference, spectrum, observations.adjoint(torch.eye(len(observations), dtype=torch.float64)))
    half = torch.linalg.solve_triangular(factor, columns, upper=False)
    innovation = observations.values - observations.apply(reference.mean[None])[0]
    mean = reference.mean + half.T @ torch.linalg.solve_triangular(factor, innovation[:, None], upper=False)[:, 0]
    zero, unit = (model.decode(torch.full((1, *model.event_shape), level))["TREFHT"] for level in (0.0, 1.0))
    std = torch.sqrt((prior - (half**2).sum(0)).clamp(min=0)).numpy() * (unit - zero).ravel()
    field = model.decode(mean.reshape(1, *model.event_shape).to(torch.float32))["TREFHT"].ravel().astype(np.float64)
    others, error = one.others, field - one.truth
    weights = area[others] / area[others].sum()
    found = {"crps": float(weights @ gaussian_crps(field[others], std[others], one.truth[others]))}
    found |= {"skill": float(weights @ error[others] ** 2), "spread": float(weights @ std[others] ** 2)}
    return found | {f"cover{p}": float(weights @ (np.abs(error) <= z * std)[others]) for p, z in ((0.5, 0.6745), (0.9, 1.6449))}


def prior_variance(model: Model) -> Tensor:
    """The variance of the model's Gaussian at every entry of a state, [d]."""
    reference, parts = model.reference, []
    root = reference.basis.expand(torch.sqrt(reference.spectrum.to(torch.float64)))
    d = len(reference.mean)
    for start in range(0, d, 256):
        unit = torch.zeros(256, d, dtype=torch.float64)
        unit[torch.arange(256), torch.arange(start, start + 256)] = 1
        parts.append((reference.basis.synthesise(root * reference.basis.analyse(unit)) ** 2).sum(-1))
    return torch.cat(parts)


def guided(one: Case, model: Model, kind: str, gamma: float, steps: int) -> Sampler:
    """A guided sampler of another kind: ancestral sampling step by step, from noise."""
    assert model.denoiser is not None
    made = grid.log_snr(model.process, steps, horizon=model.horizon, delta=model.delta)
    score = GuidedScore(model.denoiser, model.process, one.observations, kind, gamma)  # type: ignore[arg-type]
    options = Options(solver="sequential", model_batch=16)
    chain = integrators.ddim(model.process, made, eta=1.0)
    return Sampler(chain, score, model.event_shape, 0, options, prior=model.reference)


def summary(rows: list[dict[str, float]]) -> list[Any]:
    """One line of the table from the scores of several cases."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    ratio = (mean["spread"] / mean["skill"]) ** 0.5
    costs = [mean.get(key, float("nan")) for key in ("rounds", "calls", "seconds")]
    return [mean["crps"], mean["skill"] ** 0.5, ratio, mean["cover0.5"], mean["cover0.9"], *costs]


def bootstrap(ours: list[dict[str, float]], theirs: list[dict[str, float]], draws: int = 2000) -> tuple[float, float, float]:
    """How much lower this package's CRPS is than another method's, as a share, with quantiles (5, 95 %) over resampled fields."""
    pairs = np.array([[a["crps"], b["crps"]] for a, b in zip(ours, theirs, strict=True)])
    generator = np.random.default_rng(0)
    which = generator.integers(0, len(pairs), size=(draws, len(pairs)))
    shares = 1 - pairs[which, 0].sum(1) / pairs[which, 1].sum(1)
    low, high = np.quantile(shares, [0.05, 0.95])
    return float(1 - pairs[:, 0].sum() / pairs[:, 1].sum()), float(low), float(high)


def measured(options: Any, model: Model, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Scores of every method, number of stations and field, in the order in which they are found."""
    area = np.repeat(np.cos(np.deg2rad(model.layout.coordinates["lat"].values)), len(model.layout.coordinates["lon"].values))
    settings: dict[str, Any] = {"chain": {"eta": options.eta}}
    if options.solver is not None:
        settings["solver"] = {"kind": options.solver}
    prior, fields = prior_variance(model), truths(options.data, options.years, model)
    for number, truth in enumerate(fields):
        plain = resolve(RunConfig(model=MODEL, **settings), model)
        first = case(model, truth, options.stations[0], number, folder, **settings)
        if number == 0:
            yield "unconditional", drawn(first, plain.sampler, options.members, model, area, finish=False)
        for count in options.stations:
            one = case(model, truth, count, number, folder, **settings)
            yield f"optimal interpolation, {count}", interpolated(one, prior, model, area)
            yield f"posterior, {count}", drawn(one, one.run.sampler, options.members, model, area, finish=True)
            if count == options.compare and number < options.compared:
                for label, kind, gamma in (("SDA 0.1", "sda", 0.1), ("DPS", "dps", 0.0)):
                    other = guided(one, model, kind, gamma, options.steps)
                    yield f"{label}, {count}", drawn(one, other, options.few, model, area, finish=False)


def aims(report: Report, found: dict[str, list[dict[str, float]]], stations: list[int], members: int) -> None:
    usual = found["unconditional"][0]["rounds"]
    for count in stations:
        ours, theirs = found[f"posterior, {count}"], found[f"optimal interpolation, {count}"]
        line = summary(ours)
        report.aims.append(at_most(f"rounds beyond the unconditional {usual:g}, {count} stations", line[5] - usual, 1))
        if len(ours) < 4 or members < 19:
            continue
        share, low, _ = bootstrap(ours, theirs)
        report.aims.append(at_least(f"CRPS below optimal interpolation, {count} stations", share, 0.02))
        report.aims.append(at_least(f"the same, 5 % quantile over fields, {count} stations", low, 0.0))
        report.aims.append(between(f"spread over skill, {count} stations", line[2], 0.9, 1.1))
        report.aims.append(between(f"coverage of 90 % intervals, {count} stations", line[4], 0.87, 0.93))


def main() -> int:
    options = parser(str(__doc__))
    options.add_argument("--data", metavar="FILE", help="fields of TREFHT(time, lat, lon) in K; by default samples of the model")
    options.add_argument("--years", type=int, nargs="+", default=[5, 18, 31, 44, 57, 70, 83, 96], help="their positions in time")
    options.add_argument("--stations", type=int, nargs="+", default=[50, 200, 1000])
    options.add_argument("--members", type=int, default=20)
    options.add_argument("--compare", type=int, default=200, help="stations with which SDA and DPS are drawn")
    options.add_argument("--compared", type=int, default=2, help="fields for which SDA and DPS are drawn")
    options.add_argument("--few", type=int, default=8, help="members of SDA and DPS")
    options.add_argument("--steps", type=int, default=256, help="their steps")
    options.add_argument("--eta", type=float, default=0.0, help="0 for the flow, 1 for the reverse SDE")
    options.add_argument("--solver", choices=("sequential", "picard"), help="step by step, or sweeps, of the SDE")
    options.add_argument("--lines", metavar="FILE", help="append every result as a line of JSON as it is found")
    given = options.parse_args()
    if given.quick:
        given.years, given.stations, given.compare, given.compared = [5], [20], 20, 1
        given.members, given.few, given.steps = 2, 2, 4
    torch.set_num_threads(1)
    model, found = load_model(MODEL), dict[str, list[dict[str, float]]]()
    with tempfile.TemporaryDirectory() as folder:
        for name, line in measured(given, model, Path(folder)):
            found.setdefault(name, []).append(line)
            if given.lines is not None:
                with open(given.lines, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": name, **line}) + "\n")
    report = Report("posterior")
    names = sorted(found, key=lambda name: (int(name.rpartition(",")[2]) if "," in name else 0, name))
    lines = [[name, *summary(found[name])] for name in names]
    report.add(f"{len(given.years)} fields, {given.members} members", ("method", *SCORES), lines)
    aims(report, found, given.stations, given.members)
    return report.finish(given.json)


if __name__ == "__main__":
    sys.exit(main())
