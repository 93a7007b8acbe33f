"""Denoisers of position and momentum (PSLD, Pandey and Mandt 2023), whose states are z = (x, m).

    eps(z, tau) = L^-1 (z - e D_G(z, tau)) + g c(tau) F(z, D_G, log-SNR),    s = - L^-T eps

e is the signal and L L^T the covariance of the perturbation kernel. The first term is the prediction of the Gaussian reference
for the noise; c^2, the mean over modes of (lambda / (lambda + ratio^2))^2, is the size that the remainder can have,
and g the gate of `denoiser`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..schema.conditions import Condition, matched
from ..theory.phase import PhaseSpace
from ..theory.process import PSLD, Process
from .base import broadcast
from .denoiser import GaussianDenoiser


class PhaseDenoiser(GaussianDenoiser):
    """The estimate E[x_0 | z] and the noise in states z [rows, 2, *event] at times [rows], in the precision of the states.

    `network` maps fields [rows, 3 variables, lat, lon] and log-SNR [rows] to the remainder of the noise, [rows, 2 variables,
    lat, lon]. Coefficients are computed in float64. Raises ValueError for a process of data space.
    """

    inputs: ClassVar[int] = 3
    outputs: ClassVar[int] = 2
    prediction: ClassVar[str] = "eps of position and momentum: that of the Gaussian reference plus c(t) times the network"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.process, PSLD):
            raise ValueError(f"a network of position and momentum needs the process psld, not {type(self.process).__name__}")
        self.space: PhaseSpace = self.process.space

    def __call__(self, z: Tensor, t: Tensor, *condition: Condition, half: bool = False) -> Tensor:
        """Return E[x_0 | z], [rows, *event]: y - (L^-1 e) . eps / j for the sufficient statistic y of precision j."""
        tau = t.to("cpu", torch.float64)
        whitened = torch.linalg.solve_triangular(self.space.factor(tau), self.space.signal(tau)[..., None], upper=False)
        weights = whitened[..., 0] / self.space.statistic(tau)[1][:, None]
        denoised = self._statistic(z, tau) - _dot(weights, self.noise(z, t, *condition, half=half))
        return denoised if self.mask is None else denoised * self.mask

    def score(self, z: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        """Return grad log p(z) = - L^-T eps, [rows, 2, *event]."""
        factor = self.space.factor(t.to("cpu", torch.float64))
        return _mix(-torch.linalg.inv(factor).mT, self.noise(z, t, *condition))

    def noise(self, z: Tensor, t: Tensor, *condition: Condition, half: bool = False) -> Tensor:
        """Return the predicted noise eps in z = e x_0 + L eps, [rows, 2, *event]."""
        tau = t.to("cpu", torch.float64)
        linear = self.reference_in(z.dtype).denoise(self.process, self._statistic(z, tau), t)
        if self.mask is not None:
            linear = linear * self.mask
        signal, inverse = self.space.signal(tau), torch.linalg.inv(self.space.factor(tau))
        predicted = _mix(inverse, z - _lifted(signal, linear))
        return predicted if self.network is None else predicted + self._remainder(self.network, z, linear, t, half, *condition)

    def white(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn((len(x0), 2, *x0.shape[1:]), generator=generator)

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return z = e x_0 + L eps; the momentum at time 0 is part of the noise (hybrid score matching)."""
        tau = t.to("cpu", torch.float64)
        return _lifted(self.space.signal(tau), x0) + _mix(self.space.factor(tau), noise)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, *condition: Condition, half: bool = False) -> Tensor:
        """Return the loss of hybrid score matching, |eps(e x_0 + L n) - n|^2 per entry over that of the Wiener filter.

        The noise is known except for its component along L^-1 e, whose mean square error is that of (D - x_0) / ratio.
        """
        errors = ((self.noise(self.noised(x0, t, noise), t, *condition, half=half) - noise) ** 2).sum(1).flatten(1).mean(1)
        return (errors * (self.process.sigma(t) ** 2 / self.wiener_error(t)).to(errors.dtype)).mean()

    def _remainder(self, network: nn.Module, x: Tensor, linear: Tensor, t: Tensor, half: bool, *condition: Condition) -> Tensor:
        dtype, tau = next(network.parameters()).dtype, t.to("cpu", torch.float64)
        sizes = torch.sqrt(self.space.covariance(tau, 1.0).diagonal(dim1=-2, dim2=-1))
        fields = torch.cat([_mix(torch.diag_embed(1 / sizes), x), linear[:, None]], dim=1)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            raw: Tensor = network(
                fields.reshape(len(x), -1, *x.shape[2:][-2:]).to(dtype),
                self.log_snr(t).to(dtype),
                *(matched(given, fields.to(dtype)) for given in condition),
            )
        size = self.output_scale(t.to(torch.float64)) / self.process.sigma(t.to(torch.float64))
        remainder = self.gated(broadcast(size, x) * raw.reshape(x.shape).to(x.dtype), t.to(torch.float64))
        return remainder if self.mask is None else remainder * self.mask

    def _statistic(self, z: Tensor, tau: Tensor) -> Tensor:
        pulled, precision = self.space.statistic(tau)
        return _dot(pulled / precision[:, None], z)


def denoiser_kind(process: Process) -> type[GaussianDenoiser]:
    """Return the class of denoisers for a process: of the position, or of position and momentum."""
    return PhaseDenoiser if process.fields > 1 else GaussianDenoiser


def _mix(matrix: Tensor, z: Tensor) -> Tensor:
    """Apply matrices [rows, 2, 2] to the two fields of z [rows, 2, *event]."""
    return torch.einsum("rij,rjn->rin", matrix.to(z), z.flatten(2)).reshape(z.shape)


def _dot(weights: Tensor, z: Tensor) -> Tensor:
    """Return the sum of the two fields of z [rows, 2, *event] with weights [rows, 2]."""
    return torch.einsum("rj,rjn->rn", weights.to(z), z.flatten(2)).reshape(z.shape[0], *z.shape[2:])


def _lifted(signal: Tensor, x0: Tensor) -> Tensor:
    """Return signal [rows, 2] times fields x0 [rows, *event], [rows, 2, *event]."""
    return torch.einsum("rj,rn->rjn", signal.to(x0), x0.flatten(1)).reshape(len(x0), 2, *x0.shape[1:])
