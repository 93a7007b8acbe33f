"""Samples of Gaussian references compared with fields, those of the fit and held-out ones: spread, spectrum, likelihood.

With --model, samples of a network that was trained on the same fields are compared as well.

python benchmarks/fields.py data/ersst/sst.mnmean.nc --variable sst --json fields.json
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from common import Aim, Report, at_least, at_most, between, parser
from scipy.ndimage import gaussian_filter

from piadm_hpc.config.run import RunConfig
from piadm_hpc.data.gridded import DataConfig, GriddedData, read_fields
from piadm_hpc.data.power import zonal_power
from piadm_hpc.gaussian.masked import log_likelihood
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.card import Model, load_model
from piadm_hpc.models.config import ReferenceConfig, TrainConfig
from piadm_hpc.models.denoiser import DenoiserScore
from piadm_hpc.models.training.fields import angles_of, grid_of, train
from piadm_hpc.models.training.fitting import fit_reference
from piadm_hpc.run.resolve import make_sampler

BASES = ("smooth", "eof")

SHARES = {"validation_fraction": 0.1, "test_fraction": 0.1}

BANDS = {"1-5": slice(1, 6), "6-20": slice(6, 21), "21 up": slice(21, None)}


def fitted(data: GriddedData, basis: str) -> GaussianReference:
    """The reference of the data in a basis."""
    mask = data.normalisation.state_mask()
    config = ReferenceConfig.model_validate({"basis": basis})
    return fit_reference(data.train, data.validation, config, mask=mask, grid=grid_of(data), **angles_of(data))


def compared(data: GriddedData, drawn: torch.Tensor, states: torch.Tensor) -> dict[str, float]:
    """Ratios of samples to data, weighted by area: standard deviation and zonal power; and the correlation of their patterns."""
    name = data.normalisation.names[0]
    ours, theirs = (data.normalisation.decode(x)[name].astype(np.float64) for x in (drawn, states))
    area = np.cos(np.deg2rad(next(iter(data.coordinates.values())).values)).clip(min=0)
    spread = [fields.std(0) for fields in (ours, theirs)]
    there = np.isfinite(spread[1])
    weight = np.broadcast_to(area[:, None], there.shape)[there]
    a, b = (field[there] for field in spread)
    rows = {"std": float(np.sqrt((weight * a**2).sum() / (weight * b**2).sum()))}
    apart = [field - np.average(field, weights=weight) for field in (a, b)]
    products = [[float((weight * u * v).sum()) for u in apart] for v in apart]
    rows["pattern"] = products[0][1] / float(np.sqrt(products[0][0] * products[1][1]))
    power = [zonal_power(np.nan_to_num(fields - fields.mean(0)), area) for fields in (ours, theirs)]
    return rows | {
        f"power {band}": float(power[0][k].sum() / power[1][k].sum()) for band, k in BANDS.items() if power[1][k].sum() > 0
    }


def made_up(folder: Path) -> Path:
    """A small file of smooth fields with land, for the quick run."""
    generator = np.random.default_rng(0)
    fields = gaussian_filter(generator.normal(size=(40, 12, 24)), (0, 1.5, 1.5), mode=("nearest", "nearest", "wrap"))
    fields[:, 4:7, 8:12] = np.nan
    axes = {
        "time": xr.date_range("2000-01-01", periods=40, freq="MS"),
        "lat": np.linspace(-55, 55, 12),
        "lon": np.arange(24) * 15.0,
    }
    path = folder / "fields.nc"
    xr.Dataset({"sst": (("time", "lat", "lon"), fields)}, axes).to_netcdf(path)
    return path


def last_months(file: Path, variable: str, anomaly: str) -> GriddedData:
    """The fields of a file; the last tenth is held out for tests, the tenth before for validation."""
    config = {"files": [str(file)], "variables": [variable], "anomaly": anomaly, **SHARES}
    return read_fields(DataConfig.model_validate(config))


def spread_months(file: Path, variable: str, anomaly: str, folder: Path) -> GriddedData:
    """The same; every tenth month is held out for tests and every tenth for validation, over all years of the file."""
    with xr.open_dataset(file) as dataset:
        place = np.arange(dataset.sizes["time"]) % 10
        parts = {"validation": place == 7, "test": place == 2, "train": ~np.isin(place, (2, 7))}
        for name, chosen in parts.items():
            dataset[[variable]].isel(time=np.flatnonzero(chosen)).drop_encoding().to_netcdf(folder / f"{name}.nc")
    held = {f"{name}_files": [f"{name}.nc"] for name in ("validation", "test")}
    config = {"files": [str(folder / f"{name}.nc") for name in parts], "variables": [variable], "anomaly": anomaly, **held}
    return read_fields(DataConfig.model_validate(config))


def row(data: GriddedData, basis: str, samples: int) -> dict[str, float]:
    """One basis: its samples against the data, its likelihood per point, and the cost of its fit."""
    began = time.process_time()
    reference = fitted(data, basis)
    seconds = time.process_time() - began
    found = compared(data, draws(reference, samples), data.train)
    entries = int(data.normalisation.mask.sum())
    found |= {part: log_likelihood(reference, getattr(data, part).double()) / entries for part in ("validation", "test")}
    return found | {"seconds": seconds, "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def draws(reference: GaussianReference, samples: int) -> torch.Tensor:
    """Samples [samples, *event] of a reference."""
    white = torch.randn(samples, *reference.event_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return reference.draw(white, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))


def held_out(data: GriddedData, samples: int) -> dict[str, dict[str, float]]:
    """Samples, and the fields of the fit themselves, against all fields that were held out."""
    held = torch.cat([data.validation, data.test])
    return {
        "samples": compared(data, draws(fitted(data, "smooth"), samples), held),
        "training fields": compared(data, data.train, held),
    }


def small_network(file: Path, variable: str, anomaly: str) -> Path:
    """A model of a network that has hardly been trained, for the quick run."""
    record = {
        "name": "network",
        "output": str(file.with_name("network")),
        "data": {"files": [str(file)], "variables": [variable], "anomaly": anomaly, **SHARES},
        "network": {"width": 4, "multipliers": [1], "embedding": 8, "static_maps": 0},
        "optimiser": {"steps": 5, "validate_every": 5},
    }
    return train(TrainConfig.model_validate(record), report=lambda line: None)


def network_rows(data: GriddedData, model: Model, samples: int) -> dict[str, dict[str, float]]:
    """Samples of a network, and of its Gaussian alone with the same chain and noise, against the fields of the fit."""
    wiener = model.wiener()
    models = {"network": model, "its Gaussian alone": replace(model, denoiser=wiener, score=DenoiserScore(wiener))}
    rows = {}
    for name, each in models.items():
        drawn = make_sampler(RunConfig(model=model.name), each).draw(range(samples)).x
        # through physical units: the model may have been scaled otherwise
        rows[name] = compared(data, data.normalisation.encode(each.decode(drawn)), data.train)
    return rows


def never_worse(rows: Mapping[str, Mapping[str, float]]) -> list[Aim]:
    """How much farther from the data a network is than its Gaussian, at most 0.05 in every row, the noise of 50 samples."""
    ours, alone = rows.values()
    farther = {name: abs(math.log(ours[name])) - abs(math.log(alone[name])) for name in ours}
    return [at_most(f"{name}, network farther off than its Gaussian by", value, 0.05) for name, value in farther.items()]


def correlations(samples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of three variables on 24 x 40 points, of 102 fields with a power law and of samples of their Gaussian."""
    wave = np.hypot(*np.meshgrid(np.fft.fftfreq(24), np.fft.fftfreq(40), indexing="ij"))
    root = np.linalg.cholesky([[1, 0.8, -0.3], [0.8, 1, 0.2], [-0.3, 0.2, 1]])
    white = np.einsum("uv,nvyx->nuyx", root, generator.normal(size=(102, 3, 24, 40)))
    fields = torch.from_numpy(np.fft.ifft2(np.fft.fft2(white) / (1 + (wave / 0.06) ** 2)).real)
    fields = fields / fields.std((0, 2, 3), keepdim=True)
    reference = fit_reference(fields, fields[:0], ReferenceConfig(basis="smooth"))
    found = [np.corrcoef(np.moveaxis(x.numpy(), 1, 0).reshape(3, -1)) for x in (fields, draws(reference, samples))]
    return found[0], found[1]


def add(report: Report, title: str, first: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Add a table with a named row for every mapping."""
    columns = [first, *next(iter(rows.values()))]
    report.add(title, columns, [[name, *cells.values()] for name, cells in rows.items()])


def shape(found: Mapping[str, float], of: str) -> list[Aim]:
    """What samples should be over fields: spread, its pattern, and the power of every band."""
    bands = [between(f"power {band}, {of}", found[f"power {band}"], 0.8, 1.25) for band in BANDS if f"power {band}" in found]
    spread = between(f"standard deviation, {of}", found["std"], 0.95, 1.05)
    return [spread, at_least(f"pattern correlation, {of}", found["pattern"], 0.97), *bands]


def main() -> int:
    """Print a row for every basis, and the limits on the rows."""
    options = parser(__doc__ or "")
    options.add_argument("file", nargs="?", type=Path, help="fields over latitude and longitude; without them only --quick runs")
    options.add_argument("--variable", default="sst")
    options.add_argument("--anomaly", default="monthly", choices=["none", "mean", "monthly"])
    options.add_argument("--samples", type=int, default=50)
    options.add_argument("--model", type=Path, help="a model folder trained on the same fields, the last two tenths held out")
    given = options.parse_args()
    if given.file is None and not given.quick:
        options.error("give a file of fields, or --quick")
    torch.set_num_threads(1)
    report = Report("fields")
    with tempfile.TemporaryDirectory() as folder:
        file = given.file or made_up(Path(folder))
        data = last_months(file, given.variable, given.anomaly)
        spread = spread_months(file, given.variable, given.anomaly, Path(folder))
        chosen = given.model or (small_network(file, given.variable, given.anomaly) if given.quick else None)
        model = None if chosen is None else load_model(chosen)
    rows = {basis: row(data, basis, given.samples) for basis in BASES}
    add(report, "Samples over data, and log-likelihood a point", "basis", rows)
    if model is not None:
        trained = network_rows(data, model, given.samples)
        add(report, "Samples of the network over data", "model", trained)
        report.aims += never_worse(trained)
    held = held_out(spread, given.samples)
    add(report, "Over held-out months of all years", "fields", held)
    pairs = correlations(1000, np.random.default_rng(0))
    apart = float(np.abs(pairs[0] - pairs[1]).max())
    smooth = rows["smooth"]
    if given.quick:
        report.aims.append(between("standard deviation", smooth["std"], 0.5, 2.0))
    else:
        report.aims += [*shape(smooth, "fields of the fit"), *shape(held["samples"], "held-out fields")]
        report.aims += [at_least(f"log-likelihood, {p}", smooth[p], rows["eof"][p]) for p in ("validation", "test")]
        report.aims += [at_most("seconds", smooth["seconds"], 60), at_most("peak GiB", smooth["peak GiB"], 2)]
    report.aims.append(at_most("correlations of three variables, apart from the data's", apart, 0.03))
    return report.finish(given.json)


if __name__ == "__main__":
    sys.exit(main())
