"""Scores of a one-month forecast of sea-surface temperature beside its baselines, on the years that no model has seen.

    python benchmarks/forecast.py MODEL DATA.nc FOLDER [--members 32]

MODEL is a model of datasets/ersst-forecast.toml, DATA.nc its file. For every held-out month the condition is the two months
before it; `piadm sample` draws the members, with FOLDER/conditions.nc as --condition. Beside them stand the linear inverse model,
which is the conditional Gaussian alone, persistence of the last month, and climatology. CRPS is the fair one (Ferro 2014), means
are over the area of the ocean; spread over skill is one for members that scatter as far as they err.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import piadm_hpc
from piadm_hpc.models.card import REFERENCE
from piadm_hpc.models.registry import find_model
from piadm_hpc.store.arrays import read_arrays
from piadm_hpc.theory.noise import PRIOR, Noise


def conditions(anomalies: xr.DataArray, held_out: int) -> xr.Dataset:
    """The inputs of the last `held_out` months."""
    times = anomalies.time[-held_out:]
    lagged = {f"sst_{k}": anomalies.isel(time=slice(-held_out - k, -k)).assign_coords(time=times) for k in (1, 2)}
    return xr.Dataset({**lagged, "month": times.dt.month})


def crps(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fair CRPS at every point for members [M, ...]."""
    count = len(members)
    ordered = np.sort(members, axis=0)
    weights = (2 * np.arange(count) - count + 1).reshape(-1, *[1] * (members.ndim - 1))
    apart = (weights * ordered).sum(0) / max(1, count * (count - 1))
    return np.asarray(np.abs(members - truth).mean(0) - apart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--members", type=int, default=32)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    model = piadm_hpc.load_model(options.model)
    removed = read_arrays(find_model(options.model) / REFERENCE)[0]["climatology"].values[:, 0]
    with xr.open_dataset(options.data) as data:
        sst = data.sst.load()
    anomalies = (sst - removed[sst.time.dt.month.values - 1]).assign_attrs(units=sst.units, long_name="anomaly")
    held_out = model.card["data"]["test"]
    given = conditions(anomalies, held_out)
    given.to_netcdf(options.folder / "conditions.nc")
    run = piadm_hpc.RunConfig(
        model=options.model, samples=options.members, out=str(options.folder / "run"),
        condition={"file": str(options.folder / "conditions.nc")}, chain={"eta": 0.0, "integrator": "gaussian-ab2"},
        grid={"steps": 12}, output={"batch": 64}, compute={"model_batch": 64}, solver={"kind": "sequential"},
    )  # fmt: skip
    with piadm_hpc.sample(run) as dataset:
        drawn = dataset.sst.values.astype(np.float64)
    truth = anomalies.values[-held_out:]
    encoded = model.conditioning.encode({name: given[name].values for name in given})
    white = Noise(1, truth[0].size).at([0], range(options.members), stream=PRIOR)[0, :, 0]
    spread = model.reference.draw_state(white[:, None].double(), torch.ones(1).double(), torch.zeros(1, 1).double())[:, 0]
    linear = np.stack([model.decode(x.expand(held_out, -1, -1), encoded)["sst"] for x in spread.reshape(-1, *truth[0].shape)])
    past = anomalies.values[: -held_out - model.card["data"]["validation"]]
    picked = np.random.default_rng(0).choice(len(past), options.members)
    climatology = np.broadcast_to(past[picked][:, None], (options.members, *truth.shape))
    area = np.where(np.isfinite(truth[0]), np.cos(np.deg2rad(sst.lat.values))[:, None], 0)
    print(f"{'':24}{'CRPS':>8}{'RMSE':>8}{'spread/skill':>14}")
    entries = {
        "network": drawn,
        "linear inverse model": linear,
        "persistence": given.sst_1.values[None],
        "climatology": climatology,
    }
    for name, members in entries.items():
        error, count = ((members.mean(0) - truth) ** 2), len(members)
        means = [np.average(np.nan_to_num(values.mean(0)), weights=area) for values in (crps(members, truth), error)]
        scatter = np.average(np.nan_to_num(members.var(0, ddof=1).mean(0)), weights=area) if count > 1 else np.nan
        ratio = np.sqrt(scatter * (count + 1) / count / means[1])
        print(f"{name:24}{means[0]:8.4f}{np.sqrt(means[1]):8.4f}{ratio:14.3f}")


if __name__ == "__main__":
    main()
