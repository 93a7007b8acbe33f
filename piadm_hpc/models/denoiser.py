"""A denoiser that is the Gaussian reference's Wiener filter plus a learned remainder.

    D(x, t) = D_G(x, t) + c_out(t) F(c_in(t) x, D_G, log-SNR),    c_out^2 = mean over modes of (alpha sigma lambda / v)^2

c_out is the size a non-Gaussian remainder can have: it vanishes for pure noise and for clean data, so at both ends the
denoiser is linear whatever the network says, which is what Gaussian-aware solvers profit from.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..gaussian.masked import shell_degrees
from ..gaussian.reference import GaussianReference
from ..theory.bases import orthogonal
from ..theory.process import Process, radius
from .base import broadcast, score_from_denoised


class GaussianDenoiser:
    """E[x_0 | x_t]: states [rows, *event], times [rows] -> [rows, *event], in the states' precision.

    `network` (or None: the Wiener filter alone) maps fields [rows, 2 variables, lat, lon] and log-SNR [rows] to
    [rows, variables, lat, lon], in its own precision. `mask` [*event] is true where there are data; elsewhere the result is zero.
    `constraint` [d, k] are orthonormal directions that no state has a component along, such as shifts of a molecule.
    With `half` the network multiplies matrices in bfloat16.
    """

    # fields per variable that the network is given and returns
    inputs: ClassVar[int] = 2
    outputs: ClassVar[int] = 1
    prediction: ClassVar[str] = "x0: Wiener filter of the Gaussian reference plus c_out(t) times the network"

    def __init__(
        self,
        process: Process,
        reference: GaussianReference,
        network: nn.Module | None = None,
        mask: Tensor | None = None,
        constraint: Tensor | None = None,
    ):
        self.process, self.reference, self.network, self.mask, self.constraint = process, reference, network, mask, constraint
        # shells without variance hold points without data; they do not count in means over modes
        self.degrees = shell_degrees(reference.basis) * (reference.spectrum.cpu() > 0)
        self._references = {reference.mean.dtype: reference}

    def __call__(self, x: Tensor, t: Tensor, *, half: bool = False) -> Tensor:
        t = t.to(torch.float64)
        x = orthogonal(x, self.constraint)
        linear = self.reference_in(x.dtype).denoise(self.process, x, t)
        denoised = linear if self.network is None else linear + self._remainder(self.network, x, linear, t, half)
        denoised = orthogonal(denoised, self.constraint)
        return denoised if self.mask is None else denoised * self.mask

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t by Tweedie's formula, of the shape of x."""
        return score_from_denoised(self.process, self(x, t), x, t)

    def white(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """White noise for states x0 [rows, *event]."""
        return torch.randn(x0.shape, generator=generator)

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """States x0 [rows, *event] carried to times t by `white` noise: alpha x_0 + sigma eps."""
        return broadcast(self.process.alpha(t), x0) * x0 + broadcast(self.process.sigma(t), x0) * noise

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, *, half: bool = False) -> Tensor:
        """What training makes small: |D - x_0|^2 per entry over the Wiener error, one for a Gaussian on Gaussian data."""
        errors = ((self(self.noised(x0, t, noise), t, half=half) - x0) ** 2).flatten(1).mean(1)
        return (errors / self.wiener_error(t).to(errors.dtype)).mean()

    def without_network(self) -> GaussianDenoiser:
        """The same with the Wiener filter alone."""
        return type(self)(self.process, self.reference, None, self.mask, self.constraint)

    def _remainder(self, network: nn.Module, x: Tensor, linear: Tensor, t: Tensor, half: bool) -> Tensor:
        """c_out F: what the network adds to the Wiener filter's estimate `linear`."""
        dtype = next(network.parameters()).dtype
        grid = x.shape[-2:]
        fields = torch.stack([x / broadcast(radius(self.process, t), x), linear], dim=1)
        # the Wiener filter stays in full precision: its rounding would be larger than the noise of the last levels
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            raw: Tensor = network(fields.reshape(len(x), -1, *grid).to(dtype), self.log_snr(t).to(dtype))
        return broadcast(self.output_scale(t), x) * raw.reshape(x.shape).to(x.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2): [rows] -> [rows] float64."""
        return 2 * torch.log(self.process.alpha(t) / self.process.sigma(t))

    def output_scale(self, t: Tensor) -> Tensor:
        """c_out(t): [rows] -> [rows] float64."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        variance = self.reference.variance(alpha, sigma)
        gain = (alpha * sigma)[:, None] * self.reference.spectrum / variance
        return torch.sqrt(self._mean(gain**2))

    def wiener_error(self, t: Tensor) -> Tensor:
        """Mean square error per entry that the Wiener filter makes on its own Gaussian: [rows] -> [rows] float64."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return self._mean(sigma[:, None] ** 2 * self.reference.spectrum / self.reference.variance(alpha, sigma))

    def _mean(self, per_shell: Tensor) -> Tensor:
        degrees = self.degrees.to(per_shell.device)
        return per_shell @ degrees / degrees.sum()

    def reference_in(self, dtype: torch.dtype) -> GaussianReference:
        """The reference in another precision, made once."""
        if dtype not in self._references:
            self._references[dtype] = self.reference.to(self.reference.mean.device, dtype)
        return self._references[dtype]


class DenoiserScore:
    """The score of a denoiser: a `ScoreModel` without gradients.

    Where there are no data the denoiser is zero, so the score there is that of noise around zero.
    """

    def __init__(self, denoiser: GaussianDenoiser):
        self.denoiser = denoiser

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return self.denoiser.score(x, t)
