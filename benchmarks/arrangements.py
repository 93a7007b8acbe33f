"""Sequential waits of one chain on P accelerators, in one block, in blocks, in a window and with pipelined blocks.

    python benchmarks/arrangements.py

The targets are those of `families.py`, with exact scores and 48 steps. A sweep with n open points takes ceil(n / P) waits on P
accelerators that evaluate one point each; `piadm plan` minimises their sum over the sweeps of a sample. Waits are counted,
not timed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from common import Cell, Report, at_most, parser, solve
from dimension import STEPS, TOL
from families import DELTA, PROCESS, Target, mixture, tails
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import PRIOR
from piadm_hpc.theory.process import forward_time

RANKS = (1, 4, 8, 16, 24, 48)
# the arrangement that `piadm plan` proposes for a number of time ranks, and how far above the best it may be
PROPOSED = {8: "window of 8", 16: "window of 16", 24: "window of 24", 48: "one block"}
WORSE = 1.15


@dataclass(frozen=True)
class Way:
    """A row: blocks of equal Lambda, a window or a pipeline over those blocks, and the options of the solver."""

    label: str
    blocks: int = 1
    published: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def ways(*, published: bool) -> list[Way]:
    """All arrangements of one kind of sweep."""
    windows, blocks, fronts = ((8, 16, 24), (2, 4, 8), (4, 8)) if published else ((4, 8, 16, 24, 32), (2, 3, 4, 6), (2, 4, 6, 8))
    fixed: dict[str, Any] = {"linear": "process", "start": "constant"} if published else {}
    return [
        Way("one block", 1, published, fixed),
        *[Way(f"window of {n}", 1, published, {**fixed, "window": n}) for n in windows],
        *[Way(f"{n} blocks", n, published, fixed) for n in blocks],
        *[Way(f"pipelined over {n} blocks", n, published, {**fixed, "pipelined": True}) for n in fronts],
    ]


def chain_of(target: Target, way: Way) -> Chain:
    grid = log_snr(PROCESS, STEPS, horizon=target.horizon, delta=DELTA)
    if way.blocks > 1:
        theta = forward_time(PROCESS, grid.t)
        grid = grid.with_edges_at(theta[0] - theta - torch.log(theta / theta[0]), way.blocks)
    if way.published:
        return integrators.piadm(PROCESS, grid)
    return integrators.gaussian_exponential(PROCESS, grid, target.reference)


class Sweeps:
    """The score of a target, which records the number of points in each of its calls, one call a sweep."""

    def __init__(self, target: Target):
        self.target = target
        self.points: list[int] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.points.append(len(x))
        return self.target.score(x, t)


def measure(target: Target, way: Way) -> list[float]:
    """Means over samples, solved one at a time: rounds, points evaluated, and waits for each number of RANKS."""
    chain, costs = chain_of(target, way), []
    signal, spread = chain.entry()
    reference = {} if way.published else {"reference": target.reference}
    for sample in range(target.samples):
        score = Sweeps(target)
        first = target.reference.draw(target.noise().at([0], [sample], stream=PRIOR)[0, :, 0], signal[0], spread[0, 0])
        given = {"noise": target.noise(), "scale": target.deviation, "samples": [sample], "tol": TOL, **reference, **way.settings}
        solution = solve(chain, score, first, **given)
        waits = [sum(-(-points // ranks) for points in score.points) for ranks in RANKS]
        costs.append([float(solution.rounds[0]), float(solution.calls[0]), *map(float, waits)])
    return [sum(column) / len(costs) for column in zip(*costs, strict=True)]


def table(report: Report, target: Target, *, published: bool) -> None:
    """One table, and the limits on the arrangements that `piadm plan` proposes."""
    rows: list[list[Cell]] = [[way.label, *measure(target, way)] for way in ways(published=published)]
    kind = "the published chain, A = P" if published else "the default chain"
    columns = ("arrangement", "rounds", "points evaluated", *[f"waits, P = {ranks}" for ranks in RANKS])
    report.add(f"{target.name}, {kind}: {target.samples} samples, one at a time", columns, rows)
    print(f"{target.name}, {kind} done", file=sys.stderr, flush=True)
    for ranks, label in PROPOSED.items():
        waits = {str(row[0]): float(row[3 + RANKS.index(ranks)]) for row in rows}
        what = f"waits on {ranks} ranks over the fewest, {label}, {target.name}, {kind}"
        report.aims.append(at_most(what, waits[label] / min(waits.values()), WORSE))


def main() -> int:
    options_parser = parser("Waits in sequence of every arrangement of a chain's points.")
    options_parser.add_argument("--size", type=int, default=1024, help="dimension")
    options_parser.add_argument("--samples", type=int, default=8, help="draws a line")
    options = options_parser.parse_args()
    if options.quick:
        options.size, options.samples = 64, 2
    torch.set_num_threads(1)
    report = Report("arrangements")
    for family in (tails, mixture):
        for published in (False, True):
            table(report, family(options.size, options.samples), published=published)
    if options.quick:
        report.aims = [at_most("tables without a row", float(sum(not rows for rows in report.tables.values())), 0)]
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
