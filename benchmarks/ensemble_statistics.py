"""Statistics of many members that are not stored: memory, disk, and agreement with statistics of stored members by xarray.

python benchmarks/ensemble_statistics.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from common import Report, answer, at_most, find_mpiexec, launch, parser, question

import piadm_hpc
from piadm_hpc.cli.main import main as piadm
from piadm_hpc.comm.rank_grid import world
from piadm_hpc.host.launcher import launched, launcher_rank, local_environment
from piadm_hpc.store.shard import named_ids
from piadm_hpc.store.statistics.output import ERROR
from piadm_hpc.store.statistics.parts import PLACE

EXACT = 1e-6
"""Allowed differences of moments, extremes and shares, in standard deviations or shares of the members."""

LEVELS = (0.05, 0.5, 0.95)
KINDS = ("mean", "std", "extremes", "quantiles", "histogram", "exceedance", "crps", "rank_histogram")
PATIENCE = 120.0  # seconds that a killed run may take to a member


def make_model(folder: Path, shape: tuple[int, int]) -> Path:
    """A Gaussian model of waves with noise, about zero with a spread of one; a field of the same kind is the truth."""
    generator = np.random.default_rng(0)
    lat, lon = np.linspace(-88, 88, shape[0]), np.arange(shape[1]) * 360 / shape[1]
    waves = [np.outer(np.cos(np.deg2rad(k * lat)), np.cos(np.deg2rad(m * lon))) for k in range(1, 4) for m in range(1, 4)]
    fields = 0.5 * np.tensordot(generator.standard_normal((25, len(waves))), np.stack(waves), 1)
    fields += 0.5 * generator.standard_normal(fields.shape)
    array = xr.DataArray(fields.astype(np.float32), dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon}, name="u")
    array = array.assign_attrs(units="m s-1")
    array[:-1].to_netcdf(folder / "fields.nc")
    array[-1].to_netcdf(folder / "truth.nc")
    recipe = folder / "train.toml"
    recipe.write_text(
        f'name = "model"\noutput = "{folder}/model"\nnetwork = "none"\n\n[data]\nfiles = ["{folder}/fields.nc"]\n'
        'variables = ["u"]\nscale = "global"\n\n[reference]\nbasis = "isotropic"\n'
    )
    if piadm(["train", str(recipe)]) != 0:
        raise RuntimeError("the model could not be made")
    return folder / "model"


def command(folder: Path, out: str, samples: int, *, members: bool, kinds: Sequence[str] = KINDS) -> list[str]:
    """A run without choices that depend on timing, so that its members are the same on any number of ranks."""
    settings = [f"statistics.kinds={list(kinds)}", f"output.members={str(members).lower()}", "output.batch=8"]
    settings += ["solver.kind=sequential", "compute.model_batch=8", "grid.steps=4"]
    if "crps" in kinds:
        settings += [f"statistics.truth={folder / 'truth.nc'}", "statistics.thresholds={u=[0.0, 1.0]}"]
    run = ["sample", "--model", str(folder / "model"), "--out", str(folder / out), "--samples", str(samples)]
    return run + [word for setting in settings for word in ("--set", setting)]


def killed(arguments: Sequence[str], out: Path, ranks: int, target: int) -> int:
    """Start a run on ranks and kill all of them once `target` members are counted; return how many were counted."""
    start = [] if ranks == 1 else [find_mpiexec(), "-n", str(ranks)]
    with (out.parent / "killed.log").open("w") as log:
        process = subprocess.Popen(
            [*start, sys.executable, "-m", "piadm_hpc", *arguments], env=local_environment(ranks), start_new_session=True,
            stdout=log, stderr=log,
        )  # fmt: skip
        began = time.monotonic()
        while len(named_ids(out, PLACE)) < target and process.poll() is None and time.monotonic() - began < PATIENCE:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return len(named_ids(out, PLACE))


def work(path: str) -> None:
    """Run a command on every rank; rank 0 returns the largest peak memory of a rank in bytes."""
    code = piadm(question(path)["command"])
    if code != 0:
        raise RuntimeError(f"piadm ended with {code}")
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    peaks = world().allgather(peak) if launched() else [peak]
    if launcher_rank() == 0:
        answer(path, max(peaks))


def expected(members: xr.DataArray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics by xarray and numpy, in float64."""
    wide = members.astype(float)
    count = len(wide)
    ordered = np.sort(wide.values, axis=0)
    spread = np.tensordot(2.0 * np.arange(count) - (count - 1), ordered, 1) / (count * (count - 1))
    return {
        "u_mean": wide.mean("realization").values,
        "u_std": wide.std("realization").values,
        "u_min": wide.min("realization").values,
        "u_max": wide.max("realization").values,
        "u_exceedance": np.stack([(wide > level).mean("realization").values for level in (0.0, 1.0)]),
        "u_quantile": wide.quantile(LEVELS, "realization").values,
        "u_crps": np.abs(wide.values - truth).mean(0) - spread,
    }


def row(out: Path, ranks: int, kills: str, peak: int, truth: dict[str, np.ndarray]) -> list[Any]:
    """The largest differences of a run's statistics from those of the stored members."""
    with piadm_hpc.open(out, statistics=True) as found:
        apart = {name: np.abs(found[name].values - values) for name, values in truth.items()}
        moments = max(float(apart[name].max()) for name in ("u_mean", "u_std", "u_min", "u_max"))
        size = sum(path.stat().st_size for path in [*(out / PLACE).glob("*.h5"), out / "statistics.h5"])
        bounds = [float(found[name].attrs[ERROR]) for name in ("u_quantile", "u_crps")]
        numbers = [int(found["num_members"]), moments, float(apart["u_exceedance"].mean())]
        return [
            ranks, kills, *numbers, float(apart["u_quantile"].max()), bounds[0], float(apart["u_crps"].max()), bounds[1],
            peak / 1e6, size / 1e6,
        ]  # fmt: skip


COLUMNS = (
    "ranks",
    "killed after members",
    "members",
    "moments, extremes",
    "exceedance, mean",
    "quantiles",
    "their bound",
    "CRPS",
    "its bound",
    "peak MB",
    "disk MB",
)


def main() -> int:
    options = parser("Statistics of members that are not stored.").parse_args()
    if options.worker:
        work(options.worker)
        return 0
    samples, shape, grids = (80, (8, 16), (1,)) if options.quick else (1000, (64, 128), (1, 2, 4))
    report = Report("statistics")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, shape)
        with xr.open_dataset(folder / "truth.nc") as happened:
            truth = happened["u"].values.astype(float)
        if piadm(command(folder, "stored", samples, members=True)) != 0:
            raise RuntimeError("the members could not be drawn")
        with piadm_hpc.open(folder / "stored") as stored:
            by_xarray = expected(stored["u"].load(), truth)
        rows = [row(folder / "stored", 1, "none, beside the members", 0, by_xarray)]
        for ranks in grids:
            out, run = folder / f"on-{ranks}", command(folder, f"on-{ranks}", samples, members=False)
            counted = [killed(run, out, ranks, samples * share // 4) for share in ((1,) if options.quick else (1, 2))]
            peak = piadm(run) if options.quick else launch(__file__, None if ranks == 1 else ranks, {"command": run})
            rows.append(row(out, ranks, ", ".join(map(str, counted)), peak, by_xarray))
            report.aims.append(at_most(f"members that were counted at the last kill, {ranks} ranks", counted[-1], samples - 1))
        report.add(
            "Largest differences from xarray's statistics of stored members, in units of the field's spread", COLUMNS, rows
        )
        for line in rows:
            what = f"{line[0]} ranks, kills: {line[1]}"
            report.aims.append(at_most(f"members that are missing or counted twice, {what}", abs(line[2] - samples), 0))
            report.aims.append(at_most(f"moments and extremes, {what}", line[3], EXACT))
            report.aims.append(at_most(f"exceedance, {what}", line[4], EXACT))
            report.aims.append(at_most(f"quantiles over their bound, {what}", line[5] / line[6], 1.0))
            report.aims.append(at_most(f"CRPS over its bound, {what}", line[7] / line[8], 1.0))
        if not options.quick:
            memory(report, folder, samples, shape)
    return report.finish(options.json)


def memory(report: Report, folder: Path, samples: int, shape: tuple[int, int]) -> None:
    """Memory and disk of moments alone against those of ten stored members."""
    few = launch(__file__, None, {"command": command(folder, "few", 10, members=True, kinds=())})
    many = launch(__file__, None, {"command": command(folder, "moments", samples, members=False, kinds=("mean", "std"))})
    member = 4 * shape[0] * shape[1]
    (part,) = (folder / "moments" / PLACE).glob("samples_*.h5")
    costs = part.stat().st_size - 32 * shape[0] * shape[1]
    rows = [["10, stored", few / 1e6, "", ""], [f"{samples}, mean and std", many / 1e6, (many - few) / member, costs / 1e6]]
    columns = ("members", "peak MB", "more than ten members take, in members", "costs of the members on disk, MB")
    report.add("Memory", columns, rows)
    report.aims.append(at_most("peak memory of all members over that of ten", many / few, 1.03))
    report.aims.append(at_most("sums of mean and std on disk, in members", (part.stat().st_size - costs) / member, 10))


if __name__ == "__main__":
    sys.exit(main())
