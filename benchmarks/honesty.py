"""Samples that are marked converged, compared with the same chain step by step, on targets that mislead stopping tests.

    python benchmarks/honesty.py                           100,000 draws over all combinations, many hours on one core
    python benchmarks/honesty.py --each 64                 as many draws of fewer combinations, a third of the time
    python benchmarks/honesty.py --draws 2000 --seed 3     a random part of the combinations
    python benchmarks/honesty.py --mode "window 8"         one way to solve a chain
    python benchmarks/honesty.py --target rain --tol 1e-3  some of the targets, one tolerance
    python benchmarks/honesty.py --out honesty.jsonl       resumes where the file ends

The combinations are those of every integrator below, a predictor-corrector chain among them; of the whole chain, every second
of its points by turns, windows of 8 and 32 points and pipelined blocks; of references with the target's own mean and variances,
with wrong ones and with none; of four tolerances; and of the targets of `hard_targets.py`. A flow by collocation is compared
with the exact flow; draws on which two fine solvers of it disagree are excluded and counted.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import Report, at_most, parser
from hard_targets import F64, PROCESS, Target, targets
from torch import Tensor

from piadm_hpc import Noise, Options, integrators, solve
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.solution import Solution, Status
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import PRIOR

HORIZON, DELTA, STEPS = 8.0, 2e-4, 48
DRAWS = 16  # of a combination
SMOOTH = ("two modes", "circle of eight", "sixteen modes", "categories", "rain")
MODES: dict[str, dict[str, Any]] = {
    "whole": {},
    "every second point": {"alternate": True},
    "window 8": {"window": 8},
    "window 32": {"window": 32},
    "pipelined": {"pipelined": True},
}
INTEGRATORS = {
    "gaussian": 1.0,
    "gaussian, eta 0.5": 0.5,
    "gaussian-ab2": 0.0,
    "gaussian-ab2, eta 1": 1.0,
    "gaussian-ab2, eta 0.5": 0.5,
    "piadm": 1.0,
    "ddpm": 1.0,
    "ddim": 0.0,
    "dpmpp-2m": 0.0,
    "sscs": 1.0,
    "predictor-corrector": 1.0,
    "collocation": 0.0,
}
TOLERANCES = (0.3, 0.1, 1e-2, 1e-3)
REFERENCES = ("own", "mean + 3", "variances x 100", "variances / 100", "none")


@dataclass(frozen=True)
class Case:
    """One combination."""

    target: str
    integrator: str
    mode: str
    reference: str
    tol: float

    @property
    def possible(self) -> bool:
        """Return whether the combination exists: a collocation is solved in one way only, and needs a reference."""
        return self.integrator != "collocation" or (self.mode == "whole" and self.reference != "none")


def cases() -> list[Case]:
    """All combinations that are possible."""
    names = [target.name for target in targets()]
    every = itertools.product(names, INTEGRATORS, MODES, REFERENCES, TOLERANCES)
    return [case for case in itertools.starmap(Case, every) if case.possible]


def reference_of(target: Target, name: str) -> GaussianReference | None:
    """The target's Gaussian, or one that is wrong on purpose."""
    own = target.reference
    wrong = {
        "own": own,
        "mean + 3": replace(own, mean=own.mean + 3),
        "variances x 100": replace(own, spectrum=own.spectrum * 100),
        "variances / 100": replace(own, spectrum=own.spectrum / 100),
        "none": None,
    }
    return wrong[name]


def predictor_corrector(steps: int, snr: float = 0.16) -> Chain:
    """Ancestral steps, each followed by a Langevin step of fixed signal-to-noise ratio (Song et al. 2021, algorithm 5)."""
    grid = log_snr(PROCESS, steps // 2, horizon=HORIZON, delta=DELTA)
    ancestral = integrators.ddpm(PROCESS, grid)
    alpha, sigma = PROCESS.alpha(grid.t), PROCESS.sigma(grid.t)
    size = 2 * (snr * sigma[1:]) ** 2
    ones = torch.ones_like(size)
    tables = {
        "P": (ancestral.P[:, 0, 0, 0], ones),
        "Q": (ancestral.Q[:, 0, 0, 0], size),
        "N": (ancestral.noise[:, 0, 0, 0], torch.sqrt(2 * size)),
    }
    # a corrector works at the time at which its predictor ends
    levels = {name: torch.cat([torch.stack([level[:-1], level[1:]], 1).flatten(), level[-1:]]) for name, level in
              (("t", grid.t), ("alpha", alpha), ("sigma", sigma))}  # fmt: skip
    return Chain(**{name: torch.stack(pair, 1).flatten() for name, pair in tables.items()}, **levels)


def chain_of(case: Case, target: Target, reference: GaussianReference | None) -> Chain:
    """The chain of a combination, in eight blocks where it is pipelined."""
    steps = 100 if case.tol < 1e-2 else STEPS
    if case.integrator == "predictor-corrector":
        return predictor_corrector(2 * steps)
    grid = log_snr(PROCESS, steps, horizon=HORIZON, delta=DELTA, num_blocks=8 if case.mode == "pipelined" else 1)
    name, options = case.integrator.partition(",")[0], integrators.Options(eta=INTEGRATORS[case.integrator])
    return integrators.build(name, PROCESS, grid, reference=reference or target.reference, options=options)


def run(case: Case, target: Target, draws: int, first: int) -> dict[str, Any]:
    """Results of some draws: how many are marked converged, and the errors of these in tolerances."""
    reference = reference_of(target, case.reference)
    size, samples = len(target.reference.mean), list(range(first, first + draws))
    scale = float(target.reference.spectrum.mean().sqrt())
    noise = Noise(0, size, dtype=F64)
    options = Options(tol=case.tol, scale=scale, linear="identity" if reference is None else "auto", **MODES[case.mode])
    known = torch.ones(draws, dtype=torch.bool)
    if case.integrator == "collocation":
        assert reference is not None
        scheme = Collocation(PROCESS, reference, HORIZON, DELTA, 16)
        x0 = _first(scheme.entry(), target.reference, noise, samples)[:, 0]
        found = solve(scheme, target.score, x0, options, reference=reference, samples=samples)
        truth, known = _flow(target, x0, scale * case.tol)
    else:
        # an integrator that is built on a reference needs one, even where sweeps have none
        aware = reference or (target.reference if case.integrator.startswith("gaussian") else None)
        chain = chain_of(case, target, aware)
        first_state = _first(chain.entry(), target.reference, noise, samples)
        x0, given = (first_state[:, 0], first_state[:, 1:]), {"noise": noise, "samples": samples, "reference": aware}
        found = solve(chain, target.score, x0, options, **given)
        truth = solve(chain, target.score, x0, Options(solver="sequential"), **given).x
    return _verdict(case, found, truth, known, scale)


def _first(entry: tuple[Tensor, Tensor], reference: GaussianReference, noise: Noise, samples: list[int]) -> Tensor:
    signal, spread = entry
    return reference.draw_state(noise.at([0], samples, len(signal), PRIOR)[0], signal, spread)


def _flow(target: Target, x0: Tensor, error: float) -> tuple[Tensor, Tensor]:
    """The exact flow by two fine solvers, and on which draws they agree."""
    ends = []
    for name, steps in (("heun", 1500), ("gaussian-ab2", 3000)):
        grid = log_snr(PROCESS, steps, horizon=HORIZON, delta=DELTA)
        chain = integrators.build(name, PROCESS, grid, reference=target.reference, options=integrators.Options(eta=0.0))
        ends.append(solve(chain, target.score, x0, Options(solver="sequential"), reference=target.reference).x)
    return ends[0], (ends[0] - ends[1]).square().mean(1).sqrt() < error / 4


def _verdict(case: Case, found: Solution, truth: Tensor, known: Tensor, scale: float) -> dict[str, Any]:
    error = (found.x - truth).square().mean(1).sqrt() / scale / case.tol
    passed = found.converged & known
    wrong = torch.where(passed, error, torch.zeros_like(error))
    status = found.status.amax(1)
    return {
        **vars(case),
        "draws": int(known.sum()),
        "undecided": int((~known).sum()),
        "converged": int(passed.sum()),
        "over 2 tol": int((wrong > 2).sum()),
        "over 10 tol": int((wrong > 10).sum()),
        "largest": float(wrong.max()),
        "finished step by step": int((status == int(Status.FINISHED_SEQUENTIALLY)).sum()),
        "rounds": float(found.rounds.to(torch.float64).mean()),
        "calls": float(found.calls.to(torch.float64).mean()),
    }


def summary(records: list[dict[str, Any]], to: str | None) -> int:
    """Print sums of the records by every part of a combination, and write them to `to`; returns the exit code."""
    report = Report("honesty")
    columns = ["", "draws", "converged", "over 2 tol", "over 10 tol", "largest / tol", "step by step", "rounds", "calls"]
    for key in ("target", "integrator", "mode", "reference", "tol"):
        rows = []
        for value in dict.fromkeys(record[key] for record in records):
            mine = [record for record in records if record[key] == value]
            counts = [sum(one[name] for one in mine) for name in ("draws", "converged", "over 2 tol", "over 10 tol")]
            costs = [sum(one[name] for one in mine) / len(mine) for name in ("rounds", "calls")]
            late = sum(one["finished step by step"] for one in mine)
            rows.append([str(value), *counts, max(one["largest"] for one in mine), late, *costs])
        report.add(f"By {key}", columns, rows)
    draws, wrong = (sum(record[name] for record in records) for name in ("draws", "over 2 tol"))
    smooth = [record for record in records if record["target"] in SMOOTH and record["reference"] == "own"]
    share = sum(one["finished step by step"] for one in smooth) / max(1, sum(one["draws"] for one in smooth))
    undecided = sum(record["undecided"] for record in records)
    print(f"{draws} draws, {undecided} left out because two fine solvers of the flow disagree on them")
    report.aims.append(at_most("samples marked converged with an error above 2 tol", wrong, 0))
    report.aims.append(at_most("share finished step by step, smooth targets with their own reference", share, 0.01))
    return report.finish(to)


def main() -> int:
    """Run combinations in a random order until there are enough draws."""
    options_parser = parser("Samples marked converged, compared with the same chain step by step.")
    options_parser.add_argument("--draws", type=int, default=100_000, help="number of draws over all combinations")
    options_parser.add_argument("--each", type=int, default=DRAWS, help="number of draws of a combination")
    options_parser.add_argument("--seed", type=int, default=0, help="seed of the order of combinations")
    options_parser.add_argument("--mode", choices=MODES, help="one way to solve a chain instead of all")
    options_parser.add_argument("--target", nargs="+", choices=[target.name for target in targets()], help="some of the targets")
    options_parser.add_argument("--integrator", choices=INTEGRATORS, help="one integrator, or collocation, instead of all")
    options_parser.add_argument("--tol", type=float, choices=TOLERANCES, help="one tolerance instead of all")
    options_parser.add_argument(
        "--out", type=Path, help="file of JSON lines, one for each combination; later calls resume from it"
    )
    options = options_parser.parse_args()
    if options.quick:
        options.draws = 4 * options.each
    torch.set_num_threads(1)
    by_name = {target.name: target for target in targets()}
    chosen = [case for case in cases() if options.mode in (None, case.mode) and options.tol in (None, case.tol)]
    chosen = [case for case in chosen if options.integrator in (None, case.integrator)]
    order = [case for case in chosen if options.target is None or case.target in options.target]
    random.Random(options.seed).shuffle(order)
    records = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out and options.out.exists() else []
    for number, case in enumerate(itertools.islice(itertools.cycle(order), len(records), None)):
        if sum(record["draws"] for record in records) >= options.draws:
            break
        turn = (len(records)) // len(order)
        records.append(run(case, by_name[case.target], options.each, options.each * turn))
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
        if number % 50 == 0:
            print(f"{sum(record['draws'] for record in records)} draws", file=sys.stderr, flush=True)
    return summary(records, options.json)


if __name__ == "__main__":
    sys.exit(main())
