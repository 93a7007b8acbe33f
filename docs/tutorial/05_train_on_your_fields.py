"""From a NetCDF file of your own to a model, and from the model to new fields in xarray.

    python docs/tutorial/05_train_on_your_fields.py [FOLDER]

The fields are synthetic: 120 months of waves with a random phase, on a grid of 16 x 32 points with a patch of missing
values. `network="none"` fits the Gaussian reference alone (mean, leading patterns and their variances), which takes
seconds; without that argument a network is trained on what the Gaussian does not describe. A TOML file can hold the
same settings: `piadm init train > train.toml`, `piadm train train.toml`.

What one sees: a dataset with named dimensions and coordinates, in which the missing patch is still missing, and the
standard deviation of the samples beside that of the data.
"""

import sys
from pathlib import Path

import numpy as np
import xarray as xr

import piadm_hpc as piadm
from piadm_hpc.models.config import TrainConfig
from piadm_hpc.models.training.fields import train

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "own-fields")
folder.mkdir(parents=True, exist_ok=True)

rng = np.random.default_rng(0)
lat, lon = np.linspace(-84, 84, 16), np.arange(32) * 11.25
phase, height = rng.uniform(0, 2 * np.pi, 120), rng.normal(2, 0.5, 120)
waves = height[:, None, None] * np.cos(np.deg2rad(2 * lon)[None, None] + phase[:, None, None]) * np.cos(np.deg2rad(lat))[:, None]
waves = waves + 0.3 * rng.standard_normal(waves.shape)
waves[:, 5:9, 10:14] = np.nan
data = xr.Dataset(
    {"wave": (("time", "lat", "lon"), waves.astype("float32"), {"units": "m", "long_name": "made-up wave"})},
    {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})},
)
data.to_netcdf(folder / "waves.nc")

reading = {"files": (str(folder / "waves.nc"),), "variables": ("wave",), "validation_fraction": 0.2}
model = train(TrainConfig(name="waves", output=str(folder / "model"), network="none", data=reading))

run = piadm.RunConfig(model=str(model), samples=64, seed=1, out=str(folder / "run"), grid={"steps": 12})
samples = piadm.sample(run, overwrite=True)

print(samples)
print(f"standard deviation: samples {float(samples.wave.std()):.2f}, data {float(data.wave.std()):.2f}")
print(f"missing points: samples {int(samples.wave[0].isnull().sum())}, data {int(data.wave[0].isnull().sum())}")
print(f"most sweeps of a sample: {int(samples.sweeps.max())} of {run.grid.steps} steps")
