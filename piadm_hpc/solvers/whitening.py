"""Whitened coordinates of the flow: states at both ends of the range, in units of the reference's standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from .collocation import Collocation


@dataclass(frozen=True)
class Whitening:
    """y = (x - alpha mean) / sqrt(v), with signals alpha and roots sqrt(v) at the first and the last time of a flow.

    `reference` is in the precision and on the device of the states; `log_growth` is log(sqrt(v_last) / sqrt(v_first)) per
    shell, [num_shells] float64.
    """

    reference: GaussianReference
    first_signal: Tensor
    first_root: Tensor
    last_signal: Tensor
    last_root: Tensor
    log_growth: Tensor

    @classmethod
    def of(cls, scheme: Collocation, like: Tensor) -> Whitening:
        """Build the coordinates of a flow for states like `like`."""
        reference = scheme.reference.to(like.device, like.dtype)

        ends = scheme.t[[0, -1]]
        signal = scheme.process.alpha(ends)
        roots = torch.sqrt(scheme.reference.variance(signal, scheme.process.sigma(ends)).cpu())
        wide = reference.basis.expand(roots.to(like))
        growth = torch.log(roots[1] / roots[0])
        return cls(reference, signal[:1].to(like), wide[0], signal[1:].to(like), wide[1], growth)

    def enter(self, x: Tensor) -> Tensor:
        """Whiten states x [..., d] at the first time: [..., n]."""
        return self.reference.basis.analyse(x - self.first_signal * self.reference.mean) / self.first_root

    def leave(self, y: Tensor) -> Tensor:
        """Return the states [..., d] at the last time of whitened states y [..., n]."""
        return self.reference.basis.synthesise(y * self.last_root) + self.last_signal * self.reference.mean

    def log_scale(self, degrees: Tensor) -> Tensor:
        """Return 1/2 sum (log v_end - log v_start) over the degrees of freedom [num_shells] of each shell, float64."""
        return degrees @ self.log_growth

    def size(self, y: Tensor, scale: float | Tensor) -> Tensor:
        """Return the root mean square [M] of whitened states y [M, n] at the last time, in units of the data's scale."""
        moved = self.moved(y, scale)
        norm: Tensor = torch.linalg.vector_norm(moved, dim=-1).to("cpu", torch.float64)
        return norm.div_(moved.shape[-1] ** 0.5)

    def moved(self, y: Tensor, scale: float | Tensor) -> Tensor:
        """Return how changes y [M, n] of whitened states move the last time's, in units of the data's scale: [M, n or d]."""
        if isinstance(scale, Tensor):
            return self.reference.basis.synthesise(y * self.last_root) / scale
        return y * (self.last_root / scale)
