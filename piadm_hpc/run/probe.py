"""The mean response of a model's denoised estimate per shell and noise level, from a few random probes of its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..gaussian.reference import GaussianReference, Response, Smoothness
from ..models.base import ScoreModel
from ..solvers.collocation import Collocation
from ..solvers.sampler import Sampler
from ..solvers.solve import Projection
from ..theory.process import Process, forward_time

STEP = 0.05  # of a probe in units of the noise: small against what the score varies over, large against rounding


@torch.no_grad()
def probe_response(
    score: ScoreModel,
    process: Process,
    reference: GaussianReference,
    states: Tensor,
    *,
    horizon: float,
    delta: float,
    levels: int = 24,
    probes: int = 2,
    seed: int = 0,
    model_batch: int = 16,
    project: Projection | None = None,
) -> Response:
    """Probe a score at noised `states` [n, *event] between times `horizon` and `delta`, in the reference's basis.

    Hutchinson's estimate of the mean diagonal per shell: E[w . J w] over random signs w of the coordinates, by central
    differences, so that any score will do. Costs 2 n probes levels rows of the network. Adjacent levels are averaged.
    `project` maps states to the subspace that the model knows, which noise and probes stay in.
    """
    ends = torch.tensor([horizon, delta], dtype=torch.float64)
    low, high = (float(x) for x in -torch.log(torch.expm1(forward_time(process, ends))))
    snr = torch.linspace(low, high, levels, dtype=torch.float64)
    times = process.time(torch.log1p(torch.exp(-snr)))
    local = reference.to(states.device, states.dtype)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for t in times:
        total = torch.zeros(reference.basis.num_shells, dtype=torch.float64)
        for _ in range(probes):
            total += _response(score, process, local, states, t, generator, model_batch, project) / probes
        rows.append(total)
    gain = torch.stack(rows)
    smooth = gain.clone()
    smooth[1:-1] = (gain[:-2] + 2 * gain[1:-1] + gain[2:]) / 4
    return Response(snr, smooth.clamp(0, 1))


def _response(
    score: ScoreModel,
    process: Process,
    reference: GaussianReference,
    states: Tensor,
    t: Tensor,
    generator: torch.Generator,
    model_batch: int,
    project: Projection | None,
) -> Tensor:
    """One probe at time t: mean of 1 + sigma^2 w . J w per shell, [num_shells]."""
    basis, shape = reference.basis, states.shape
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    white = torch.randn(shape, generator=generator, dtype=torch.float64).to(states)
    white = white if project is None else project(white)
    x = alpha * states + sigma * white
    signs = torch.randint(0, 2, (len(states), basis.num_coords), generator=generator).to(states) * 2 - 1
    direction = basis.synthesise(signs).reshape(shape)
    direction = direction if project is None else project(direction)
    step = STEP * sigma
    change = torch.zeros_like(x)
    for sign in (1, -1):
        for start in range(0, len(x), model_batch):
            part = x[start : start + model_batch] + sign * step * direction[start : start + model_batch]
            change[start : start + model_batch] += sign * score(part, t.to(x).expand(len(part))).to(x)
    answer = basis.analyse(change.flatten(1)) * (sigma**2 / (2 * step))
    # shells of a basis that does not span the space see only their share of a probe
    asked = basis.analyse(direction.flatten(1))
    return 1 + _inner(reference, asked, answer) / _inner(reference, asked, asked).clamp(min=1e-12)


def _inner(reference: GaussianReference, u: Tensor, v: Tensor) -> Tensor:
    """Mean product of coordinates u, v [n, num_coords] per shell, [num_shells] float64: (|u + v|^2 - |u - v|^2) / 4."""
    u, v = u.to(torch.float64), v.to(torch.float64)
    energy = reference.basis.to(u.device, torch.float64).energy
    return ((energy(u + v) - energy(u - v)) / 4).cpu()


def probe_smoothness(sampler: Sampler, samples: Sequence[int]) -> Smoothness:
    """How what the Gaussian leaves over varies along the flow, from a collocation sampler's own flows (`collocation.choose`)."""
    scheme, noted = sampler.chain, _Noted(sampler.score)
    assert isinstance(scheme, Collocation)
    piece, reference = scheme.piece(*scheme.span), scheme.reference.to(sampler.device, sampler.dtype)
    gram = torch.zeros(scheme.points, scheme.points, dtype=torch.float64)
    for sample in samples:
        replace(sampler, score=noted).draw([sample])
        rows = [noted.rows[float(t)] for t in piece.t.to(sampler.dtype)]
        x, score = (torch.stack(found).flatten(1) for found in zip(*rows, strict=True))
        remainder = scheme.remainder(piece, reference, x, score).to(torch.float64).cpu()
        gram += remainder @ remainder.T / remainder.shape[1] / len(samples)
    return Smoothness(*scheme.span, gram)


class _Noted:
    """A score that remembers its last row at every time: [state, score]."""

    def __init__(self, score: ScoreModel):
        self.score, self.rows = score, dict[float, tuple[Tensor, Tensor]]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        found = self.score(x, t)
        self.rows.update(zip(t.tolist(), zip(x.clone(), found.clone(), strict=True), strict=True))
        return found
