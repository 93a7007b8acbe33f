"""Sweeps that evaluate every second point by turns, against sweeps that evaluate all: rounds, calls and errors.

    python benchmarks/turns.py                     the shipped models, and exact scores on the published grid
    python benchmarks/turns.py --models            without the shipped models

Both sweep over the same chain with the same noise until the same tolerance is met. The error of a sample is its root mean
square distance from the chain step by step, in standard deviations of the data. Entries are medians over samples.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import Report, at_most, parser
from rounds import METHODS, analytic, chain_of
from torch import Tensor

from piadm_hpc import RunConfig, load_model
from piadm_hpc.run.resolve import resolve
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.solvers.solution import Solution

MODELS = ("ccsm-temperature", "alanine-dipeptide")
CHAINS: dict[str, dict[str, Any]] = {"SDE": {}, "flow, gaussian-ab2": {"eta": 0.0, "integrator": "gaussian-ab2"}}
TARGETS = ("A", "B", "C")
TOLERANCES = (1e-2, 1e-3)
COLUMNS = ("chain", "steps", "tol", "rounds, all", "rounds, by turns", "calls, all", "calls, by turns", "largest error / tol")


@dataclass(frozen=True)
class Pair:
    """A chain's name and length, its samples by sweeps over all points and by turns, and the errors of the latter."""

    name: str
    steps: int
    tol: float
    full: Solution
    turns: Solution
    errors: Tensor


def of_model(name: str, chain: dict[str, Any], samples: int) -> Iterator[Pair]:
    """The chain of a shipped model as it is sampled by default, or by the given integrator."""
    model = load_model(name)
    config = RunConfig.model_validate({"model": name, "solver": {"kind": "picard"}, "chain": chain})
    sampler, ids = resolve(config, model).sampler, range(samples)
    scale = torch.as_tensor(sampler.options.scale).reshape(-1)
    truth = _with(sampler, solver="sequential").draw(ids).x.flatten(1)
    label = f"{name}, {next(key for key, value in CHAINS.items() if value == chain)}"
    for tol in TOLERANCES:
        full, turns = (_with(sampler, tol=tol, alternate=alternate).draw(ids) for alternate in (False, True))
        errors = ((turns.x.flatten(1) - truth) / scale).square().mean(1).sqrt()
        yield Pair(label, sampler.chain.num_steps, tol, full, turns, errors)


def of_target(name: str, eta: float, samples: int) -> Iterator[Pair]:
    """An exact score on the published grid, with the Gaussian-aware integrator in one block."""
    target, method = analytic(name, 1024, 1 / 16, samples), METHODS[-1]
    chain = chain_of(target, method, eta)
    truth = target.solve(chain, solver="sequential").x
    for tol in TOLERANCES:
        full, turns = (target.solve(chain, tol=tol, alternate=alternate) for alternate in (False, True))
        errors = target.error(turns.x, truth)
        yield Pair(f"target {name}, {'SDE' if eta else 'flow'}", chain.num_steps, tol, full, turns, errors)


def _with(sampler: Sampler, **settings: Any) -> Sampler:
    return replace(sampler, options=replace(sampler.options, **settings))


def row(pair: Pair) -> list[str | float | int]:
    """The medians of a pair."""
    counts = [float(getattr(one, key).double().median()) for key in ("rounds", "calls") for one in (pair.full, pair.turns)]
    return [pair.name, pair.steps, pair.tol, *counts, float(pair.errors.max()) / pair.tol]


def main() -> int:
    options_parser = parser("Every second point by turns, against all points.")
    options_parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    options_parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    options_parser.add_argument("--samples", type=int, default=8)
    options = options_parser.parse_args()
    if options.quick:
        options.models, options.targets, options.samples = ["ccsm-temperature"], [], 2
    torch.set_num_threads(1)
    report, rows = Report("turns"), []
    pairs = [of_model(name, chain, options.samples) for name in options.models for chain in CHAINS.values()]
    pairs += [of_target(name, eta, options.samples) for name in options.targets for eta in (1.0, 0.0)]
    for found in pairs:
        for pair in found:
            rows.append(row(pair))
            wrong = float((pair.errors * pair.turns.converged).max()) / pair.tol
            report.aims.append(at_most(f"{pair.name}, {pair.tol:g}: largest error of a converged sample", wrong, 1))
            print(rows[-1], file=sys.stderr, flush=True)
    report.add("Rounds and calls until the tolerance is met", COLUMNS, rows)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
