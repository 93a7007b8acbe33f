"""Error against network calls of every integrator on a trained model: the best method for a budget of calls.

    python benchmarks/choices.py                          all methods, 5 to 100 calls, 8 samples (15 minutes, one core)
    python benchmarks/choices.py --figure docs/calls.svg  the same, with the figure
    python benchmarks/choices.py --model FOLDER           another model than the shipped climate model

The error of a deterministic method is the root mean square distance, in standard deviations of the data, to the converged
probability flow from the same draw (in data space or in phase space). For all methods the error of the spectrum is the root
mean square of log(variance / variance of the converged samples) over groups of the reference's modes. Every method runs on
the grid that suits it best at 20 calls on two other samples. A budget is rounded down to whole steps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import Report, at_most, parser
from torch import Tensor

import piadm_hpc
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError
from piadm_hpc.integrators import catalogue
from piadm_hpc.models.card import Model
from piadm_hpc.run.resolve import make_sampler

GRIDS = ({"kind": "log-snr"}, {"kind": "karras"}, {"kind": "power", "exponent": 2.0})


@dataclass(frozen=True)
class Choice:
    """A method with its options."""

    label: str
    name: str
    options: dict[str, Any]

    @property
    def random(self) -> bool:
        noise = catalogue.find(self.name).noise
        return noise == "always" or (noise != "never" and self.options.get(noise, 1.0 if noise == "eta" else 0.0) > 0)


CHOICES = (
    *(
        Choice(one.name, one.name, {"eta": 1.0} if one.noise == "eta" else {})
        for one in catalogue.INTEGRATORS.values()
        if one.order  # collocation takes no steps
    ),
    Choice("gaussian, eta 0.5", "gaussian", {"eta": 0.5}),
    Choice("gaussian, ODE", "gaussian", {"eta": 0.0}),
    Choice("piadm, ODE", "piadm", {"eta": 0.0}),
    Choice("lambda-ddim, -0.25", "lambda-ddim", {"lam": -0.25}),
    Choice("lambda-ddim, best", "lambda-ddim", {"lam": "best"}),
    Choice("lambda-ddim-i-r, -0.5", "lambda-ddim-i-r", {"lam": -0.5}),
    Choice("robab, ahead", "robab", {"score_time": "ahead"}),
    Choice("roba, ahead", "roba", {"score_time": "ahead"}),
)


@dataclass(frozen=True)
class Truth:
    """Converged samples from the same draws, in data space and in phase space, and the groups of modes of a spectrum."""

    model: Model
    samples: tuple[int, ...]
    flows: dict[str, Tensor]
    groups: list[slice]

    def distance(self, space: str, x: Tensor) -> float:
        return float((x - self.flows[space]).square().mean().sqrt())

    def spectrum(self, x: Tensor) -> Tensor:
        """Mean variance of the samples about the reference's mean, in every group of modes."""
        reference = self.model.reference
        energy = reference.basis.analyse(x.flatten(1).double() - reference.mean).square().mean(0)
        return torch.stack([energy[group].mean() for group in self.groups])

    def spectrum_error(self, space: str, x: Tensor) -> float:
        return float(torch.log(self.spectrum(x) / self.spectrum(self.flows[space])).square().mean().sqrt())


def draw(model: Model, choice: Choice, calls: int, grid: dict[str, Any], samples: Sequence[int]) -> Tensor | None:
    """End states with a budget of calls; None where the configuration refuses the method."""
    per_step = catalogue.find(choice.name).calls
    used = max(1, calls // per_step) * per_step
    config = RunConfig(
        model=model.name,
        chain={"integrator": choice.name, **choice.options},
        grid={"calls": used, **grid},
        solver={"kind": "sequential"},
    )
    try:
        return make_sampler(config, model).draw(samples).x
    except ConfigError:
        return None


def converged(model: Model, samples: Sequence[int], calls: int) -> Truth:
    """Both probability flows by second-order methods with very many steps."""
    flows = {}
    for space, name in (("data", "dpmpp-2m"), ("phase", "gddim-ab2")):
        x = draw(model, Choice(name, name, {}), calls, GRIDS[0], samples)
        assert x is not None
        flows[space] = x
    size = model.reference.basis.num_coords
    edges = sorted({round(size ** (k / 10)) for k in range(11)} | {0})
    return Truth(model, tuple(samples), flows, [slice(a, b) for a, b in pairwise(edges)])


def error(truth: Truth, choice: Choice, calls: int, grid: dict[str, Any]) -> tuple[float, float]:
    """Distance (NaN for random methods) and error of the spectrum; infinite where the method is refused or overflows."""
    x = draw(truth.model, choice, calls, grid, truth.samples)
    if x is None or not bool(torch.isfinite(x).all()):
        return (math.nan if choice.random else math.inf), math.inf
    space = catalogue.find(choice.name).space
    return math.nan if choice.random else truth.distance(space, x), truth.spectrum_error(space, x)


def best_grid(truth: Truth, choice: Choice, calls: int) -> dict[str, Any]:
    def score(grid: dict[str, Any]) -> float:
        distance, spectrum = error(truth, choice, calls, grid)
        return spectrum if choice.random else distance

    return min(GRIDS, key=score)


def cell(pair: tuple[float, float]) -> str:
    distance, spectrum = pair
    if math.isinf(spectrum):
        return "unstable"
    return f"{spectrum:.2g}" if math.isnan(distance) else f"{distance:.2g} / {spectrum:.2g}"


def figure(path: Path, budgets: Sequence[int], rows: dict[str, list[tuple[float, float]]], choices: Sequence[Choice]) -> None:
    """Plot the distance of deterministic methods and the spectrum error of random ones against calls.

    The legend names the best methods, ordered by their error at the largest budgets. Methods of phase space are dashed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    plot, axes = pyplot.subplots(1, 2, figsize=(11, 5), sharex=True)
    titles = ("methods without noise: distance to the exact flow", "random methods: error of the spectrum")
    units = ("standard deviations of the data", "log of the variance, root mean square over scales")
    for side, (axis, title, unit) in enumerate(zip(axes, titles, units, strict=True)):
        own = {c.label: [pair[side] for pair in rows[c.label]] for c in choices if c.random == bool(side)}
        styles = {c.label: "--" if catalogue.find(c.name).space == "phase" else "-" for c in choices}
        last = {label: min(v if math.isfinite(v) else 1e9 for v in values[-3:]) for label, values in own.items()}
        named = sorted(own, key=lambda label: last[label])[:9]
        named += [k for k in ("ddim", "heun", "dpmpp-2m", "ddpm") if k in own and k not in named]
        colours = {label: f"C{index % 10}" for index, label in enumerate(named)}
        for label in sorted(own, key=lambda label: -last[label]):
            finite = [v if math.isfinite(v) and v < 10 else math.nan for v in own[label]]
            shown = {"label": label, "color": colours[label], "marker": "o", "zorder": 2} if label in named else {"color": "0.85"}
            axis.loglog(budgets, finite, styles[label], markersize=3, **shown)
        axis.set(title=title, xlabel="network calls", ylabel=unit, xticks=budgets, xticklabels=budgets)
        axis.legend(fontsize=7)
    plot.tight_layout()
    plot.savefig(path)


def main() -> int:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--figure", metavar="FILE", help="draw error against calls into this file")
    options_parser.add_argument("--model", default="ccsm-temperature", help="name of a shipped model, or a model folder")
    options_parser.add_argument("--samples", type=int, default=8)
    options = options_parser.parse_args()
    torch.set_num_threads(1)
    model, quick = piadm_hpc.load_model(options.model), options.quick
    budgets = (4,) if quick else (5, 10, 20, 50, 100)
    choices = [c for c in CHOICES if not quick or c.name in ("ddim", "dpmpp-2m", "heun", "gddim-ab2", "sscs")]
    pilot = converged(model, (100,) if quick else (100, 101), 8 if quick else 200)
    truth = pilot if quick else converged(model, range(options.samples), 300)
    rows, grids = {}, {}
    for choice in choices:
        grids[choice.label] = best_grid(pilot, choice, 4 if quick else 20)
        rows[choice.label] = [error(truth, choice, calls, grids[choice.label]) for calls in budgets]
    report = Report("choices")
    for kind, wanted in (
        ("Deterministic methods: distance / error of the spectrum", False),
        ("Random methods: error of the spectrum", True),
    ):
        lines = [[c.label, str(grids[c.label]["kind"]), *map(cell, rows[c.label])] for c in choices if c.random == wanted]
        report.add(kind, ["method", "grid", *map(str, budgets)], lines)
    if options.figure:
        figure(Path(options.figure), budgets, rows, choices)
    middle = budgets[len(budgets) // 2]
    winner = min((pairs[len(budgets) // 2][0] for c, pairs in rows.items() if not math.isnan(pairs[len(budgets) // 2][0])))
    report.aims.append(at_most(f"distance of the best method at {middle} calls, in deviations", winner, 5.0 if quick else 0.1))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
