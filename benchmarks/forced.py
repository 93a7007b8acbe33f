"""The forced response of datasets/ccsm-forced beside the member that no model has seen.

    python benchmarks/forced.py MODEL HELD_OUT.nc FOLDER [--members 30]

Two conditions: the ensemble's global mean temperature in the first and in the last thirty years. Members of each, drawn by
`piadm sample` with FOLDER/levels.nc as --condition, give a pattern of warming, which is compared with that of the held-out
member (area-weighted correlation, and warming north of 60 N over the global mean), and a variance about their mean, compared
with that of the held-out member's years about the mean of their thirty.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import xarray as xr

import piadm_hpc

YEARS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("held_out", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--members", type=int, default=YEARS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    card = piadm_hpc.load_model(options.model).card
    recipe = card["training"]["config"]["data"]
    unseen = [*recipe["validation_files"], *recipe["test_files"]]
    trained = [name for name in card["data"]["files"] if not any(fnmatch(name, pattern) for pattern in unseen)]
    fields = [xr.open_dataset(options.held_out.parent / name, decode_times=False).TREFHT for name in trained]
    with xr.open_dataset(options.held_out, decode_times=False) as held_out:
        truth = held_out.TREFHT.values.astype(np.float64)
    latitudes = fields[0].lat.values.astype(np.float64)
    area = np.cos(np.deg2rad(latitudes))[:, None] * np.ones(truth.shape[-1])
    area /= area.sum()
    warmth = np.mean([(field.values * area).sum((1, 2)) for field in fields], axis=0)
    levels = np.array([warmth[:YEARS].mean(), warmth[-YEARS:].mean()])
    xr.Dataset({"warming": ("level", levels, {"units": "K"})}, {"level": ["early", "late"]}).to_netcdf(
        options.folder / "levels.nc"
    )
    run = piadm_hpc.RunConfig(
        model=options.model, samples=options.members, out=str(options.folder / "run"),
        condition={"file": str(options.folder / "levels.nc")}, chain={"integrator": "gaussian"},
        grid={"steps": 32}, output={"batch": 30}, compute={"model_batch": 30}, solver={"kind": "sequential"},
    )  # fmt: skip
    with piadm_hpc.sample(run) as dataset:
        early, late = (dataset.TREFHT.isel(condition=k).values.astype(np.float64) for k in (0, 1))
    ours, theirs = late.mean(0) - early.mean(0), truth[-YEARS:].mean(0) - truth[:YEARS].mean(0)
    polar = latitudes > 60

    def apart(pattern: np.ndarray) -> np.ndarray:
        return np.asarray(pattern - (pattern * area).sum())

    correlation = (apart(ours) * apart(theirs) * area).sum()
    correlation /= np.sqrt((apart(ours) ** 2 * area).sum() * (apart(theirs) ** 2 * area).sum())
    variance = [(values.var(0, ddof=1) * area).sum() for values in (early, late, truth[:YEARS], truth[-YEARS:])]
    for name, pattern in (("model", ours), ("held-out member", theirs)):
        mean = (pattern * area).sum()
        arctic = (pattern * area)[polar].sum() / area[polar].sum()
        print(f"{name:16} warming {mean:6.3f} K, north of 60 N {arctic:6.3f} K, amplification {arctic / mean:5.2f}")
    print(f"correlation of the patterns: about their means {correlation:.3f}, uncentred {_uncentred(ours, theirs, area):.3f}")
    print(f"variance, model over held-out member: {(variance[0] + variance[1]) / (variance[2] + variance[3]):.3f}")


def _uncentred(a: np.ndarray, b: np.ndarray, area: np.ndarray) -> float:
    return float((a * b * area).sum() / np.sqrt((a**2 * area).sum() * (b**2 * area).sum()))


if __name__ == "__main__":
    main()
