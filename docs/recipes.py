"""Make the pictures of three recipes of docs/observations.md: infilling, downscaling and denoising.

    python docs/recipes.py          about five minutes of one core; writes its runs to recipe-runs/ in the current folder

The truth is a sample of the shipped climate model with another seed. Every picture shows what is observed, the posterior's mean
and spread, and the truth, as deviations from the model's mean.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from PIL import Image

import piadm_hpc
from piadm_hpc.models.card import load_model

IMAGES, RUNS = Path(__file__).resolve().parent / "images", Path("recipe-runs")
MODEL, MEMBERS = "ccsm-temperature", 8
EXTENT, COLOURS = 3.0, 96  # all pictures of the folder together stay below 300 kB


def truth() -> xr.DataArray:
    """One field of the model, in K."""
    run = piadm_hpc.RunConfig(model=MODEL, seed=99, samples=1, chain={"eta": 0.0}, out=str(RUNS / "truth"))
    return piadm_hpc.sample(run).TREFHT[0].load().drop_vars("realization")


def coarse(field: xr.DataArray) -> xr.DataArray:
    """Means by area over 8 x 8 points."""
    area = np.cos(np.deg2rad(field.lat)) * xr.ones_like(field)
    return (area * field).coarsen(lat=8, lon=8).sum() / area.coarsen(lat=8, lon=8).sum()


def observed(name: str, field: xr.DataArray, std: float) -> dict[str, float]:
    """Draw the posterior given a field, draw its picture, and return errors and spread in K."""
    path = RUNS / f"{name}.nc"
    field.to_dataset(name="TREFHT").to_netcdf(path)
    run = piadm_hpc.RunConfig(
        model=MODEL,
        samples=MEMBERS,
        out=str(RUNS / name),
        observations={"file": str(path), "std": std},
        output={"batch": MEMBERS},
    )
    members = piadm_hpc.sample(run, overwrite=True).TREFHT.load()
    model, real = load_model(MODEL), truth()
    usual = real.copy(data=model.decode(model.reference.mean.reshape(1, *model.event_shape).float())["TREFHT"][0])
    before = usual if field.shape == usual.shape else coarse(usual)
    mean, spread = members.mean("realization"), members.std("realization", ddof=1)
    shown = {"observed": field - before.values, "mean": mean - usual.values, "truth": real - usual.values}
    picture(name, shown, spread)
    area = np.cos(np.deg2rad(real.lat)) * xr.ones_like(real)

    def size(one: xr.DataArray) -> float:
        return round(float(np.sqrt((one**2).weighted(area).mean())), 3)

    found = {
        "error of what is observed": size(field - real.values) if field.shape == real.shape else float("nan"),
        "error of the mean": size(mean - real.values),
        "spread": size(spread),
        "error of the model's mean": size(usual - real.values),
    }
    return found | {"rounds": float(piadm_hpc.open(RUNS / name).rounds.median())}


def picture(name: str, shown: dict[str, xr.DataArray], spread: xr.DataArray) -> None:
    """Draw deviations from the model's mean, and the spread, beside each other."""
    figure, axes = plt.subplots(1, 4, figsize=(11, 1.75), constrained_layout=True)
    for axis, (title, one) in zip(axes, shown.items(), strict=False):
        drawn = one.plot(ax=axis, vmin=-EXTENT, vmax=EXTENT, cmap="RdBu_r", add_colorbar=False)
        axis.set(title=title, xticks=[], yticks=[], xlabel="", ylabel="")
    figure.colorbar(drawn, ax=axes[2], label="K", extend="both", shrink=0.8)
    wide = spread.plot(ax=axes[3], cmap="viridis", vmin=0, add_colorbar=False)
    axes[3].set(title="spread", xticks=[], yticks=[], xlabel="", ylabel="")
    figure.colorbar(wide, ax=axes[3], label="K", shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    # covers the ends of both colour scales first, then the middle
    few = Image.open(buffer).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=8, dither=Image.Dither.NONE)
    few.save(IMAGES / f"{name}.png", optimize=True)


def main() -> None:
    RUNS.mkdir(exist_ok=True)
    real, random = truth(), np.random.default_rng(0)
    noise = xr.zeros_like(real) + random.standard_normal(real.shape)
    swaths = ((real.lon // 5.625) % 4 == 0) & (abs(real.lat) < 75) & ((real.lat // 2.8) % 2 == 0)
    results = {
        "infilling": observed("infilling", (real + 0.3 * noise).where(swaths), 0.3),
        "downscaling": observed("downscaling", coarse(real) + 0.1 * noise[::8, ::8].values, 0.1),
        "denoising": observed("denoising", real + noise, 1.0),
    }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
