"""Bits per dimension of held-out climate years, and whether densities find fields with a corrupted region.

    python benchmarks/anomalies.py --data FOLDER --every 5 --out anomalies

FOLDER has the files that the card of ccsm-temperature names. What is computed stays in the folder --out, and the same command
goes on from there. Bits per dimension of the test member, the validation member and a training member, under the model and
under its Gaussian alone. Then years of the test member with one box of 6 x 10 points shifted by three local standard
deviations, at random places, with sharp edges or smoothly. A year is suspicious when its score exceeds that of all but 5 in 100
years of the validation member; the share of clean years of the test member that do is measured as well. Scores: the log-density,
its Gaussian part, the squared norm of the encoded noise, and the largest mean of the map of surprise over 3 x 3 points.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from common import Report, at_least, parser
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

import piadm_hpc
from piadm_hpc.analysis.density import Densities, densities
from piadm_hpc.config.run import RunConfig
from piadm_hpc.models.record import DensityCard, read_card, write_card
from piadm_hpc.models.registry import CARD, find_model
from piadm_hpc.models.target import states_like
from piadm_hpc.run.execute import load
from piadm_hpc.run.resolve import ResolvedRun

BOX = (6, 10)  # rows and columns that are shifted
FALSE_ALARMS = 0.05
SIZE = 3.0  # of the shift, in local standard deviations
KINDS = (("sharp", 100), ("smooth", 50))  # edges of the box, and how many years
CHUNK = 10  # years between two files


def synthetic(folder: Path) -> str:
    """Three members of smooth fields, and the regression of a model of them, for a quick run."""
    generator = np.random.default_rng(0)
    latitudes, longitudes = np.linspace(-75, 75, 8), np.arange(16) * 22.5
    waves = [np.cos(np.deg2rad(k * longitudes)) * np.cos(np.deg2rad(latitudes))[:, None] for k in range(4)]
    for member in ("57.x", "67.x", "68.x"):
        values = 280 + np.tensordot(generator.normal(size=(40, 4)), waves, 1) + 0.1 * generator.normal(size=(40, 8, 16))
        coordinates = {"time": np.arange(40), "lat": latitudes, "lon": longitudes}
        field = xr.DataArray(values, coordinates, ("time", "lat", "lon"), "TREFHT", {"units": "K"})
        field.to_netcdf(folder / f"TREFHT.B06.{member}.nc")
    recipe = Path(__file__).resolve().parents[1] / "datasets" / "ccsm-temperature.toml"
    changes = [f'output="{folder}/model"', 'network="none"', f'data.files=["{folder}/TREFHT.B06.*.nc"]', "reference.split=3"]
    return str(piadm_hpc.train(recipe, changes=changes, report=lambda line: None))


def shifted(x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Shift a box at a random place of every state [n, ..., rows, columns]."""
    rows, columns = x.shape[-2:]
    bump = torch.ones(BOX)
    if kind == "smooth":
        up, along = (torch.sin(torch.pi * (torch.arange(n) + 0.5) / n) for n in BOX)
        bump = up[:, None] * along
    made = x.clone()
    for field in made:
        top = int(torch.randint(rows - BOX[0] + 1, (), generator=generator))
        left = int(torch.randint(columns, (), generator=generator))
        at = (left + torch.arange(BOX[1])) % columns
        field[..., top : top + BOX[0], at] += SIZE * bump
    return made


def scores(found: Densities) -> dict[str, np.ndarray]:
    """Scores [n] of fields, large where a field is suspicious."""
    maps = torch.from_numpy(found.surprise).reshape(len(found.bits), -1, *found.surprise.shape[-2:])
    regional = avg_pool2d(pad(maps, (1, 1, 0, 0), mode="circular"), 3, stride=1).flatten(1).amax(1)
    return {
        "log-density": -found.log_density,
        "Gaussian's log-density": -found.gaussian,
        "norm of the noise": found.anomaly,
        "map of surprise": regional.numpy(),
    }


def member(resolved: ResolvedRun, files: list[Path], every: int) -> Tensor:
    """States of every n-th year of a member."""
    folder = find_model(resolved.config.model)
    return torch.cat([states_like(folder, resolved.model, file) for file in files])[::every]


def bits(report: Report, parts: dict[str, Densities]) -> None:
    """Add the table of bits per dimension, with standard errors over years."""
    rows = []
    for name, found in parts.items():
        numbers = [(values.mean(), values.std(ddof=1) / len(values) ** 0.5) for values in (found.bits, found.gaussian_bits)]
        bar = float(np.median(found.error)) / (np.log(2) * found.directions)
        rows.append([name, len(found.bits), *(f"{mean:.3f} +- {error:.3f}" for mean, error in numbers), bar])
    columns = ("member", "years", "bits per dimension", "Gaussian alone", "median bar of a year")
    report.add("Bits per dimension, of fields in units of the data", columns, rows)
    test = parts["test"]
    gain = float((test.gaussian_bits - test.bits).mean())
    report.aims.append(at_least("bits per dimension that the network gains on the test member", gain, 0.01))


def computed(folder: Path, name: str, resolved: ResolvedRun, x: Tensor) -> Densities:
    """Densities of states, kept in `folder` chunk by chunk."""
    parts = []
    for start in range(0, len(x), CHUNK):
        path = folder / f"{name}-{len(x)}-{start}.npz"
        if not path.is_file():
            found = densities(resolved, x[start : start + CHUNK], batch=CHUNK)
            np.savez(path, **{one.name: getattr(found, one.name) for one in fields(Densities)})
        parts.append(np.load(path))
    joined = {one.name: np.concatenate([part[one.name] for part in parts]) for one in fields(Densities)[:-1]}
    return Densities(**joined, directions=int(parts[0]["directions"]))


def detection(report: Report, parts: dict[str, Densities]) -> None:
    """Add the table of how many corrupted years each score finds."""
    calm = {name: np.sort(values)[::-1] for name, values in scores(parts["validation"]).items()}
    limits = {name: values[max(0, int(FALSE_ALARMS * (len(values) + 1)) - 1)] for name, values in calm.items()}
    rows: list[list[str | float]] = []
    for kind, title in (("test", "none: false alarms"), *((kind, f"{SIZE:g} sd, {kind} edges") for kind, _ in KINDS)):
        found = scores(parts[kind])
        shares = {name: float((found[name] > limits[name]).mean()) for name in limits}
        rows.append([title, len(parts[kind].bits), *shares.values()])
        if kind == "sharp":
            what = f"share of corrupted years found by the log-density at {FALSE_ALARMS:.0%} false alarms"
            report.aims.append(at_least(what, shares["log-density"], 0.95))
            report.aims.append(at_least("the same by the map of surprise", shares["map of surprise"], 0.95))
    report.add("Share of years above the limit", ("shift", "years", *limits), rows)


def main() -> int:
    options_parser = parser("Bits per dimension of held-out climate years, and corrupted fields that densities find.")
    options_parser.add_argument("--data", type=Path, help="folder of the files that the model's card names")
    options_parser.add_argument("--every", type=int, default=1, help="take every n-th year of a member")
    options_parser.add_argument("--out", type=Path, default=Path("anomalies"), help="folder of what was computed")
    options_parser.add_argument("--card", action="store_true", help="write the bits per dimension into the model's card")
    options = options_parser.parse_args()
    report = Report("anomalies, quick" if options.quick else "anomalies")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            compared(report, synthetic(Path(folder)), Path(folder), 4, Path(folder) / "out")
            report.aims = [aim for aim in report.aims if "gains" not in aim.what]  # there is no network
            return report.finish(options.json)
    if options.data is None:
        options_parser.error("give the folder of the model's files with --data")
    found = compared(report, "ccsm-temperature", options.data, options.every, options.out)
    if options.card:
        path = find_model("ccsm-temperature") / CARD
        write_card(path, read_card(path).model_copy(update={"densities": found}))
    return report.finish(options.json)


def compared(report: Report, name: str, folder: Path, every: int, out: Path) -> dict[str, DensityCard]:
    """Densities of the members of a model's data, clean and corrupted; return what a card says of the clean ones."""
    out.mkdir(parents=True, exist_ok=True)
    config = RunConfig(model=name, density={"enabled": True, "traces": 2}, solver={"tol": 0.1}, compute={"model_batch": 64})
    resolved = load(config)
    recipe, files = resolved.model.card["training"]["config"]["data"], resolved.model.card["data"]["files"]
    chosen = {
        part: [folder / file for file in files if any(fnmatch(file, pattern) for pattern in recipe[f"{part}_files"])]
        for part in ("test", "validation")
    }
    rest = [folder / file for file in files if folder / file not in (*chosen["test"], *chosen["validation"])]
    states = {part: member(resolved, paths, every) for part, paths in {**chosen, "training": rest[:1]}.items()}
    clean, generator = list(states), torch.Generator().manual_seed(0)
    for kind, count in KINDS:
        years = states["test"][torch.arange(min(count, 5 * len(states["test"]))) % len(states["test"])]
        states[kind] = shifted(years, kind, generator)
    parts = {part: computed(out, part, resolved, x) for part, x in states.items()}
    bits(report, {part: parts[part] for part in clean})
    detection(report, parts)
    return {part: for_card(parts[part]) for part in clean}


def for_card(found: Densities) -> DensityCard:
    """Mean bits per dimension to four digits."""
    mean, error, alone = found.bits.mean(), found.bits.std(ddof=1) / len(found.bits) ** 0.5, found.gaussian_bits.mean()
    digits = {"bits_per_dimension": mean, "standard_error": error, "gaussian": alone}
    return DensityCard(states=len(found.bits), **{key: round(float(value), 4) for key, value in digits.items()})


if __name__ == "__main__":
    sys.exit(main())
