"""Sweeps of A = P on a Gaussian, compared with the Lambda law: the smallest k with Lambda^k / k! <= tol.

Lambda of a block is the integral of the score's slope over it. For data with variance lam in every mode it is
kappa (dtheta + ln v_first / v_last) with v = 1 + (lam - 1) e^-theta. All blocks have the same Lambda and the same fixed depth.

    python benchmarks/lambda_law.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import Report, at_most, parser, solve
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.gaussian.reference import isotropic
from piadm_hpc.models.analytic import GaussianField
from piadm_hpc.theory.grid import TimeGrid, piadm
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

LEVELS = (1e-1, 1e-2, 1e-3)
MODES, SAMPLES, DELTA = 64, 4, 1e-3
SLACK = 2
VARIANCES, HORIZONS = [0.013, 0.1, 1.0, 10.0], [4.0, 8.0]
COLUMNS = (
    "equation",
    "variance",
    "horizon",
    "blocks",
    "Lambda a block",
    *[f"predicted, {level:g}" for level in LEVELS],
    *[f"measured, {level:g}" for level in LEVELS],
)


def clock(grid: TimeGrid, variance: float, kappa: float) -> Tensor:
    """Lambda from the first point to every point: [J+1]."""
    theta = grid.t
    v = 1 + (variance - 1) * torch.exp(-theta)
    return kappa * (theta[0] - theta + torch.log(v[0] / v))


def predicted(law: float, level: float) -> int:
    """Smallest k with law^k / k! <= level."""
    k = 1
    while k * math.log(law) - math.lgamma(k + 1) > math.log(level):
        k += 1
    return k


def measured(grid: TimeGrid, variance: float, eta: float, levels: Sequence[float]) -> list[int]:
    """Smallest depth, equal in all blocks, at which the root mean square error in standard deviations is below each level."""
    process, reference = OU(), isotropic((MODES,), variance)
    chain, target = integrators.piadm(process, grid, eta=eta), GaussianField(process, reference)
    noise = Noise(0, MODES, dtype=torch.float64)
    x0 = noise.at([0], range(SAMPLES), stream=PRIOR)[0, :, 0]
    truth = solve(chain, target, x0, noise=noise, solver="sequential").x
    deviation = math.sqrt(variance + DELTA)
    depths: list[int] = []
    for depth in range(1, grid.num_steps + 1):
        x = solve(chain, target, x0, noise=noise, linear="process", tol=None, sweeps=depth).x
        error = float((x - truth).square().mean().sqrt()) / deviation
        while len(depths) < len(levels) and error <= levels[len(depths)]:
            depths.append(depth)
        if len(depths) == len(levels):
            break
    return depths


def row(eta: float, variance: float, horizon: float, blocks: int, step: float) -> list[Any]:
    kappa = (1 + eta**2) / 2
    grid = piadm(OU(), horizon=horizon, delta=DELTA, step=step).with_blocks(1)
    ticks = clock(grid, variance, kappa)
    grid = grid.with_edges_at(ticks, blocks)
    edges = torch.tensor(grid.edges)
    law = float((ticks[edges[1:]] - ticks[edges[:-1]]).max())
    return [
        "SDE" if eta > 0 else "ODE",
        variance,
        horizon,
        blocks,
        law,
        *[predicted(law, level) for level in LEVELS],
        *measured(grid, variance, eta, LEVELS),
    ]


def main() -> int:
    options = parser("Sweeps of A = P on a Gaussian against the Lambda law.").parse_args()
    variances, horizons, cuts, step = ([0.1], [4.0], (1, 2), 0.25) if options.quick else (VARIANCES, HORIZONS, (1, 4), 1 / 16)
    report = Report("lambda_law")
    rows = [
        row(eta, variance, horizon, blocks, step)
        for eta in (1.0, 0.0)
        for variance in variances
        for horizon in horizons
        for blocks in cuts
    ]
    report.add(f"Sweeps a block to 0.1, 0.01, 0.001 standard deviations; {MODES} modes, {SAMPLES} samples", COLUMNS, rows)
    worst = max(line[8 + i] - line[5 + i] for line in rows for i in range(len(LEVELS)))
    report.aims.append(at_most("largest excess of measured over predicted sweeps", worst, SLACK))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
