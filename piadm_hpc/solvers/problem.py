"""The problem that a solver solves, and the affine increments of its steps, which all solvers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference
from ..theory.bases import Basis, Identity
from ..theory.chain import Chain, add_lifted, affine, apply, expand
from ..theory.noise import CHAIN, NoiseSource
from .evaluate import Evaluator
from .linear import LinearPart, denoised_part, identity_part, process_part, reference_part, response_part
from .options import Options
from .strips import strips


@dataclass(frozen=True)
class Problem:
    """A chain with its score, noise and constraint; states are coordinates [samples, c, n] in `basis`.

    `linear` is the preconditioner, the part of a step that sweeps treat exactly. The score of `prediction` replaces the
    network's where the network was not called.
    """

    chain: Chain
    evaluator: Evaluator
    noise: NoiseSource | None
    basis: Basis
    mean: Tensor | None
    reference: GaussianReference | None
    linear: LinearPart
    prediction: LinearPart | None
    stream: int = CHAIN
    step_offset: int = 0

    @classmethod
    def of(
        cls,
        chain: Chain,
        evaluator: Evaluator,
        noise: NoiseSource | None,
        reference: GaussianReference | None,
        options: Options,
        like: Tensor,
    ) -> Problem:
        """Build the problem for states like `like`, in the chain's basis, else in the reference's, else on the grid itself."""
        local = None if reference is None else reference.to(like.device, like.dtype)
        if local is not None and not isinstance(chain.basis, Identity | None):
            chain = replace(chain, basis=local.basis)
        basis = chain.working_basis(like.shape[-1], None if local is None else local.basis)
        mean = None if local is None or not bool((local.mean != 0).any()) else basis.analyse(local.mean.to(like))
        linear, prediction = _preconditioner(chain, local, options)
        return cls(chain, evaluator, noise, basis, mean, local, linear, prediction)

    def along(self, chain: Chain, options: Options, *, stream: int, step_offset: int) -> Problem:
        """Return the problem of another chain with the same score and basis; it draws its noise from another stream."""
        linear, prediction = _preconditioner(chain, self.reference, options)
        return replace(self, chain=chain, linear=linear, prediction=prediction, stream=stream, step_offset=step_offset)

    @cached_property
    def increments(self) -> Tensor:
        """P - A, the share of the state in the increments of a sweep, [J, K, c, c]."""
        return self.chain.P - self.linear.A

    def read(self, points: int | Tensor, z: Tensor) -> Tensor:
        """Return the score's input [rows, k, d] for coordinates z [rows, c, n], all at one point or each at its own."""
        return self.evaluator.project(self.basis.synthesise(self.chain.reading(points, z)))

    def as_read(self, z: Tensor, x: Tensor) -> Tensor:
        """Return coordinates z [rows, c, n] with their read channels replaced by those of the score's input x [rows, k, d].

        A basis with more coordinates than entries has combinations of coordinates that no state has. Rounding puts a little into
        them, to which no score responds, and P alone would make it grow from step to step.
        """
        if not self.chain.plain or self.basis.num_coords <= math.prod(self.basis.event_shape):
            return z
        return torch.cat([self.basis.analyse(x), z[:, x.shape[1] :]], dim=1)

    def state(self, z: Tensor) -> Tensor:
        """Return the states [samples, c, d] that coordinates z [samples, c, n] stand for."""
        return self.evaluator.project(self.basis.synthesise(z))

    def denoised_unit(self, j: int) -> float:
        """The multiple of the denoised estimate that `add_denoised` adds at point j."""
        return float(self.chain.estimate[0][j])

    def add_denoised(self, out: Tensor, j: int, x: Tensor, score: Tensor) -> Tensor:
        """Add a multiple of the denoised estimate at point j to `out` [samples, d] in place; `x`, `score` [samples, k, d]."""
        _, of_state, of_score = self.chain.estimate
        for i in range(self.chain.reads):
            out.add_(x[:, i], alpha=float(of_state[j, i])).add_(score[:, i], alpha=float(of_score[j, i]))
        return out

    @property
    def has_draws(self) -> bool:
        """Whether steps add a term that depends neither on the state nor on the score."""
        return self.chain.stochastic or (self.mean is not None and bool((self.chain.shift != 0).any()))

    def draws(self, j: int, samples: Sequence[int], like: Tensor) -> Tensor:
        """Return N[j] xi[j] + M[j] mean in coordinates [samples, c, n], for one step of this chain."""
        total = torch.zeros_like(like)
        if self.chain.stochastic:
            assert self.noise is not None
            xi = self.noise.at([j + self.step_offset], samples, self.chain.drawn, self.stream)[0].to(like)
            xi = self.basis.analyse(self.evaluator.project(xi))
            affine(total, None, expand(self.basis, self.chain.noise[j], like), xi)
        if self.mean is not None:
            add_lifted(total, expand(self.basis, self.chain.shift[j][..., None], like), self.mean[None])
        return total

    def step(self, out: Tensor, draws: Tensor | None, j: int, z: Tensor, score: Tensor) -> Tensor:
        """Compute step j, out = P z + Q s + draws, for coordinates z [samples, c, n] and `score` [samples, k, n]."""
        affine(out, draws, expand(self.basis, self.chain.P[j], z), z)
        return add_lifted(out, expand(self.basis, self.chain.Q[j], z), score)

    def increment(self, draws: Tensor | None, own: Tensor, lifting: Tensor, z: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return the increments (P - A) z + Q s + draws, and Q s alone, of rows [rows, c, n].

        `own` and `lifting` are P - A and Q at the point of each row, [rows, n or 1, ...], or at their one point.
        """
        lifted = apply(lifting, score)
        b = affine(torch.empty_like(z), draws, own, z)
        return b.add_(lifted), lifted

    def strips(self, z: Tensor, scale: float | Tensor) -> list[slice]:
        """Cut coordinates z [..., n] into strips in which `mean_square` can be taken."""
        whole = isinstance(scale, Tensor) and not isinstance(self.basis, Identity)
        return [slice(0, self.basis.num_coords)] if whole else strips(z)

    def mean_square(self, z: Tensor, scale: float | Tensor, strip: slice) -> Tensor:
        """Return the share [...] of a strip's coordinates z [..., c, w] in the mean square, in units of the data's scale."""
        n = self.basis.num_coords
        if isinstance(scale, Tensor):
            z, n, scale = self.basis.synthesise(z) / scale[strip], len(scale), 1.0
        norm: Tensor = torch.linalg.vector_norm(z, dim=(-2, -1)).to("cpu", torch.float64)
        return norm.square_().div_(scale**2 * n)

    def size(self, z: Tensor, scale: float | Tensor) -> Tensor:
        """Return the root mean square [...] of coordinates z [..., c, n], in units of the data's scale."""
        return self.mean_square(z, scale, slice(0, self.basis.num_coords)).sqrt_()

    def extent(self, scale: float | Tensor) -> Tensor:
        """Return the deviation [points] of what the score reads, for data of deviation 1 in their own scale; at least 1."""
        if not self.chain.knows_levels:
            return torch.ones(len(self.chain.t), dtype=torch.float64)
        signal, covariance = self.chain.levels
        units = torch.as_tensor(scale, dtype=torch.float64).pow(-2).mean()
        variance = signal.square() + units * covariance.diagonal(dim1=-2, dim2=-1)
        return variance.amax(-1).sqrt().clamp(min=1.0)


def _preconditioner(chain: Chain, reference: GaussianReference | None, options: Options) -> tuple[LinearPart, LinearPart | None]:
    """Choose the preconditioner, and the linear part that predicts the score where the network was not called."""
    prediction = denoised_part(chain) if chain.sigma is not None and chain.channels == 1 else None
    if reference is not None:
        prediction = reference_part(chain, reference)
    named = {"identity": identity_part, "process": process_part, "denoised": denoised_part}
    if options.linear in named:
        return named[options.linear](chain), prediction
    if reference is not None and (options.linear == "response" or (options.linear == "auto" and reference.response is not None)):
        return response_part(chain, reference), prediction
    return prediction or identity_part(chain), prediction
