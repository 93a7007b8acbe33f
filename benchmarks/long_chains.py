"""Chains of a thousand steps in a window, and chains with strong Langevin correctors over the whole path.

    python benchmarks/long_chains.py               1,000 draws of DDPM-1000, 64 of each predictor-corrector chain
    python benchmarks/long_chains.py --draws 100   fewer draws of DDPM-1000

DDPM-1000 samples the eight separated modes of `mixtures.py` at d = 64 in a window of 32 points, with and without the sweeps that
certify the points that a window has left behind. The predictor-corrector chains (reverse diffusion, each step followed by a
Langevin step of a fixed signal-to-noise ratio that shares its score; Song et al. 2021, algorithms 2 and 5) have 500 and 1,000
steps on modes with as many coordinates as 22 atoms.
"""

from __future__ import annotations

import sys

from common import Report, at_most, median, parser
from honesty import predictor_corrector
from mixtures import Case, SeparatedModes, case_of

from piadm_hpc.solvers.solution import Status

TOL = 1e-2
STEPS = (500, 1000)
COORDINATES = 66  # of 22 atoms, as the shipped conformer model has


def window(report: Report, case: Case, *, certify: bool, limit: float) -> None:
    """DDPM in a window of 32 points: calls a step, and samples that end in another mode than step by step."""
    truth = case.solve(solver="sequential").x
    found = case.solve(tol=TOL, window=32, reference=case.reference, certify=certify)
    calls = median(found.calls.tolist()) / case.chain.num_steps
    error, wrong = case.error(found.x, truth), case.target.mode(found.x) != case.target.mode(truth)
    passed = found.converged & wrong
    what = "with a certificate" if certify else "without"
    rows = [[what, median(found.rounds.tolist()), calls, float(error.max()) / TOL, int(wrong.sum()), int(passed.sum())]]
    columns = ("DDPM-1000, window 32", "rounds", "calls a step", "largest error / tol", "wrong modes", "of these converged")
    report.add(f"{case.name}, {case.seeds} draws, {what}", columns, rows)
    report.aims.append(at_most(f"{what}: calls a step", calls, limit))
    report.aims.append(at_most(f"{what}: wrong modes marked converged", int(passed.sum()), 0))


def correctors(report: Report, steps: int, draws: int) -> None:
    """Predictor-corrector chains, the whole path open: rounds against steps, and samples that sweeps have not solved."""
    target = SeparatedModes(COORDINATES)
    case = Case(target, target.reference(), f"predictor-corrector, {steps} steps", predictor_corrector(steps), draws)
    truth = case.solve(solver="sequential").x
    rows, passed = [], 0.0
    for name, settings in (("Gaussian reference", {"reference": case.reference}), ("plain sweeps", {"linear": "identity"})):
        found = case.solve(tol=TOL, **settings)
        by_steps = int((found.status == int(Status.FINISHED_SEQUENTIALLY)).sum())
        worst = float(case.error(found.x, truth)[found.converged].max()) / TOL if bool(found.converged.any()) else 0.0
        passed = max(passed, worst)
        rows.append([name, median(found.rounds.tolist()), max(found.rounds.tolist()), by_steps, worst])
    report.add(case.name, ("linear part", "rounds", "most", "finished step by step", "largest error / tol"), rows)
    report.aims.append(at_most(f"{case.name}: largest error / tol of those marked converged", passed, 2))
    report.aims.append(at_most(f"{case.name}: rounds / steps", float(rows[0][1]) / steps, 0.5))
    report.aims.append(at_most(f"{case.name}: finished step by step", float(rows[0][3]), 0))
    report.aims.append(at_most(f"{case.name}: most rounds beyond plain sweeps", float(rows[0][2]) - float(rows[1][2]), 2))


def main() -> int:
    options_parser = parser("Chains of a thousand steps in a window, and chains with strong Langevin correctors.")
    options_parser.add_argument("--draws", type=int, default=1000, help="draws of DDPM-1000")
    options = options_parser.parse_args()
    report = Report("long chains, quick" if options.quick else "long chains")
    if options.quick:
        # on the way two of these draws cross to another mode, where their paths are far from converged
        correctors(report, STEPS[-1], 5)
    else:
        for steps in STEPS:
            correctors(report, steps, 64)
        case = case_of(64, "ddpm", 1000, options.draws)
        window(report, case, certify=False, limit=1.15)
        window(report, case, certify=True, limit=2.5)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
