"""Spectra of few two-step steps of the reverse SDE against those of many one-step steps, on one Brownian path.

    python benchmarks/two_steps.py                 64 fields of the shipped climate model
    python benchmarks/two_steps.py --samples 16    fewer

The draws of a long step are joined from those of the short ones in the way in which the reference's own noise adds up, so the
fields differ only by the effect of the steps on the remainder, and ratios of their power have small errors.
"""

from __future__ import annotations

import sys

import torch
from common import Report, at_most, parser
from torch import Tensor

from piadm_hpc import Options, RunConfig, integrators, load_model, solve
from piadm_hpc.analysis.spectra import BANDS, band_name
from piadm_hpc.integrators.exponential import gaussian_flow
from piadm_hpc.run.build import time_range
from piadm_hpc.run.resolve import resolve
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import log_snr
from piadm_hpc.theory.noise import Noise
from piadm_hpc.theory.process import forward_time

MODEL = "ccsm-temperature"
FINE = 48
BATCH = 16


class Paths:
    """Fields of the shipped model by any chain whose steps are whole numbers of the finest ones."""

    def __init__(self, fine: int):
        self.model, self.fine = load_model(MODEL), fine
        run = resolve(RunConfig(model=MODEL, chain={"integrator": "gaussian", "eta": 1.0}, grid={"steps": fine}), self.model)
        self.sampler, self.range = run.sampler, time_range(run.config, self.model)
        self.reference = self.model.reference.to("cpu", torch.float32)

    def chain(self, name: str, steps: int) -> Chain:
        """The chain of an integrator for the SDE."""
        grid = log_snr(self.model.process, steps, horizon=self.range[0], delta=self.range[1])
        options = integrators.Options(eta=1.0)
        return integrators.build(name, self.model.process, grid, reference=self.reference, options=options)

    def draws(self, steps: int, samples: list[int]) -> Tensor:
        """Standard normal draws [steps, samples, *event] of one Brownian path, whatever the number of steps."""
        basis, event = self.reference.basis, self.model.event_shape
        white = Noise(0, self.reference.mean.numel()).at(range(self.fine), samples)[:, :, 0]
        if steps == self.fine:
            return white.reshape(steps, len(samples), *event)
        phi, deviation = self._factors(self.fine)
        coarse, joined = self._factors(steps)[1], []
        for j in range(steps):
            total = torch.zeros(len(samples), basis.num_coords)
            for i in range(j * self.fine // steps, (j + 1) * self.fine // steps):
                total = phi[i] * total + deviation[i] * basis.analyse(white[i])
            joined.append(basis.synthesise(total / coarse[j]))
        return torch.stack(joined).reshape(steps, len(samples), *event)

    def _factors(self, steps: int) -> list[Tensor]:
        chain = self.chain("gaussian", steps)
        phi, deviation, _ = gaussian_flow(forward_time(self.model.process, chain.t), self.reference, 1.0)
        return [self.reference.basis.expand(table.float()) for table in (phi, deviation)]

    def power(self, name: str, steps: int, samples: int) -> Tensor:
        """Mean zonal power [samples, k] of the states at the end."""
        chain, found = self.chain(name, steps), []
        for start in range(0, samples, BATCH):
            ids = list(range(start, min(start + BATCH, samples)))
            first, options = self.sampler.prior_states(ids)[:, 0], Options(solver="sequential", model_batch=BATCH)
            given = {"noise": self.draws(steps, ids), "reference": self.reference, "samples": ids}
            found.append(solve(chain, self.model.score, first, options, **given).x)
        fields = torch.cat(found).double().reshape(samples, *self.model.event_shape[-2:])
        return torch.fft.rfft(fields).abs().square().mean(-2)


def main() -> int:
    """Ratios of zonal power in three bands to the finest chain of one-step steps."""
    options_parser = parser("Spectra of few two-step steps against many one-step steps.")
    options_parser.add_argument("--samples", type=int, default=64)
    options = options_parser.parse_args()
    fine, samples = (12, 2) if options.quick else (FINE, options.samples)
    paths, report = Paths(fine), Report("two-steps")
    base = paths.power("gaussian", fine, samples).mean(0)
    rows, off, third = [], 0.0, fine // 3
    for name, steps in (("gaussian-ab2", fine // 2), ("gaussian-ab2", third), ("gaussian-ab2", fine // 4), ("gaussian", third)):
        ratio = (paths.power(name, steps, samples).mean(0) / base).log()
        bands = [float(ratio[low : None if high is None else high + 1].mean().exp()) for low, high in BANDS]
        rows.append([name, steps, *bands])
        if (name, steps) == ("gaussian-ab2", third):
            off = max(abs(band - 1) for band in bands)
    names = [band_name(low, high) for low, high in BANDS]
    report.add(f"Zonal power relative to {fine} steps of gaussian, {samples} fields", ["integrator", "steps", *names], rows)
    limit = 10.0 if options.quick else 0.02
    report.aims.append(at_most(f"largest difference of a band, {third} steps of gaussian-ab2", off, limit))
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
