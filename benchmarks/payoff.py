"""When sweeps pay: seconds per sample of the shipped climate model against the number of ranks, on two kinds of machine.

    python benchmarks/payoff.py --figure docs/images/ranks.svg

"Own device": every rank has an EMULATED accelerator of its own that takes 0.4 s for a point. The network computes its output on
the processor in the meantime, and the rank sleeps for the rest of the time. "Shared cores": the ranks share the cores of this
machine. Samples, sweeps, messages and stopping tests are real in both cases. Errors are distances, in standard deviations of
the data, to the same chain step by step (SDE) or to the converged flow.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Cell, Report, answer, at_least, at_most, launch, parser, question
from torch import Tensor

from piadm_hpc import load_model
from piadm_hpc.comm.communicator import MPICommunicator
from piadm_hpc.comm.rank_grid import world
from piadm_hpc.config.run import RunConfig
from piadm_hpc.run.resolve import make_sampler
from piadm_hpc.solvers.sampler import Sampler

MODEL, TOL = "ccsm-temperature", 1e-2
DEVICES = {"own": "every rank has a device of its own (emulated)", "shared": "all ranks share the cores of one machine"}
STEPS = {"solver": {"kind": "sequential"}}


@dataclass(frozen=True)
class Method:
    """One line of the figure: its name, the equation that it solves, and its sections of the configuration."""

    name: str
    equation: str
    sections: dict[str, Any]

    @property
    def sweeps(self) -> bool:
        return self.sections.get("solver") != STEPS["solver"]


METHODS = (
    Method("SDE in sweeps", "SDE", {}),
    Method("SDE in sweeps over every second point", "SDE", {"solver": {"alternate": True}}),
    Method("SDE step by step, 16 steps", "SDE", STEPS),
    Method("flow by collocation", "flow", {"chain": {"eta": 0.0}}),
    Method("flow, two-step solver", "flow", {"chain": {"integrator": "gaussian-ab2"}, "grid": {"steps": 14}, **STEPS}),
    Method("flow, DPM-Solver++(2M)", "flow", {"chain": {"integrator": "dpmpp-2m"}, "grid": {"steps": 32}, **STEPS}),
)
QUICK = (3, 4)  # the flow in sweeps and step by step
CONVERGED = {
    "SDE": {"solver": {"kind": "sequential"}},
    "flow": {"chain": {"eta": 0.0}, "solver": {"tol": 1e-4}, "compute": {"precision": "float64"}},
}
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
COLUMNS = ("method", "ranks", "sequential NFE", "NFE", "error", "s a sample")


class Device:
    """The score on a device that takes `wait` seconds a row, independent of the processor of this machine."""

    def __init__(self, score: Any, wait: float):
        self.score, self.wait = score, wait

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        until = time.perf_counter() + self.wait * len(x)
        result: Tensor = self.score(x, t)
        time.sleep(max(0.0, until - time.perf_counter()))
        return result


def sampler(sections: dict[str, Any], wait: float = 0.0) -> Sampler:
    plain = make_sampler(RunConfig.model_validate({"model": MODEL, **sections}), load_model(MODEL))
    return replace(plain, score=Device(plain.score, wait)) if wait else plain


def work(path: str) -> None:
    """The part of one rank: all samples of one method, timed over all ranks; rank 0 returns the result."""
    setting = question(path)
    torch.set_num_threads(1)
    comm = MPICommunicator(world())
    one = METHODS[setting["method"]]
    drawn, results = sampler(one.sections, setting["wait"]), []
    drawn.score(torch.zeros(1, *drawn.event_shape), drawn.chain.t[:1])  # the first call of a network is slow
    for sample in range(setting["samples"]):
        seconds = []
        for _ in range(setting["repeats"]):
            comm.barrier()
            start = time.perf_counter()
            solution = drawn.draw([sample], comm=comm)
            seconds.append(max(comm.gather_objects(time.perf_counter() - start)))
        costs = {"rounds": int(solution.rounds[0]), "calls": int(solution.calls[0]), "x": solution.x.flatten().tolist()}
        results.append({"seconds": min(seconds), **costs})
    if comm.rank == 0:
        answer(path, results)


def measure(device: str, method: int, ranks: int, truth: dict[str, Tensor], options: Any) -> list[Cell]:
    """Means over samples: sequential NFE, NFE, and seconds of the shortest repeat; the error is the largest."""
    own = device == "own"
    setting = {"method": method, "wait": options.wait if own else 0.0, "samples": options.samples}
    results = launch(__file__, ranks, {**setting, "repeats": 1 if own else options.repeats})
    one = METHODS[method]
    x = torch.tensor([sample["x"] for sample in results], dtype=torch.float64)
    error = float((x - truth[one.equation][: len(x)]).square().mean(1).sqrt().max())
    rounds, calls, seconds = (sum(sample[name] for sample in results) / len(results) for name in ("rounds", "calls", "seconds"))
    print(f"{device}, {one.name}, {ranks} ranks: {seconds:.2f} s", file=sys.stderr, flush=True)
    return [one.name, ranks, rounds, calls, error, seconds]


def tables(report: Report, options: Any) -> dict[str, list[list[Cell]]]:
    """The lines of both machines: step by step on one rank, in sweeps on every number of ranks up to that of points."""
    needed = {METHODS[k].equation for k in options.methods}
    truth = {name: sampler(CONVERGED[name]).draw(range(options.samples)).x.double().flatten(1) for name in needed}
    most = {k: sampler(METHODS[k].sections).chain.num_steps if METHODS[k].sweeps else 1 for k in options.methods}
    lines: dict[str, list[list[Cell]]] = {}
    for device, title in DEVICES.items():
        wanted = [
            (k, ranks) for k in options.methods for ranks in (options.ranks if METHODS[k].sweeps else [1]) if ranks <= most[k]
        ]
        lines[device] = [measure(device, k, ranks, truth, options) for k, ranks in wanted]
        detail = f", {1e3 * options.wait:g} ms a point" if device == "own" else ""
        report.add(f"{title}{detail}", COLUMNS, lines[device])
    return lines


def aims(report: Report, lines: dict[str, list[list[Cell]]], options: Any) -> None:
    """Limits: errors within the tolerance, and sweeps faster than steps on devices of their own, for both equations."""
    worst = max(float(row[4]) for rows in lines.values() for row in rows)
    report.aims.append(at_most("largest error", worst, TOL))
    if not options.quick:
        for equation in ("SDE", "flow"):
            seconds = {one.sweeps: [] for one in METHODS}
            for row in lines["own"]:
                one = next(one for one in METHODS if one.name == row[0])
                if one.equation == equation:
                    seconds[one.sweeps].append(float(row[5]))
            report.aims.append(at_least(f"{equation}: steps over sweeps in time", min(seconds[False]) / min(seconds[True]), 1.0))


def draw(lines: dict[str, list[list[Cell]]], path: Path) -> None:
    """Plot seconds per sample against ranks: sweeps as lines, samplers step by step as levels, shaded where sweeps are faster."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"SDE": "#00796b", "flow": "#c75b12"}
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ranks", "font.family": "sans-serif"})
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), constrained_layout=True)
    for axis, (device, title) in zip(axes, DEVICES.items(), strict=True):
        for equation, colour in colours.items():
            named = [(one, [r for r in lines[device] if r[0] == one.name]) for one in METHODS if one.equation == equation]
            lines_of, levels = ([pair for pair in named if pair[0].sweeps is sweeps] for sweeps in (True, False))
            ranks = [int(r[1]) for r in lines_of[0][1]]
            for (one, rows), style in zip(lines_of, ("o-", "s-."), strict=False):
                axis.plot(ranks, [float(r[5]) for r in rows], style, color=colour, markersize=4, label=one.name)
            for (one, level), style in zip(levels, ("--", ":"), strict=False):
                axis.axhline(float(level[0][5]), color=colour, linestyle=style, linewidth=1.2, label=one.name)
            seconds = [min(float(rows[k][5]) for _, rows in lines_of) for k in range(len(ranks))]
            best = min(float(level[0][5]) for _, level in levels)
            between = np.geomspace(ranks[0], ranks[-1], 200)
            curve = np.exp(np.interp(np.log(between), np.log(ranks), np.log(seconds)))
            axis.fill_between(between, curve, best, where=curve <= best, color=colour, alpha=0.25, linewidth=0)
            if seconds[-1] < best:
                axis.annotate("sweeps pay", (ranks[-1], best), (0, 4), textcoords="offset points", ha="right", color=colour)
        axis.set(xscale="log", yscale="log", xlabel="MPI ranks of one sample", title=title)
        axis.set_xticks(counts := sorted({int(row[1]) for row in lines[device]}), map(str, counts))
        low, high = axis.get_ylim()
        axis.set_yticks(*zip(*[(tick, f"{tick:g}") for tick in TICKS if low < tick < high], strict=True))
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("seconds per sample")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    options_parser = parser("The time of one sample against ranks, on emulated devices and on shared cores.")
    options_parser.add_argument("--wait", type=float, default=0.4, help="seconds that the emulated device takes for a point")
    options_parser.add_argument("--samples", type=int, default=2, help="samples, drawn in sequence")
    options_parser.add_argument("--repeats", type=int, default=3, help="repeats on shared cores; the shortest counts")
    options_parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="ranks of one sample")
    options_parser.add_argument("--figure", type=Path, metavar="FILE", help="draw both tables into this file")
    options_parser.set_defaults(methods=range(len(METHODS)))
    options = options_parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    if options.quick:
        options.wait, options.samples, options.repeats, options.ranks, options.methods = 0.0, 1, 1, [2], QUICK
    report = Report("time against ranks")
    lines = tables(report, options)
    aims(report, lines, options)
    if options.figure is not None:
        draw(lines, options.figure)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
