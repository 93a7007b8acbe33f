"""Scores of many samples of a model, compared with its training fields, and the same scores of held-out fields.

python benchmarks/samples.py --model ccsm-temperature --samples 200 --out run
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr
from common import Aim, Report, at_most, between, launch, parser, question

import piadm_hpc
from piadm_hpc import RunConfig
from piadm_hpc.analysis.comparison import score_table

COLUMNS = ("score", "samples", "standard error", "training fields", "held-out fields")
SYNTHETIC = """
name = "synthetic"
output = "{folder}/synthetic"
network = "none"
[data]
files = ["{folder}/fields.nc"]
variables = ["T"]
validation_fraction = 0.2
test_fraction = 0.2
[reference]
basis = "eof"
rank = 4
"""


def make_synthetic(folder: Path) -> str:
    """Train a small Gaussian model, for a quick run without a shipped model."""
    generator = np.random.default_rng(0)
    lat, lon = np.linspace(-80, 80, 12), np.arange(24) * 15.0
    waves = np.stack([np.outer(np.cos(np.deg2rad(k * lat)), np.cos(np.deg2rad(m * lon))) for k in (0, 1) for m in (0, 1)])
    fields = np.tensordot(generator.standard_normal((100, 4)), waves, 1) + 0.3 * generator.standard_normal((100, 12, 24))
    attributes = {"units": "K", "long_name": "synthetic temperature"}
    array = xr.DataArray(fields, dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon}, name="T", attrs=attributes)
    array.to_dataset().to_netcdf(folder / "fields.nc")
    settings = folder / "train.toml"
    settings.write_text(SYNTHETIC.format(folder=folder))
    launch(__file__, None, {"train": str(settings)})
    return str(folder / "synthetic")


def aims(name: str, scores: dict[str, dict[str, float]]) -> list[Aim]:
    """Limits on the distance of samples from the training fields: spread, spectra, pattern and mean."""
    limits = []
    for score, values in scores.items():
        what = f"{name}, {score}"
        if score == "std_ratio":
            limits.append(between(what, values["samples"], 0.9, 1.1))
        if score.startswith("power_ratio"):
            limits.append(between(what, values["samples"], 0.8, 1.25))
        if score == "std_pattern_correlation":
            limits.append(Aim(what, values["samples"], "at least 0.9", values["samples"] >= 0.9))
        if score == "global_mean":
            distance = abs(values["samples"] - values["reference"]) / scores["global_mean_spread"]["reference"]
            limits.append(at_most(f"{what}: distance from training mean over its spread", distance, 0.25))
    return limits


def _options() -> argparse.Namespace:
    options = parser("Scores of many samples of a model.")
    options.add_argument("--model", default="ccsm-temperature", help="a shipped model, or a model folder")
    options.add_argument("--samples", type=int, default=200, help="number of samples")
    options.add_argument("--out", help="keep the run in this folder, and use finished samples in it again")
    return options.parse_args()


def main() -> int:
    options = _options()
    if options.worker:
        from piadm_hpc.cli.main import main as piadm

        setting = question(options.worker)
        code = piadm(["train", setting["train"]])
        Path(options.worker).with_name("answer.json").write_text("null")
        return code
    report = Report("samples")
    with tempfile.TemporaryDirectory() as folder:
        model, count = options.model, options.samples
        if options.quick:
            model, count = make_synthetic(Path(folder)), 512
        fresh = options.out is None or not Path(options.out).exists()
        start = time.perf_counter()
        dataset = piadm_hpc.sample(RunConfig(model=model, samples=count, out=options.out or f"{folder}/run"))
        spent = time.perf_counter() - start
        rounds, left = dataset["rounds"].values, int((dataset["converged"].values == 0).sum())
        for name, record in score_table(dataset, model).items():
            scores: dict[str, dict[str, float]] = record["scores"]
            keys = ("samples", "standard_error", "reference", "held_out")
            rows: list[list[str | float]] = [
                [score, *[values.get(key, math.nan) for key in keys]] for score, values in scores.items()
            ]
            title = f"{count} samples of {model}: {name} [{record['units']}], {record['reference']}, {record['held_out']}"
            report.add(title if not options.quick else f"{count} samples of a synthetic model", COLUMNS, rows)
            # the quick model is a crude fit on purpose: only its mean and overall spread are checked
            checked = ("std_ratio", "global_mean") if options.quick else ("",)
            report.aims += [aim for aim in aims(name, scores) if any(score in aim.what for score in checked)]
        dataset.close()
    seconds: str | float = spent / count if fresh else "from an earlier run"
    cost = [[count, float(np.median(rounds)), int(rounds.max()), left, seconds]]
    report.add("Cost", ("samples", "rounds, median", "rounds, most", "not converged", "s a sample"), cost)
    report.aims.append(at_most("share of samples that did not converge", left / count, 0.02))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
