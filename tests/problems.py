"""Problems with exact scores that the tests of the solvers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from piadm_hpc import grid, integrators
from piadm_hpc.gaussian.reference import GaussianReference
from piadm_hpc.integrators import catalogue
from piadm_hpc.models.analytic import GaussianMixture
from piadm_hpc.solvers.evaluate import Score
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.solvers.solve import Solution
from piadm_hpc.solvers.solve import solve as solve_chain
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.noise import PRIOR, Noise
from piadm_hpc.theory.process import EDM, OU, VP, Flow, Process

F64 = torch.float64
SIZE = 12
HORIZONS = {OU: 6.0, VP: 6.0, EDM: 5.0, Flow: 4.0}


def solve(chain: Scheme, score: Score, x0: Tensor | tuple[Tensor, Tensor], **settings: Any) -> Solution:
    """Call `piadm_hpc.solve` with the options and the other arguments as one set of keywords."""
    names = {field.name for field in fields(Options)}
    options = Options(**{name: value for name, value in settings.items() if name in names})
    return solve_chain(chain, score, x0, options, **{name: value for name, value in settings.items() if name not in names})


def mixture(process: Process, size: int = SIZE) -> GaussianMixture:
    """Return a mixture of three components with different spectra, whose score differs much from that of a Gaussian."""
    generator = torch.Generator().manual_seed(5)
    spectrum = 2.0 / (1 + torch.arange(size, dtype=F64)) ** 1.2
    means = 0.7 * torch.randn(3, size, dtype=F64, generator=generator) * spectrum.sqrt()
    variances = spectrum * torch.tensor([0.5, 1.0, 1.5], dtype=F64)[:, None]
    return GaussianMixture(process, means, variances, torch.tensor([0.5, 0.3, 0.2], dtype=F64))


def chains(process: Process, reference: GaussianReference, *, steps: int = 24, num_blocks: int = 1) -> dict[str, Chain]:
    """Return every chain of the package on one grid."""
    made = grid.log_snr(process, steps, horizon=HORIZONS[type(process)], delta=0.02, num_blocks=num_blocks)
    build: dict[str, Callable[[], Chain]] = {
        "piadm sde": lambda: integrators.piadm(process, made),
        "piadm ode": lambda: integrators.piadm(process, made, eta=0.0),
        "piadm half": lambda: integrators.piadm(process, made, eta=0.5),
        "euler-maruyama": lambda: integrators.euler_maruyama(process, made),
        "ddim": lambda: integrators.ddim(process, made),
        "ddim eta": lambda: integrators.ddim(process, made, eta=0.6),
        "ddpm": lambda: integrators.ddpm(process, made),
        "ddpm large": lambda: integrators.ddpm(process, made, large_variance=True),
        "gaussian sde": lambda: integrators.gaussian_exponential(process, made, reference),
        "gaussian ode": lambda: integrators.gaussian_exponential(process, made, reference, eta=0.0),
        "gaussian-ab2 sde": lambda: integrators.gaussian_ab2(process, made, reference, eta=1.0),
        "dpmpp-2m": lambda: integrators.dpmpp_2m(process, made),
    }
    return {name: make() for name, make in build.items()}


def every_method(process: Process, reference: GaussianReference, *, steps: int, num_blocks: int = 1) -> dict[str, Chain]:
    """Return every integrator of the catalogue, with options that change it, on one grid."""
    made = grid.log_snr(process, steps, horizon=HORIZONS[type(process)], delta=0.02, num_blocks=num_blocks)
    options = integrators.Options(lam=-0.2, lam_s=1.2)
    names = [name for name in catalogue.INTEGRATORS if name not in ("gms", "collocation")]  # a kernel; no chain
    return {name: integrators.build(name, process, made, reference=reference, options=options) for name in names}


def start(process: Process, chain: Chain, samples: list[int], seed: int = 11, size: int = SIZE) -> tuple[Tensor, Noise]:
    """Return states at the chain's first point and the noise of the run."""
    assert chain.alpha is not None and chain.sigma is not None
    noise = Noise(seed, size, dtype=F64)
    white = noise.at([0], samples, stream=PRIOR)[0, :, 0]
    return white * float(torch.sqrt(chain.alpha[0] ** 2 + chain.sigma[0] ** 2)), noise


def drawn(made: Scheme, reference: GaussianReference, samples: Sequence[int], seed: int) -> Tensor:
    """Draw the reference's states at the first point of a chain or of a collocation."""
    signal, spread = made.entry()
    white = Noise(seed, len(reference.mean), dtype=F64).at([0], samples, len(signal), PRIOR)[0]
    return reference.draw_state(white, signal, spread)[:, 0]
