"""Samples of Gaussian references compared with the fields that they were fitted to: spread, spectrum, held-out likelihood.

python benchmarks/fields.py data/ersst/sst.mnmean.nc --variable sst --out fields.json
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from common import Report, at_least, at_most, between, parser
from scipy.ndimage import gaussian_filter

from piadm_hpc.data.geometry import places_of
from piadm_hpc.data.gridded import DataConfig, GriddedData, read_fields
from piadm_hpc.data.power import zonal_power
from piadm_hpc.gaussian.masked import log_likelihood
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.models.config import ReferenceConfig
from piadm_hpc.models.training.fields import angles_of
from piadm_hpc.models.training.fitting import fit_reference

BASES = ("smooth", "eof")

BANDS = {"1-5": slice(1, 6), "6-20": slice(6, 21), "21 up": slice(21, None)}


def fitted(data: GriddedData, basis: str) -> GaussianReference:
    """The reference of the data in a basis."""
    places = places_of(data.coordinates, {}, wrap=data.wrap)
    mask = data.normalisation.state_mask()
    config = ReferenceConfig.model_validate({"basis": basis})
    return fit_reference(data.train, data.validation, config, mask=mask, places=places, **angles_of(data))


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


def row(data: GriddedData, basis: str, samples: int) -> dict[str, float]:
    """One basis: its samples against the data, its likelihood per point, and the cost of its fit."""
    began = time.process_time()
    reference = fitted(data, basis)
    seconds = time.process_time() - began
    white = torch.randn(samples, *reference.event_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    found = compared(data, reference.draw(white, one, zero), data.train)
    entries = int(data.normalisation.mask.sum())
    found |= {part: log_likelihood(reference, getattr(data, part).double()) / entries for part in ("validation", "test")}
    return found | {"seconds": seconds, "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> int:
    """Print a row for every basis, and the limits on the rows."""
    options = parser(__doc__ or "")
    options.add_argument("file", nargs="?", type=Path, help="fields over latitude and longitude; without them only --quick runs")
    options.add_argument("--variable", default="sst")
    options.add_argument("--anomaly", default="monthly", choices=["none", "mean", "monthly"])
    options.add_argument("--samples", type=int, default=50)
    given = options.parse_args()
    if given.file is None and not given.quick:
        options.error("give a file of fields, or --quick")
    torch.set_num_threads(1)
    report = Report("fields")
    with tempfile.TemporaryDirectory() as folder:
        file = given.file or made_up(Path(folder))
        shares = {"validation_fraction": 0.1, "test_fraction": 0.1}
        config = {"files": [str(file)], "variables": [given.variable], "anomaly": given.anomaly, **shares}
        data = read_fields(DataConfig.model_validate(config))
    rows = {basis: row(data, basis, given.samples) for basis in BASES}
    columns = ["basis", *rows["smooth"]]
    report.add(
        "Samples over data, and log-likelihood a point", columns, [[basis, *cells.values()] for basis, cells in rows.items()]
    )
    smooth = rows["smooth"]
    report.aims.append(between("standard deviation", smooth["std"], *((0.5, 2.0) if given.quick else (0.95, 1.05))))
    if not given.quick:
        report.aims.append(at_least("pattern correlation", smooth["pattern"], 0.97))
        report.aims += [
            between(f"power {band}", smooth[f"power {band}"], 0.8, 1.25) for band in BANDS if f"power {band}" in smooth
        ]
        report.aims += [at_least(f"log-likelihood, {p}", smooth[p], rows["eof"][p]) for p in ("validation", "test")]
        report.aims += [at_most("seconds", smooth["seconds"], 60), at_most("peak GiB", smooth["peak GiB"], 2)]
    return report.finish(given.json)


if __name__ == "__main__":
    sys.exit(main())
