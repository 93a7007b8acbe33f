"""The forced response of datasets/ccsm-forced compared with that of the member held out of training.

    python benchmarks/forced.py --model ccsm-forced --data TREFHT.B06.61.atm.1890-1999ANN.nc --out forced

The data are the file of the member held out; those of the training members are in the same folder. Two conditions: the
ensemble's global mean temperature in the first and in the last thirty years. Members of each, drawn by `piadm sample` with
levels.nc in the folder --out as --condition, give a pattern of warming, which is compared with that of the held-out member
(area-weighted correlation, and warming north of 60 N over the global mean), and a variance about their mean, compared with that
of the held-out member's years about the mean of their thirty.
"""

from __future__ import annotations

import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import xarray as xr
from common import Report, at_least, between, parser

import piadm_hpc

YEARS = 30


def synthetic(folder: Path) -> tuple[str, Path]:
    """An ensemble of four members that warm most in the north, and the regression of its fields, for a quick run."""
    generator = np.random.default_rng(0)
    latitudes, longitudes, years = np.linspace(-75, 75, 8), np.arange(16) * 22.5, np.arange(110)
    warming = (years / 110) ** 2
    pattern = (1 + 2 * np.exp((latitudes - 75) / 25))[:, None] * np.ones(len(longitudes))
    times = ("time", np.arange("1890", "2000", dtype="datetime64[Y]").astype("datetime64[ns]"))
    for member in ("50", "51", "60.x", "61.x"):
        values = 280 + warming[:, None, None] * pattern + 0.2 * generator.normal(size=(110, 8, 16))
        field = xr.DataArray(
            values, {"time": times, "lat": latitudes, "lon": longitudes}, ("time", "lat", "lon"), "TREFHT", {"units": "K"}
        )
        field.to_netcdf(folder / f"TREFHT.B06.{member}.nc")
    recipe = Path(__file__).resolve().parents[1] / "datasets" / "ccsm-forced.toml"
    files = ", ".join(f'"{folder}/TREFHT.B06.{name}"' for name in ("5*.nc", "60.*.nc", "61.*.nc"))
    changes = [f'output="{folder}/model"', 'network="none"', f"data.files=[{files}]", "reference.split=3"]
    return str(piadm_hpc.train(recipe, changes=changes)), folder / "TREFHT.B06.61.x.nc"


def main() -> int:
    options_parser = parser("The forced response of an emulator compared with that of the member held out of training.")
    options_parser.add_argument("--model", default="ccsm-forced", help="a shipped model, or a model folder")
    options_parser.add_argument("--data", type=Path, help="the file of the member held out")
    options_parser.add_argument("--out", type=Path, default=Path("forced"), help="folder of the conditions and the run")
    options_parser.add_argument("--members", type=int, default=YEARS, help="members of each level of warming")
    options = options_parser.parse_args()
    report = Report("forced, quick" if options.quick else "forced")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            compared(report, *synthetic(Path(folder)), Path(folder), YEARS)
            return report.finish(options.json)
    if options.data is None:
        options_parser.error("give the file of the member held out with --data")
    compared(report, options.model, options.data, options.out, options.members)
    return report.finish(options.json)


def compared(report: Report, name: str, held_out_file: Path, folder: Path, members: int) -> None:
    """Draw members at two levels of warming, and add a table of the response and its limits."""
    folder.mkdir(parents=True, exist_ok=True)
    card = piadm_hpc.load_model(name).card
    recipe = card["training"]["config"]["data"]
    unseen = [*recipe["validation_files"], *recipe["test_files"]]
    trained = [one for one in card["data"]["files"] if not any(fnmatch(one, pattern) for pattern in unseen)]
    fields = [xr.open_dataset(held_out_file.parent / one, decode_times=False).TREFHT for one in trained]
    with xr.open_dataset(held_out_file, decode_times=False) as held_out:
        truth = held_out.TREFHT.values.astype(np.float64)
    latitudes = fields[0].lat.values.astype(np.float64)
    area = np.cos(np.deg2rad(latitudes))[:, None] * np.ones(truth.shape[-1])
    area /= area.sum()
    warmth = np.mean([(field.values * area).sum((1, 2)) for field in fields], axis=0)
    levels = np.array([warmth[:YEARS].mean(), warmth[-YEARS:].mean()])
    xr.Dataset({"warming": ("level", levels, {"units": "K"})}, {"level": ["early", "late"]}).to_netcdf(folder / "levels.nc")
    run = piadm_hpc.RunConfig(
        model=name, samples=members, out=str(folder / "run"),
        condition={"file": str(folder / "levels.nc")}, chain={"integrator": "gaussian"},
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
    rows: list[list[str | float]] = []
    for title, response in (("model", ours), ("held-out member", theirs)):
        mean = (response * area).sum()
        arctic = (response * area)[polar].sum() / area[polar].sum()
        rows.append([title, float(mean), float(arctic), float(arctic / mean)])
    report.add("Warming between the first and the last thirty years", ("", "mean, K", "north of 60 N, K", "amplification"), rows)
    ratio = (variance[0] + variance[1]) / (variance[2] + variance[3])
    report.add(
        "Model and held-out member",
        ("correlation of patterns", "about their means", "ratio of variances"),
        [[_uncentred(ours, theirs, area), float(correlation), float(ratio)]],
    )
    report.aims += [
        at_least("correlation of the patterns of warming", _uncentred(ours, theirs, area), 0.9),
        at_least("amplification in the north", float(rows[0][3]), 1.0),
    ]
    if report.name == "forced":
        report.aims.append(between("ratio of variances", float(ratio), 0.9, 1.1))


def _uncentred(a: np.ndarray, b: np.ndarray, area: np.ndarray) -> float:
    return float((a * b * area).sum() / np.sqrt((a**2 * area).sum() * (b**2 * area).sum()))


if __name__ == "__main__":
    sys.exit(main())
