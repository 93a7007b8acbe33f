"""Peak memory per rank of `piadm sample`, compared with the forecast of `piadm plan`.

Models are trained on the fly, with synthetic fields, a Gaussian reference and no network, so that states dominate.

    python benchmarks/memory.py
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from common import Report, answer, at_most, launch, parser, question

from piadm_hpc.cli.main import main as piadm
from piadm_hpc.comm.rank_grid import world
from piadm_hpc.host.launcher import launched, launcher_rank

AIM = 0.20
MEGABYTE = 1e6
COLUMNS = (
    "reference",
    "sweeps treat exactly",
    "grid",
    "steps",
    "batch",
    "ranks",
    "planned MB",
    "measured MB",
    "planned / measured",
)


@dataclass(frozen=True)
class Case:
    """One run: reference, grid, steps, batch, number of time ranks, and the linear part of sweeps or collocation."""

    basis: str
    nlat: int
    nlon: int
    steps: int
    batch: int
    ranks: int
    linear: str = "reference"


CASES = (
    Case("isotropic", 256, 512, 64, 4, 1),
    Case("isotropic", 256, 512, 64, 4, 2),
    Case("eof", 256, 512, 64, 4, 1),
    Case("eof", 256, 512, 64, 4, 2),
    Case("eof", 256, 512, 64, 4, 1, "process"),
    Case("isotropic", 512, 1024, 48, 4, 1),
    Case("eof", 512, 1024, 48, 4, 2),
    Case("isotropic", 512, 1024, 16, 4, 1, "collocation"),
    Case("isotropic", 512, 1024, 16, 4, 2, "collocation"),
    Case("eof", 512, 1024, 16, 4, 2, "collocation"),
)
TINY = (Case("isotropic", 16, 32, 8, 2, 1), Case("eof", 16, 32, 8, 2, 2), Case("isotropic", 16, 32, 8, 2, 2, "collocation"))


def write_fields(path: Path, nlat: int, nlon: int, count: int = 24) -> None:
    """Write smooth random fields, a few waves of random amplitude with a little noise."""
    generator = np.random.default_rng(0)
    lat, lon = np.linspace(-89, 89, nlat), np.arange(nlon) * 360 / nlon
    waves = [np.outer(np.cos(np.deg2rad(k * lat)), np.cos(np.deg2rad(m * lon))) for k in range(4) for m in range(4)]
    fields = np.tensordot(generator.standard_normal((count, len(waves))), np.stack(waves), 1)
    fields += 0.3 * generator.standard_normal(fields.shape)
    array = xr.DataArray(fields.astype(np.float32), dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon}, name="T")
    array.attrs = {"units": "K", "long_name": "synthetic temperature"}
    array.to_dataset().to_netcdf(path)


def make_model(folder: Path, case: Case) -> Path:
    """A model folder with a Gaussian reference and no network."""
    model = folder / f"{case.basis}-{case.nlat}"
    if model.exists():
        return model
    fields = folder / f"fields-{case.nlat}.nc"
    if not fields.exists():
        launch(__file__, None, {"fields": str(fields), "nlat": case.nlat, "nlon": case.nlon})
    rank = "rank = 8\n" if case.basis == "eof" else ""
    settings = folder / "train.toml"
    settings.write_text(
        f'name = "{model.name}"\noutput = "{model}"\nnetwork = "none"\n\n[data]\nfiles = ["{fields}"]\nvariables = ["T"]\n'
        f'\n[reference]\nbasis = "{case.basis}"\n{rank}'
    )
    launch(__file__, None, {"command": ["train", str(settings)]})
    return model


def work(path: str) -> None:
    """Run a piadm command on every rank; rank 0 returns the peak memory of all ranks in bytes."""
    setting = question(path)
    if "plan" in setting:
        answer(path, plan(setting))
        return
    if "fields" in setting:
        write_fields(Path(setting["fields"]), setting["nlat"], setting["nlon"])
        answer(path, None)
        return
    code = piadm(setting["command"])
    if code != 0:
        raise RuntimeError(f"piadm {' '.join(setting['command'])} ended with {code}")
    peaks = world().allgather(peak()) if launched() else [peak()]
    if launcher_rank() == 0:
        answer(path, peaks)


def plan(setting: dict[str, Any]) -> int:
    """Bytes per rank as forecast by `piadm plan`."""
    from piadm_hpc import plan
    from piadm_hpc.config.run import RunConfig

    return plan(RunConfig(**setting["plan"]), ranks=setting["ranks"]).memory_per_rank


def peak() -> int:
    """Peak memory of this program in bytes. getrusage would include the memory of the parent before the start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def row(folder: Path, case: Case) -> list[Any]:
    """One line of the table."""
    model, out = make_model(folder, case), folder / "run"
    settings: dict[str, dict[str, Any]] = {
        "grid": {"steps": case.steps, "blocks": 1},
        "chain": {"eta": 0.0 if case.linear == "collocation" else 1.0},
        "solver": {"linear": "auto" if case.linear == "collocation" else case.linear},
        "output": {"batch": case.batch},
        "compute": {"time_ranks": case.ranks},
    }
    if case.linear == "process":
        # start from copies of the first state, so that samples need many sweeps and finish one by one
        settings["solver"] |= {"start": "constant", "tol": 1e-3}
    command = ["sample", "--model", str(model), "--out", str(out), "--samples", str(case.batch), "--overwrite"]
    for group, values in settings.items():
        command += [word for key, value in values.items() for word in ("--set", f"{group}.{key}={value}")]
    config = {"model": str(model), "samples": case.batch, "out": str(out), **settings}
    planned = launch(__file__, None, {"plan": config, "ranks": case.ranks})
    peaks = launch(__file__, None if case.ranks == 1 else case.ranks, {"command": command})
    measured = max(peaks)
    size = f"{case.nlat} x {case.nlon}"
    numbers = [round(value / MEGABYTE) for value in (planned, measured)]
    return [case.basis, case.linear, size, case.steps, case.batch, case.ranks, *numbers, planned / measured]


def main() -> int:
    options = parser("Peak memory per rank, compared with `piadm plan`.").parse_args()
    if options.worker:
        work(options.worker)
        return 0
    report = Report("memory")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(Path(folder), case) for case in (TINY if options.quick else CASES)]
    report.add("Peak resident memory of the largest rank (MB = 1e6 bytes)", COLUMNS, rows)
    for line in rows:
        what = f"distance of planned / measured from one, {line[0]}, {line[1]} part, {line[2]}, {line[5]} ranks"
        report.aims.append(at_most(what, abs(line[-1] - 1), AIM))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
