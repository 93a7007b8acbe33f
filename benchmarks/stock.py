"""Small models and finished runs that the inputs of benchmarks/fuzz.py start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from piadm_hpc.config.run import RunConfig
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.training.fields import train
from piadm_hpc.run.execute import sample

LAT, LON, MONTHS = np.linspace(75, -75, 6), np.arange(8) * 45.0, 48
INPUTS = {
    "before": {"kind": "lag"},
    "forcing": {"kind": "scalar", "files": ["forcing.nc"]},
    "kind": {"kind": "class", "classes": 2, "files": ["forcing.nc"]},
    "month": {"kind": "month"},
}


@dataclass(frozen=True)
class Stock:
    """The material of the generators: small models, the configuration of a run of one, and finished runs of several kinds."""

    folder: Path

    @property
    def model(self) -> Path:
        """A Gaussian of fields."""
        return self.folder / "model"

    @property
    def forecast(self) -> Path:
        """A Gaussian of the anomalies of a month given those of the month before, two numbers and the season."""
        return self.folder / "forecast"

    @property
    def run(self) -> Path:
        """A run of the model."""
        return self.folder / "run"

    @property
    def other(self) -> Path:
        """The same run with another seed."""
        return self.folder / "other"

    @property
    def dense(self) -> Path:
        """A run of the model with log-densities."""
        return self.folder / "dense"

    @property
    def posterior(self) -> Path:
        """A run given an observation."""
        return self.folder / "posterior"

    @property
    def forecasts(self) -> Path:
        """Two leads from two starts by the conditional model."""
        return self.folder / "forecasts"

    def configuration(self, out: Path | str, **changes: Any) -> dict[str, Any]:
        """A short run."""
        short = {"samples": 4, "grid": {"steps": 4}, "solver": {"tol": 0.1}, "output": {"batch": 2}}
        return {"model": str(self.model), "out": str(out), **short, **changes}

    def fields(self) -> xr.Dataset:
        """Monthly fields of the model's variable, on its grid."""
        return xr.load_dataset(self.folder / "fields.nc")

    def recipe(self, name: str, out: Path | str, **sections: Any) -> dict[str, Any]:
        """A training of a Gaussian on these fields."""
        data = {"files": ["fields.nc"], "variables": ["tas"], **sections.pop("data", {})}
        return {"name": name, "output": str(out), "network": "none", "data": data, "reference": {"rank": 2}, **sections}

    def starts(self, count: int = 2) -> xr.Dataset:
        """The conditions of the conditional model for the last months of the fields."""
        last = xr.load_dataset(self.folder / "forcing.nc").isel(time=slice(-count, None))
        before = self.fields().tas.isel(time=slice(-count, None)) - 280
        before.attrs = {"units": "K", "long_name": "anomaly of the month before"}
        return last.assign(before=before, month=last.time.dt.month)


def make_stock(folder: Path) -> Stock:
    """Train two Gaussians of 6 x 8 fields, and sample runs of them."""
    stock = Stock(folder)
    dice = np.random.default_rng(0)
    time = xr.date_range("2000-01-01", periods=MONTHS, freq="MS")
    place = {"time": time, "lat": LAT, "lon": LON}
    fields = 280 + dice.standard_normal((MONTHS, len(LAT), len(LON)))
    xr.Dataset({"tas": (("time", "lat", "lon"), fields.astype("f4"), {"units": "K"})}, place).to_netcdf(folder / "fields.nc")
    numbers = {"forcing": ("time", dice.standard_normal(MONTHS), {"units": "W m-2"}), "kind": ("time", np.arange(MONTHS) % 2)}
    xr.Dataset(numbers, {"time": time}).to_netcdf(folder / "forcing.nc")
    conditional = {"data": {"anomaly": "monthly"}, "condition": {"inputs": INPUTS}}
    for record in (stock.recipe("model", stock.model), stock.recipe("forecast", stock.forecast, **conditional)):
        train(TrainConfig.model_validate(record), root=folder, report=lambda line: None)
    stock.starts().to_netcdf(folder / "starts.nc")
    (folder / "station.csv").write_text("lat,lon,value,std\n10,20,280.5,0.3\n", encoding="utf-8")
    given = {"model": str(stock.forecast), "condition": {"file": str(folder / "starts.nc")}, "samples": 2}
    runs: list[tuple[Path, dict[str, Any]]] = [
        (stock.run, {"seed": 0}),
        (stock.other, {"seed": 1}),
        (stock.dense, {"density": {"enabled": True}}),
        (stock.posterior, {"observations": {"file": str(folder / "station.csv")}}),
        (stock.forecasts, {**given, "rollout": {"leads": 2}}),
    ]
    for out, changes in runs:
        sample(RunConfig.model_validate(stock.configuration(out, **changes))).close()
    return stock
