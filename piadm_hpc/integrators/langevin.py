"""The parallel underdamped Langevin corrector of PIADM-ODE: kinetic Langevin dynamics at one fixed noise level."""

from __future__ import annotations

import math

import torch

from ..theory.chain import Chain
from ..theory.process import Process


def underdamped(process: Process, t: float, *, friction: float, length: float, num_steps: int, num_blocks: int = 1) -> Chain:
    """Build the exact integrator of du = v dt, dv = s dt - friction v dt + sqrt(2 friction) dw, with a frozen score per step.

    The channels are position and velocity. `length` is the total time T_dagger, which is divided into `num_blocks` sub-blocks
    (Chen et al. 2024, section 3.2.3). The weights and the 2x2 covariance of the noise are in closed form. Raises ValueError
    for friction or length that are not positive, and for fewer steps than sub-blocks.
    """
    if num_steps < num_blocks or num_blocks < 1 or friction <= 0 or length <= 0:
        raise ValueError(
            f"corrector: friction ({friction}) and length ({length}) must be positive and num_steps ({num_steps}) at "
            f"least num_blocks ({num_blocks}) >= 1"
        )
    step = length / num_steps
    drift, weight, factor = step_tables(friction, step)
    times = torch.full((num_steps + 1,), float(t), dtype=torch.float64)
    edges = tuple(round(n * num_steps / num_blocks) for n in range(num_blocks + 1))

    def repeated(table: torch.Tensor) -> torch.Tensor:
        return table.expand(num_steps, *table.shape).clone()

    return Chain(repeated(drift), repeated(weight), repeated(factor), times, process.alpha(times), process.sigma(times), edges)


def step_tables(friction: float, step: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute P [2, 2], Q [2] and the Cholesky factor N [2, 2] of one kinetic step, without cancellation for short steps."""
    x = friction * step
    a, lost = math.exp(-x), -math.expm1(-x)
    remainder = _exp_remainder(x)
    drift = torch.tensor([[1.0, lost / friction], [0.0, a]], dtype=torch.float64)
    weight = torch.tensor([remainder / friction**2, lost / friction], dtype=torch.float64)
    covariance = noise_covariance(friction, step)
    return drift, weight, torch.linalg.cholesky(covariance)


def noise_covariance(friction: float, step: float) -> torch.Tensor:
    """Compute the covariance [2, 2] of the position's and the velocity's noise over one step, per coordinate."""
    x = friction * step
    lost = -math.expm1(-x)
    # 2x - 3 + 4a - a^2 = 2 (x - lost) - lost^2, which cancels to (2/3) x^3
    position = 2 * _exp_remainder(x) - lost**2 if x > 1e-2 else x**3 * (2 / 3 - x / 2 + 7 * x**2 / 30 - x**3 / 12)
    cross, velocity = lost**2 / friction, -math.expm1(-2 * x)
    return torch.tensor([[position / friction**2, cross], [cross, velocity]], dtype=torch.float64)


def _exp_remainder(x: float) -> float:
    """Compute x - (1 - exp(-x)) without cancellation for small x."""
    if x > 1e-2:
        return x + math.expm1(-x)
    return x**2 * (1 / 2 - x / 6 + x**2 / 24 - x**3 / 120 + x**4 / 720)
