"""Observations by a user's differentiable function of a model's fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...gaussian.observed import LinearObservations, conjugate_gradients
from ...gaussian.reference import GaussianReference

STEPS = 8  # of Gauss and Newton
MOST_ENTRIES = 500_000_000  # of the derivative


@dataclass(frozen=True)
class FunctionObservations:
    """Values y [m] of h(x_0) with Gaussian errors as in `LinearObservations`.

    `function` maps flat states [n, d] float64 to [n, m] and is differentiable. Raises ValueError for errors that are not
    positive.
    """

    values: Tensor
    function: Callable[[Tensor], Tensor]
    std: Tensor
    group: Tensor
    correlation: Tensor

    def __post_init__(self) -> None:
        self._errors()

    def _errors(self) -> LinearObservations:
        """The same values and errors with an operator that sees nothing, for the algebra of R."""
        empty = torch.sparse_coo_tensor(
            torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, dtype=torch.float64), (len(self.values), 1), check_invariants=True
        )
        return LinearObservations(self.values, empty.to(self.std.device).coalesce(), self.std, self.group, self.correlation)

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device | str) -> FunctionObservations:
        """Return the observations on another device."""
        values, std, group, correlation = (part.to(device) for part in (self.values, self.std, self.group, self.correlation))
        return FunctionObservations(values, self.function, std, group, correlation)

    def errors(self, white: Tensor, shared: Tensor) -> Tensor:
        """Return draws of N(0, R), [n, m], from white noise [n, m] and white noise per group [n, m]."""
        return self._errors().errors(white, shared)

    def apply(self, x: Tensor) -> Tensor:
        """Return h(x), [n, m] float64, for flat states [n, d]. Raises ValueError for a result of another shape."""
        seen = self.function(x.to(torch.float64))
        if not isinstance(seen, Tensor) or seen.shape != (len(x), len(self.values)):
            got = list(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
            raise ValueError(
                f"observations.operator returned {got}, and {len(self.values)} values of {len(x)} states are observed"
            )
        return seen.to(torch.float64)

    def noise(self, u: Tensor) -> Tensor:
        """Return R u for u [n, m]."""
        return self._errors().noise(u)

    def noise_inverse(self, u: Tensor, extra: Tensor) -> Tensor:
        """Return (R + extra I)^-1 u for u [n, m] and extra [n]."""
        return self._errors().noise_inverse(u, extra)

    def at(self, x: Tensor) -> LinearObservations:
        """Return the linear observations that these are to first order around a flat state x [d]."""
        if len(self) * len(x) > MOST_ENTRIES:
            raise ValueError(f"{len(self)} values of a function of {len(x)} numbers have too large a derivative; thin them out")
        with torch.enable_grad():
            jacobian = torch.func.jacrev(lambda z: self.apply(z[None])[0])(x).detach()
        values = self.values - self.apply(x[None])[0].detach() + jacobian @ x
        return LinearObservations(values, jacobian.to_sparse().coalesce(), self.std, self.group, self.correlation)


def linearised(observations: FunctionObservations, reference: GaussianReference) -> LinearObservations:
    """Return the observations to first order around the reference's most likely state (Gauss and Newton's iteration)."""
    spectrum, basis, state = reference.spectrum.to(torch.float64), reference.basis, reference.mean

    def spread(x: Tensor) -> Tensor:
        return basis.synthesise(basis.expand(spectrum) * basis.analyse(x))

    for _ in range(STEPS):
        linear = observations.at(state)

        def system(u: Tensor, linear: LinearObservations = linear) -> Tensor:
            return linear.apply(spread(linear.adjoint(u))) + linear.noise(u)

        innovation = (linear.values - linear.apply(reference.mean[None])[0])[None]
        moved = reference.mean + spread(linear.adjoint(conjugate_gradients(system, innovation)))[0]
        if not bool(torch.isfinite(moved).all()):
            break
        state = moved
    return observations.at(state)
