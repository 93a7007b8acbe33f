"""A denoiser made of the Wiener filter of the Gaussian reference and a learned remainder.

    D(x, t) = D_G(x, t) + g(t) c_out(t) F(c_in(t) x, D_G, log-SNR),    c_out^2 = mean over modes of (alpha sigma lambda / v)^2

c_out is the size that a non-Gaussian remainder can have. It vanishes for pure noise and for clean data, so at both ends the
denoiser is linear whatever the network returns; Gaussian-aware solvers profit from this. The gate g, which held-out states
choose, takes the network back at noise levels and scales where it is worse than the Wiener filter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..gaussian.masked import shell_degrees
from ..gaussian.reference import GaussianReference
from ..schema.conditions import Condition, matched
from ..theory.directions import orthogonal
from ..theory.process import Process, radius
from .base import broadcast, score_from_denoised
from .gate import Gate


@dataclass(eq=False)
class GaussianDenoiser:
    """The estimate E[x_0 | x_t] of states [rows, *event] at times [rows], in the precision of the states.

    `network` maps fields [rows, 2 variables, lat, lon] and log-SNR [rows] to [rows, variables, lat, lon] in its own precision;
    None leaves only the Wiener filter. A condition is passed on to the network as third argument. `mask` [*event] is true where
    there are data, and the result is zero elsewhere. No state has a component along the orthonormal directions `constraint`
    [d, k], such as shifts of a molecule. The `gate` is applied to what the network adds; without one all of it is kept. With
    `half` the network multiplies matrices in bfloat16.
    """

    # fields per variable that the network takes and returns
    inputs: ClassVar[int] = 2
    outputs: ClassVar[int] = 1
    prediction: ClassVar[str] = "x0: Wiener filter of the Gaussian reference plus c_out(t) times the network"

    process: Process
    reference: GaussianReference
    network: nn.Module | None = None
    mask: Tensor | None = None
    constraint: Tensor | None = None
    gate: Gate | None = None

    def __post_init__(self) -> None:
        # shells without variance belong to points without data and are left out of means over modes
        self.degrees = shell_degrees(self.reference.basis) * (self.reference.spectrum.cpu() > 0)
        self._references = {self.reference.mean.dtype: self.reference}

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition, half: bool = False) -> Tensor:
        t = t.to(torch.float64)
        x = orthogonal(x, self.constraint)
        linear = self.reference_in(x.dtype).denoise(self.process, x, t)
        denoised = linear if self.network is None else linear + self._remainder(self.network, x, linear, t, half, *condition)
        denoised = orthogonal(denoised, self.constraint)
        return denoised if self.mask is None else denoised * self.mask

    def score(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        """Return grad log p_t by Tweedie's formula, in the shape of x."""
        return score_from_denoised(self.process, self(x, t, *condition), x, t)

    def white(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Draw white noise for states x0 [rows, *event]."""
        return torch.randn(x0.shape, generator=generator)

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return alpha x_0 + sigma eps for states x0 [rows, *event] and noise of `white`, at times t [rows]."""
        return broadcast(self.process.alpha(t), x0) * x0 + broadcast(self.process.sigma(t), x0) * noise

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, *condition: Condition, half: bool = False) -> Tensor:
        """Return the training loss, |D - x_0|^2 per entry over the Wiener error; a Gaussian on Gaussian data has one."""
        return self.error(self.noised(x0, t, noise), t, x0, *condition, half=half)

    def error(self, x: Tensor, t: Tensor, target: Tensor, *condition: Condition, half: bool = False) -> Tensor:
        """Return |D(x, t) - target|^2 per entry over the Wiener error, a mean over noisy states x [rows, *event]."""
        errors = ((self(x, t, *condition, half=half) - target) ** 2).flatten(1).mean(1)
        return (errors / self.wiener_error(t).to(errors.dtype)).mean()

    def without_network(self) -> GaussianDenoiser:
        """Return the same denoiser with the Wiener filter alone."""
        return replace(self, network=None)

    def _remainder(self, network: nn.Module, x: Tensor, linear: Tensor, t: Tensor, half: bool, *condition: Condition) -> Tensor:
        """Return g c_out F, which the network adds to the Wiener filter's estimate `linear`."""
        dtype = next(network.parameters()).dtype
        grid = x.shape[1:][-2:]  # of cells and one variable the last alone
        fields = torch.stack([x / broadcast(radius(self.process, t), x), linear], dim=1)
        # only the network is rounded: errors of the Wiener filter would exceed the noise of the last levels
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            raw: Tensor = network(
                fields.reshape(len(x), -1, *grid).to(dtype),
                self.log_snr(t).to(dtype),
                *(matched(given, fields.to(dtype)) for given in condition),
            )
        return self.gated(broadcast(self.output_scale(t), x) * raw.reshape(x.shape).to(x.dtype), t)

    def gated(self, remainder: Tensor, t: Tensor) -> Tensor:
        """Return what the gate keeps of a remainder [rows, ...] at times t [rows]."""
        if self.gate is None:
            return remainder
        return self.gate(remainder, self.log_snr(t), self.reference_in(remainder.dtype).basis)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2) at times t, [rows] float64."""
        return 2 * torch.log(self.process.alpha(t) / self.process.sigma(t))

    def output_scale(self, t: Tensor) -> Tensor:
        """Return c_out at times t, [rows] float64."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        variance = self.reference.variance(alpha, sigma)
        gain = (alpha * sigma)[:, None] * self.reference.spectrum / variance
        return torch.sqrt(self._mean(gain**2))

    def wiener_error(self, t: Tensor) -> Tensor:
        """Return the mean square error per entry of the Wiener filter on its own Gaussian, [rows] float64."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return self._mean(sigma[:, None] ** 2 * self.reference.spectrum / self.reference.variance(alpha, sigma))

    def _mean(self, per_shell: Tensor) -> Tensor:
        degrees = self.degrees.to(per_shell.device)
        return per_shell @ degrees / degrees.sum()

    def reference_in(self, dtype: torch.dtype) -> GaussianReference:
        """Return the reference in another precision; it is converted once."""
        if dtype not in self._references:
            self._references[dtype] = self.reference.to(self.reference.mean.device, dtype)
        return self._references[dtype]


class DenoiserScore:
    """The score of a denoiser, as a `ScoreModel` that records gradients only for states that require them.

    At points without data the denoised estimate is zero, so the score there is that of noise around zero.
    """

    def __init__(self, denoiser: GaussianDenoiser):
        self.denoiser = denoiser

    def __call__(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return self.denoiser.score(x, t, *condition)
