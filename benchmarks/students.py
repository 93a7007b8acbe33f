"""First paths from a student: rounds until the sample of the network itself is certified, by how wrong the student is.

    python benchmarks/students.py

The target is a mixture of three Gaussians in 12 dimensions with its exact score. Students are that score with a share of
error that varies with the state, a score of zero, and random numbers a hundred times too large. The last row is a one-step
generator that is exact: its path is the straight line from the first state to the right end.
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
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

F64, SIZE, STEPS, TOL = torch.float64, 12, 32, 1e-3
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
    chains = {
        "ddim": integrators.ddim(PROCESS, made),
        "dpmpp-2m": integrators.dpmpp_2m(PROCESS, made),
        "ddpm": integrators.ddpm(PROCESS, made),
        "gaussian-ab2": integrators.gaussian_ab2(PROCESS, made, reference, eta=1.0),
    }
    rows: list[list[str | float]] = [[name] for name in ("no student", *(f"error {share:g}" for share in ERRORS))]
    rows += [["score of zero"], ["random numbers"], ["straight line to the right end"]]
    for chain in chains.values():
        noise = Noise(0, SIZE, dtype=F64)
        assert chain.alpha is not None and chain.sigma is not None
        first = noise.at([0], ids, stream=PRIOR)[0, :, 0] * float(torch.hypot(chain.alpha[0], chain.sigma[0]))
        given = {"noise": noise, "reference": reference, "tol": TOL}
        end = solve(chain, TARGET.score, first, solver="sequential", noise=noise, reference=reference).x
        students = [None, *(wrong_by(share) for share in ERRORS), lambda x, t: torch.zeros_like(x), nonsense]
        starts: list[dict[str, Any]] = [{"student": student} for student in students]
        starts += [{"operator": straight(chain, end)}] if chain.channels == 1 and not chain.stochastic else []
        for row, start in zip(rows, starts, strict=False):
            row.append(float(solve(chain, TARGET.score, first, **start, **given).rounds.double().mean()))
    for row in rows:
        row += ["-"] * (1 + len(chains) - len(row))
    report.add(f"Rounds, mean of {len(ids)} samples, {STEPS} steps, tol {TOL:g}", ("first path", *chains), rows)
    for column, name in enumerate(chains, 1):
        usual = float(rows[0][column])
        report.aims.append(at_most(f"{name}: rounds with a student that is right", float(rows[1][column]), 1))
        if not options.quick:
            report.aims.append(at_most(f"{name}: rounds with 1 % error over those without", float(rows[2][column]) / usual, 0.95))
            worst = max(float(row[column]) for row in rows[-3:-1])
            report.aims.append(at_most(f"{name}: rounds that nonsense costs", worst - usual, 4))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
