"""Rollouts of a chaotic world with a trained network: leads pipelined, lead by lead, and step by step.

    python benchmarks/turbulence.py --model turbulence --data six_hours.nc --starts 4 --leads 0          # ten leads
    python benchmarks/turbulence.py --model turbulence --data six_hours.nc --starts 12 --tol             # fifty leads

The model is one of datasets/turbulence.toml and the data its file, whose last fields no model has seen; starts are taken from
these. For every tolerance ten leads are solved pipelined and lead by lead, and every lead of the former is compared with a tight
solve from its own predecessor. `--leads` follow, pipelined and with a chain made step by step: deviation, spectrum and memory of
the ensembles must agree, within three standard errors over the members and within a few per cent.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from common import Report, at_least, at_most, between, by_shell, parser
from torch import Tensor

import piadm_hpc
from piadm_hpc.run.resolve import resolve
from piadm_hpc.run.rollout import Starts, rollout_of
from piadm_hpc.solvers.rollout import Forecast, Rollout

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets" / "turbulence"))

TOL = 1e-2
LAST = 20  # leads whose statistics are compared
# what a member is described by, and how much of it the ensembles may differ by
STATISTICS = {"deviation": 0.05, "share of wavenumbers 1-4": 0.15, "share of 8-15": 0.15, "memory of one lead": 0.05}


def write_starts(data: Path, folder: Path, held_out: int, count: int) -> Path:
    """Write `count` fields of the held-out part of a file, evenly apart, as the starts of a rollout."""
    with xr.open_dataset(data) as dataset:
        places = np.linspace(len(dataset.time) - held_out, len(dataset.time) - 1, count).astype(int)
        starts = dataset.vorticity[places].load()
    folder.mkdir(parents=True, exist_ok=True)
    starts.rename("before").to_dataset().to_netcdf(folder / "starts.nc")
    return folder / "starts.nc"


def rollout_with(name: str, starts: Path, leads: int, **settings: dict) -> tuple[Rollout, Starts]:
    """The rollout of a configured run, and its starts."""
    config = piadm_hpc.RunConfig(model=name, condition={"file": str(starts)}, rollout={"leads": leads}, **settings)
    resolved = resolve(config, piadm_hpc.load_model(name))
    found = Starts.of(resolved.config, resolved.model)
    return rollout_of(resolved, found), found


def draw(rollout: Rollout, starts: Starts, leads: int) -> Forecast:
    """One member of every start."""
    count = len(starts.numbers)
    return rollout.draw(starts.past(range(count)), leads, members=[0] * count, starts=starts.numbers)


def largest_error(tight: Rollout, starts: Starts, found: Forecast) -> float:
    """The largest error of a lead given its own predecessor, root mean square in the deviation of its residuals."""
    known = torch.cat([starts.past(range(len(starts.numbers))), found.x], dim=1)
    worst = 0.0
    for lead in range(found.x.shape[1]):
        past = known[:, lead : lead + starts.order]
        exact = tight.draw(past, range(lead + 1, lead + 2), members=[0] * len(past), starts=starts.numbers)
        worst = max(worst, float((exact.x[:, 0] - found.x[:, lead]).flatten(1).square().mean(1).sqrt().max()))
    return worst


def power(fields: Tensor) -> Tensor:
    """Mean power per shell of wavenumbers of fields [n, *event]."""
    spectrum = torch.fft.fft2(fields.double().reshape(len(fields), *fields.shape[-2:])).abs().square().mean(0)
    return by_shell(spectrum)


def statistics(fields: Tensor) -> Tensor:
    """STATISTICS [members, 4] of fields [members, leads, *event], of the mean power and from lead to lead."""
    rows = []
    for member in fields.double():
        spectrum = power(member)[:16]
        large, small = spectrum[1:5].sum() / spectrum.sum(), spectrum[8:].sum() / spectrum.sum()
        before, after = member[:-1].flatten(), member[1:].flatten()
        rows.append(torch.stack([member.std(), large, small, (before @ after) / (before.norm() * after.norm())]))
    return torch.stack(rows)


def pipelined(report: Report, name: str, starts: Path, leads: int, tol: float, most: float) -> None:
    """Leads pipelined and one after the other, and the error of every lead given its own predecessor."""
    made, known = rollout_with(name, starts, leads, solver={"tol": tol})
    alone = draw(replace(made, threshold=None), known, leads)
    rounds, calls = float(alone.rounds.double().mean()), float(alone.calls.sum(1).double().mean())
    found = draw(made, known, leads)
    shares = float(found.rounds.double().mean()) / rounds, float(found.calls.sum(1).double().mean()) / calls
    rows: list[list[str | float]] = [["lead by lead", rounds, calls, 1.0, 1.0]]
    rows.append(["pipelined", shares[0] * rounds, shares[1] * calls, *shares])
    report.add(
        f"{leads} leads to {tol:g}, {len(known.numbers)} starts", ("rollout", "rounds", "calls", "of rounds", "of calls"), rows
    )
    tight, _ = rollout_with(name, starts, leads, solver={"tol": tol / 100}, grid={"steps": 40})
    report.aims += [
        at_most(f"tol {tol:g}: share of the rounds", shares[0], most),
        at_most(f"tol {tol:g}: share of the calls", shares[1], 1.2),
        at_most(
            f"tol {tol:g}: largest error / tol given the lead before",
            largest_error(replace(tight, threshold=None), known, found) / tol,
            1,
        ),
        at_least(f"tol {tol:g}: leads that met the tolerance", float((found.status <= 2).double().mean()), 1),
    ]


def after_many(report: Report, name: str, starts: Path, leads: int) -> None:
    """The ensemble after many leads, pipelined and step by step, in deviations of the data."""
    quick, known = rollout_with(name, starts, leads, solver={"tol": TOL})
    steps = {"chain": {"eta": 0.0, "integrator": "gaussian-ab2"}, "grid": {"steps": 24}, "solver": {"kind": "sequential"}}
    stepped, _ = rollout_with(name, starts, leads, **steps)
    last = min(leads, LAST)
    ends = [draw(rollout, known, leads).x[:, -last:] for rollout in (quick, stepped)]
    found = torch.stack([statistics(fields) for fields in ends])
    mean, error = found.mean(1), found.std(1) / found.shape[1] ** 0.5
    rows: list[list[str | float]] = [["pipelined", *mean[0].tolist()], ["step by step", *mean[1].tolist()]]
    rows += [["standard errors of the two", *error.square().mean(0).sqrt().tolist()]]
    apart = (mean[0] - mean[1]).abs() / error.square().sum(0).sqrt()
    rows += [["difference, in standard errors", *apart.tolist()]]
    title = f"{len(known.numbers)} members over the last {last} of {leads} leads"
    report.add(title, ("ensemble", *STATISTICS), rows)
    for column, (name, limit) in enumerate(STATISTICS.items()):
        report.aims += [
            at_most(f"{name}: difference in standard errors", float(apart[column]), 3),
            between(f"{name} over that of steps", float(mean[0, column] / mean[1, column]), 1 - limit, 1 + limit),
        ]


def synthetic(folder: Path) -> tuple[str, Path, int]:
    """The world on 16 x 16 points and the linear inverse model of it, for a quick run."""
    from barotropic import Barotropic, dataset

    fields = np.stack(list(Barotropic(16).fields(120, 12, seed=0, spin_up=5)))
    dataset(fields, 0.25).to_netcdf(folder / "fields.nc")
    recipe = Path(__file__).resolve().parents[1] / "datasets" / "turbulence.toml"
    changes = [f'output="{folder}/model"', 'network="none"', f'data.files=["{folder}/fields.nc"]']
    return str(piadm_hpc.train(recipe, changes=changes)), folder / "fields.nc", 8


def main() -> int:
    options_parser = parser("Rollouts of a chaotic world: pipelined, lead by lead, and step by step.")
    options_parser.add_argument("--model", default="turbulence", help="a model folder")
    options_parser.add_argument("--data", type=Path, help="the file that the model was trained on")
    options_parser.add_argument("--out", type=Path, default=Path("starts"), help="folder of the starts")
    options_parser.add_argument("--starts", type=int, default=8, help="number of starts")
    options_parser.add_argument("--tol", type=float, nargs="*", default=[1e-2, 1e-3], help="tolerances of ten leads")
    options_parser.add_argument("--most", type=float, default=0.45, help="aim for the share of rounds")
    options_parser.add_argument("--leads", type=int, default=50, help="leads after which ensembles are compared, 0 for none")
    options = options_parser.parse_args()
    report = Report("turbulence, quick" if options.quick else f"turbulence, {options.model}")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            name, data, held_out = synthetic(Path(folder))
            starts = write_starts(data, Path(folder), held_out, 2)
            pipelined(report, name, starts, 3, TOL, most=1.0)
            after_many(report, name, starts, 4)
            return report.finish(options.json)
    if options.data is None:
        options_parser.error("give the file of fields with --data")
    held_out = piadm_hpc.load_model(options.model).card["data"]["test"]
    starts = write_starts(options.data, options.out, held_out, options.starts)
    for tol in options.tol:
        pipelined(report, options.model, starts, 10, tol, options.most)
    if options.leads:
        after_many(report, options.model, starts, options.leads)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
