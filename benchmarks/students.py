"""First paths from a student: rounds until the sample of the network itself is certified, by how wrong the student is.

    python benchmarks/students.py

The target is a mixture of three Gaussians in 12 dimensions with its exact score. Students are that score with a share of
error that varies with the state, a score of zero, and random numbers a hundred times too large. The last row is a one-step
generator that is exact: its path is the straight line from the first state to the right end. Of every solution the largest
error is taken, root mean square in units of the tolerance, against the same scheme solved tightly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from common import Report, at_most, parser, solve
from torch import Tensor

from piadm_hpc import grid, integrators
from piadm_hpc.models.analytic import GaussianMixture
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

F64, SIZE, STEPS, POINTS, TOL = torch.float64, 12, 32, 24, 1e-3
PROCESS = OU()
ERRORS = (0.0, 0.01, 0.03, 0.1, 0.3)


def mixture() -> GaussianMixture:
    """Three components with different spectra."""
    generator = torch.Generator().manual_seed(5)
    spectrum = 2.0 / (1 + torch.arange(SIZE, dtype=F64)) ** 1.2
    means = 0.7 * torch.randn(3, SIZE, dtype=F64, generator=generator) * spectrum.sqrt()
    variances = spectrum * torch.tensor([0.5, 1.0, 1.5], dtype=F64)[:, None]
    return GaussianMixture(PROCESS, means, variances, torch.tensor([0.5, 0.3, 0.2], dtype=F64))


TARGET = mixture()


def wrong_by(share: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The score with an error of that share."""
    return lambda x, t: TARGET.score(x, t) * (1 + share * torch.sin(3 * x))


def nonsense(x: Tensor, t: Tensor) -> Tensor:
    """Random numbers where the score has about the size of the state."""
    return 100 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))


def straight(chain: Chain, end: Tensor) -> Callable[[Tensor, Any], Tensor]:
    """The operator of a one-step generator: alpha x_0 + sigma eps with the noise that the first state holds."""
    alpha, sigma = chain.alpha, chain.sigma
    assert alpha is not None and sigma is not None

    def path(states: Tensor, points: Any) -> Tensor:
        noise = (states[:, 0] - alpha[0] * end) / sigma[0]
        return torch.stack([(alpha[j] * end + sigma[j] * noise)[:, None] for j in points])

    return path


def main() -> int:
    options = parser("Rounds with the first path of a student.").parse_args()
    report = Report("students, quick" if options.quick else "students")
    made = grid.log_snr(PROCESS, STEPS, horizon=6.0, delta=0.02)
    reference, ids = TARGET.reference(), list(range(8 if options.quick else 48))
    schemes: dict[str, Chain | Collocation] = {
        "ddim": integrators.ddim(PROCESS, made),
        "dpmpp-2m": integrators.dpmpp_2m(PROCESS, made),
        "ddpm": integrators.ddpm(PROCESS, made),
        "gaussian-ab2": integrators.gaussian_ab2(PROCESS, made, reference, eta=1.0),
        "collocation": Collocation(PROCESS, reference, 6.0, 0.02, POINTS),
    }
    rows: list[list[str | float]] = [[name] for name in ("no student", *(f"error {share:g}" for share in ERRORS))]
    rows += [["score of zero"], ["random numbers"], ["straight line to the right end"]]
    largest = {}
    for name, scheme in schemes.items():
        noise, (signal, spread) = Noise(0, SIZE, dtype=F64), scheme.entry()
        white = noise.at([0], ids, len(signal), PRIOR)[0]
        first = reference.draw_state(white, signal, spread)[:, 0]
        given = {"noise": noise, "reference": reference, "tol": TOL}
        tight: dict[str, Any] = {"solver": "sequential"} if isinstance(scheme, Chain) else {"tol": TOL / 1000}
        end = solve(scheme, TARGET.score, first, **{**given, **tight}).x
        students = [None, *(wrong_by(share) for share in ERRORS), lambda x, t: torch.zeros_like(x), nonsense]
        starts: list[dict[str, Any]] = [{"student": student} for student in students]
        straightened = isinstance(scheme, Chain) and scheme.channels == 1 and not scheme.stochastic
        starts += [{"operator": straight(scheme, end)}] if straightened else []
        found = [solve(scheme, TARGET.score, first, **start, **given) for start in starts]
        for row, solution in zip(rows, found, strict=False):
            row.append(float(solution.rounds.double().mean()))
        largest[name] = max(float((solution.x - end).square().mean(1).sqrt().max()) / TOL for solution in found)
    for row in rows:
        row += ["-"] * (1 + len(schemes) - len(row))
    rows.append(["largest error / tol", *largest.values()])
    report.add(f"Rounds, mean of {len(ids)} samples, {STEPS} steps, tol {TOL:g}", ("first path", *schemes), rows)
    for column, name in enumerate(schemes, 1):
        usual = float(rows[0][column])
        # two measures of how errors grow certify a path that is right, and rounding a chain's own
        certified = 3.5 if name == "collocation" else 1
        report.aims.append(at_most(f"{name}: rounds with a student that is right", float(rows[1][column]), certified))
        report.aims.append(at_most(f"{name}: largest error / tol", largest[name], 1))
        if not options.quick:
            report.aims.append(at_most(f"{name}: rounds with 1 % error over those without", float(rows[2][column]) / usual, 0.95))
            worst = max(float(row[column]) for row in rows[-4:-2])
            report.aims.append(at_most(f"{name}: rounds that nonsense costs", worst - usual, 4))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
