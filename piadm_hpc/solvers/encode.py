"""The flow in both directions: data to the first states that the flow maps to them, with their densities, and back.

Encoding solves the same flow from its last time to its first (Song et al. 2021, section 4.3, exact likelihood and encoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..schema.conditions import Condition
from .collocation import Collocation
from .sampler import Sampler
from .solution import Solution
from .solve import solve


@dataclass(frozen=True)
class Encoded:
    """Data [samples, *event], encoded as first states of the flow.

    Attributes:
        first: the states at the chain's first point that the flow carries to the data, [samples, *event].
        white: the same as white noise, [samples, *event]: standard normal in every direction if the data follow the model's
            distribution.
        solution: the solution of the flow from data to noise, with its costs.
        log_density: log-densities of the data, per unit volume of states, [samples] float64; None without `options.traces`.
    """

    first: Tensor
    white: Tensor
    solution: Solution
    log_density: Tensor | None


def encode(
    sampler: Sampler, x: Tensor, *, condition: Condition | None = None, samples: Sequence[int] | None = None,
    comm: Communicator | None = None,
) -> Encoded:  # fmt: skip
    """Encode data x [samples, *event] as the first states from which a sampler would draw them; collective over `comm`.

    Data are states at the last time of the flow. `condition` is as in `solve`; `samples`
    are ids, which select the probes of traces. Raises ValueError unless
    the sampler's chain is a collocation.
    """
    states = x.to(sampler.device, sampler.dtype)
    flow = _flow(sampler).reversed()
    found = _solve(sampler, flow, states, condition, samples, comm)
    reference = sampler.measure
    wide = reference.to(states.device, states.dtype)
    level = flow.process.alpha(flow.t[-1:]), flow.process.sigma(flow.t[-1:])
    root = wide.basis.expand(torch.sqrt(reference.variance(*level))[0].to(states))
    away = sampler.projected(found.x.flatten(1) - level[0].to(states) * wide.mean)
    white = wide.basis.synthesise(wide.basis.analyse(away) / root).reshape(found.x.shape)
    density = None if found.log_det is None else sampler.first_log_density(found.x) + found.log_det.value
    return Encoded(found.x, white, found, density)


def decode(
    sampler: Sampler, first: Tensor, *, condition: Condition | None = None, samples: Sequence[int] | None = None,
    comm: Communicator | None = None,
) -> Solution:  # fmt: skip
    """Carry first states [samples, *event] along the flow to its last time; collective over `comm`. The inverse of `encode`."""
    return _solve(sampler, _flow(sampler), first.to(sampler.device, sampler.dtype), condition, samples, comm)


def _flow(sampler: Sampler) -> Collocation:
    if not isinstance(sampler.chain, Collocation):
        raise ValueError(
            "only a flow solved by collocation can be solved backward, to noise; use chain.integrator = 'collocation'"
        )
    return sampler.chain


def _solve(
    sampler: Sampler, flow: Collocation, states: Tensor, condition: Condition | None, samples: Sequence[int] | None,
    comm: Communicator | None,
) -> Solution:  # fmt: skip
    # the tolerance is one of data; on the way back to noise states are in units of noise
    options = replace(sampler.options, scale=1.0) if flow.backward else sampler.options
    return solve(
        flow, sampler.score, states, options,
        noise=sampler.noise(), condition=condition, comm=comm, samples=samples, project=sampler.project,
    )  # fmt: skip
