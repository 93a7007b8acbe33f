"""Eight separated modes: samples that end in another mode, and errors in units of the tolerance.

    python benchmarks/mixtures.py              DDIM of 100 steps and DDPM of 1000, at d = 64 and 1024
    python benchmarks/mixtures.py --baselines  rounds of the baselines at d = 64, and those of an independent study

The chains take trailing steps on the linear beta schedule of 1000 levels (Ho et al. 2020), down to no noise. The error of a
sample is its root mean square distance from the same chain step by step, relative to the root mean square of the latter. A
sample is in a wrong mode if its nearest mean is another one. The linear part is the Jacobian diagonal, probed at 16 samples.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import Report, at_most, median, parser, solve
from torch import Tensor

from piadm_hpc import integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.run.probe import probe_response
from piadm_hpc.solvers.solution import Solution
from piadm_hpc.theory.bases import EOF
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import from_times
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import OU

F64 = torch.float64
MODES = 8
LEVELS = (1e-2, 1e-3, 1e-4)
COLUMNS = (
    *("chain", "tol", "window", "rounds", "most", "calls a step"),
    *("median error", "largest error", "error / tol", "wrong modes"),
)


class SeparatedModes:
    """Eight Gaussians with means drawn from N(0, 0.8^2 I) and unequal weights.

    Deviations are 0.02-0.8 in d/4 random directions a mode (d/16 beyond d = 256), and in all others one value of 0.05-0.2.
    """

    def __init__(self, d: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        directions = d // 4 if d <= 256 else d // 16
        self.event_shape = (d,)
        self.means = 0.8 * torch.randn(MODES, d, generator=generator, dtype=F64)
        self.axes = torch.linalg.qr(torch.randn(MODES, d, directions, generator=generator, dtype=F64)).Q
        spread = torch.rand(MODES, directions, generator=generator, dtype=F64)
        self.inside = torch.exp(math.log(0.02) + spread * math.log(0.8 / 0.02)) ** 2
        self.elsewhere = (0.05 + 0.15 * torch.rand(MODES, generator=generator, dtype=F64)) ** 2
        self.weights = torch.softmax(torch.randn(MODES, generator=generator, dtype=F64) / 2, 0)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Score of the mixture noised for forward times t [rows]: x [rows, d] -> [rows, d]."""
        alpha, noise = torch.exp(-t / 2)[:, None], -torch.expm1(-t)[:, None]
        joint, slopes = [], []
        for mean, axes, inside, elsewhere, weight in zip(
            self.means, self.axes, self.inside, self.elsewhere, self.weights, strict=True
        ):
            away = x - alpha * mean
            along = away @ axes
            v_in, v_out = alpha**2 * inside + noise, alpha**2 * elsewhere + noise
            slope = -away / v_out - (along * (1 / v_in - 1 / v_out)) @ axes.T
            volume = torch.log(v_in).sum(-1) + (x.shape[-1] - len(inside)) * torch.log(v_out)[:, 0]
            joint.append(torch.log(weight) - 0.5 * volume + 0.5 * (away * slope).sum(-1))
            slopes.append(slope)
        share = torch.softmax(torch.stack(joint), 0)
        return torch.einsum("cr,crd->rd", share, torch.stack(slopes))

    def mode(self, x: Tensor) -> Tensor:
        """The nearest mean, [rows]."""
        return torch.cdist(x, self.means).argmin(-1)

    def reference(self) -> GaussianReference:
        """Mean and covariance, exact in its leading d/4 (at most 64) directions, one variance elsewhere."""
        d, mean = self.means.shape[1], self.weights @ self.means
        apart = (self.means - mean) * torch.sqrt(self.weights)[:, None]
        within = torch.einsum("c,cdi,ci,cei->de", self.weights, self.axes, self.inside - self.elsewhere[:, None], self.axes)
        covariance = apart.T @ apart + within + (self.weights @ self.elsewhere) * torch.eye(d, dtype=F64)
        values, vectors = torch.linalg.eigh(covariance)
        rank = min(d // 4, 64)
        tail = values[:-rank].mean().reshape(1)
        basis = EOF(vectors[:, -rank:].flip(1).contiguous(), (d,))
        reference = GaussianReference(mean, basis, torch.cat([values[-rank:].flip(0), tail]))
        response = probe_response(self, OU(), reference, self.sample(16), horizon=10.0, delta=1e-4, model_batch=4096)
        return replace(reference, response=response)

    def sample(self, n: int) -> Tensor:
        """Exact draws [n, d]."""
        generator = torch.Generator().manual_seed(3)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        white = torch.randn(n, self.means.shape[1], generator=generator, dtype=F64)
        axes, inside, elsewhere = self.axes[which], self.inside[which], self.elsewhere[which]
        along = torch.einsum("nd,ndi->ni", white, axes) * (torch.sqrt(inside) - torch.sqrt(elsewhere)[:, None])
        return self.means[which] + torch.sqrt(elsewhere)[:, None] * white + torch.einsum("ni,ndi->nd", along, axes)


def chain_of(method: str, steps: int) -> Chain:
    """DDIM or DDPM over `steps` of the 1000 levels, trailing, and one more to no noise at all."""
    theta = -torch.cumsum(torch.log1p(-torch.linspace(1e-4, 0.02, 1000, dtype=F64)), 0)
    times = torch.cat([theta[torch.arange(1000, 0, -1000 // steps) - 1], torch.zeros(1, dtype=F64)])
    return {"ddim": integrators.ddim, "ddpm": integrators.ddpm}[method](OU(), from_times(times))


@dataclass(frozen=True, eq=False)
class Case:
    """A target and a chain, with draws of `seeds` samples."""

    target: SeparatedModes
    reference: GaussianReference
    name: str
    chain: Chain
    seeds: int

    def solve(self, **settings: Any) -> Solution:
        noise = Noise(0, self.target.means.shape[1], dtype=F64)
        first = noise.at([0], range(self.seeds), stream=PRIOR)[0, :, 0]
        return solve(self.chain, self.target, first, noise=noise, **settings)

    def error(self, x: Tensor, truth: Tensor) -> Tensor:
        """Per sample, relative to the sequential sample."""
        return (x - truth).square().mean(-1).sqrt() / truth.square().mean(-1).sqrt()


def own(report: Report, case: Case, windows: Sequence[int | None], levels: Sequence[float]) -> None:
    """This package's solver at several tolerances and windows: a table, and its limits."""
    truth, rows = case.solve(solver="sequential").x, []
    for window in windows:
        for tol in levels:
            solution = case.solve(tol=tol, window=window, reference=case.reference)
            error, rounds = case.error(solution.x, truth), solution.rounds.tolist()
            wrong = int((case.target.mode(solution.x) != case.target.mode(truth)).sum())
            calls, worst = median(solution.calls.tolist()) / case.chain.num_steps, float(error.max())
            cells = (median(rounds), max(rounds), calls, float(error.median()), worst, worst / tol, wrong)
            rows.append([case.name, tol, window or "whole", *cells])
            if report.name != "mixtures, quick":
                what = f"{case.name}, tol {tol:g}, window {window or 'whole'}: "
                report.aims += [at_most(what + "wrong modes", wrong, 0), at_most(what + "largest error / tol", worst / tol, 2)]
                if "DDPM" in case.name and tol == LEVELS[0]:
                    limit = at_most(what + "rounds", median(rounds), 12) if window is None else None
                    report.aims.append(limit or at_most(what + "calls a step", calls, 1.1))
    report.add(f"{case.name}, {case.seeds} seeds", COLUMNS, rows)


# rounds to 1e-1, 1e-2, 1e-3 (median) of an independent study of the same kind of problem, 4 to 8 seeds
BASELINES: dict[str, tuple[dict[str, Any], str, str]] = {
    "ParaDiGMS, window 20": ({"solver": "paradigms", "window": 20}, "8 / 9.5 / 12", "-"),
    "ParaDiGMS, window 64": ({"solver": "paradigms", "window": 64}, "-", "22.5 / 34.5 / 42"),
    "ParaDiGMS, whole": ({"solver": "paradigms"}, "6 / 8 / 9.5", "24 / 25.5 / 29.5"),
    "plain sweeps, A = P": ({"linear": "process"}, "17 / 19 / 21", "45.5 / 48.5 / 50.5"),
    "ParaTAA, 1 difference": (
        {"solver": "anderson", "linear": "process", "memory": 1},
        "6.5 / 9.5 / 12",
        "21.5 / 25 / 31.5",
    ),
    "ParaTAA, 4 differences": (
        {"solver": "anderson", "linear": "process", "memory": 4},
        "5 / 7 / 9",
        "17 / 20.5 / 24.5",
    ),
    "quasi-Newton": ({"solver": "newton"}, "3 / 5 / 6", "11.5 / 13.5 / 15.5"),
    "SRDS": ({"solver": "parareal"}, "20 / 30 / 50", "-"),
    "CHORDS, 8 cores": ({"solver": "chords"}, "27 / 27 / 42", "-"),
}


def baselines(report: Report, case: Case) -> None:
    """Median rounds of every baseline at three errors, each sample with its cheapest of many tolerances, as in the study."""
    truth, rows, column = case.solve(solver="sequential").x, [], 1 if "DDIM" in case.name else 2
    for name, entry in BASELINES.items():
        if entry[column] == "-":
            continue
        fewest = torch.full((3, case.seeds), math.inf, dtype=F64)
        for tol in torch.logspace(0.5, -5, 23, dtype=F64).tolist():
            solution = case.solve(tol=tol, **entry[0])
            error = case.error(solution.x, truth)
            for level, best in zip((1e-1, 1e-2, 1e-3), fewest, strict=True):
                best.copy_(torch.where(error < level, torch.minimum(best, solution.rounds.to(F64)), best))
            if float(error.max()) < 1e-3:
                break
        ours = " / ".join(f"{float(best.quantile(0.5)):g}" for best in fewest)
        rows.append([name, ours, str(entry[column])])
        print(f"{case.name}, {name} done", file=sys.stderr, flush=True)
    report.add(f"{case.name}, {case.seeds} seeds: rounds to 1e-1 / 1e-2 / 1e-3", ("baseline", "here", "the study"), rows)


def case_of(d: int, method: str, steps: int, seeds: int) -> Case:
    target = SeparatedModes(d)
    return Case(target, target.reference(), f"{method.upper()}-{steps}, d = {d}", chain_of(method, steps), seeds)


def main() -> int:
    options_parser = parser("Eight separated modes: wrong modes, and errors in units of the tolerance.")
    options_parser.add_argument("--baselines", action="store_true", help="rounds of the baselines instead of this package's")
    options_parser.add_argument("--seeds", type=int, default=100, help="draws (DDPM at d = 1024: one in 25)")
    options = options_parser.parse_args()
    few = max(1, options.seeds // 8)
    if options.quick:
        report = Report("mixtures, quick")
        own(report, case_of(16, "ddim", 20, 3), (None, 8), LEVELS[:1])
        report.aims.append(at_most("wrong modes", float(sum(int(row[-1]) for rows in report.tables.values() for row in rows)), 0))
    elif options.baselines:
        report = Report("baselines on mixtures")
        baselines(report, case_of(64, "ddim", 100, few))
        baselines(report, case_of(64, "ddpm", 1000, max(1, few // 3)))
        report.aims.append(at_most("tables without rows", sum(not rows for rows in report.tables.values()), 0))
    else:
        report = Report("mixtures")
        for d in (64, 1024):
            own(report, case_of(d, "ddim", 100, options.seeds), (None, 32), LEVELS)
        for d, seeds in ((64, options.seeds), (1024, max(1, few // 3))):
            own(report, case_of(d, "ddpm", 1000, seeds), (None, 32), LEVELS[:1])
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
