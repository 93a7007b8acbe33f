"""Fields conditioned on observations: 200 stations in one year, and the posterior mean and spread beside the truth.

    python docs/tutorial/07_observations.py [FOLDER] [FIELDS.nc POSITION]

The truth is a sample of the shipped model with another seed, or, if a file with TREFHT(time, lat, lon) in K is given,
its field at POSITION in time. Stations are placed at random with equal density by area, and observed with errors of 0.5 K.

What one sees: the distance of the mean of four members from the truth and their spread, in kelvin, and maps of the
truth with the stations, of the mean and of the spread.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import piadm_hpc as piadm

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "observed")
folder.mkdir(exist_ok=True)
if len(sys.argv) > 2:
    truth = xr.open_dataset(sys.argv[2], decode_times=False).TREFHT.isel(time=int(sys.argv[3]))
else:
    year = piadm.RunConfig(model="ccsm-temperature", seed=99, samples=1, chain={"eta": 0.0}, out=str(folder / "truth"))
    truth = piadm.sample(year, overwrite=True).TREFHT[0]

random = np.random.default_rng(0)
area = np.cos(np.deg2rad(truth.lat)) * xr.ones_like(truth)
places = random.choice(truth.size, 200, replace=False, p=(area / area.sum()).values.ravel())
rows, columns = np.divmod(places, truth.lon.size)
readings = truth.values.ravel()[places] + 0.5 * random.standard_normal(200)
stations = pd.DataFrame({"lat": truth.lat[rows], "lon": truth.lon[columns], "value": readings, "std": 0.5, "units": "K"})
stations.to_csv(folder / "stations.csv", index=False)

run = {"model": "ccsm-temperature", "out": str(folder / "run"), "observations": {"file": str(folder / "stations.csv")}}
samples = piadm.sample(piadm.RunConfig(samples=4, **run), overwrite=True)
mean, spread = samples.TREFHT.mean("realization"), samples.TREFHT.std("realization", ddof=1)
error, width = (float(np.sqrt((field**2).weighted(area).mean())) for field in (mean - truth.values, spread))
print(f"error of the mean {error:.2f} K, spread {width:.2f} K, rounds {samples.rounds.values.tolist()}")

figure, axes = plt.subplots(1, 3, figsize=(15, 3), constrained_layout=True)
for axis, title, field in zip(axes, ("truth, and the stations", "mean", "spread"), (truth, mean, spread), strict=True):
    field.plot(ax=axis, cmap="viridis" if title == "spread" else "turbo", cbar_kwargs={"label": "K"})
    axis.set_title(title)
axes[0].plot(stations.lon, stations.lat, "k.", markersize=2)
figure.savefig(folder / "posterior.png", dpi=100)
print(f"figure: {folder / 'posterior.png'}")
