"""Log-determinants of a collocated flow: quadrature of the remainder's divergence on the nodes of its converged path.

In whitened coordinates the flow is dy/dl = g/2, so that the map from first to last state x has

    log |det dx_end / dx_start| = sum_j w_j h_j + 1/2 sum (log v_end - log v_start),    h = sigma^2 (tr J_s + tr diag(1/v))

with the weights w of the last row of the table of integrals. The traces of all nodes are taken at once, shared by the ranks
like scores, once per node and sample. Instantaneous change of variables: Chen et al. 2018 (Neural ODEs), eq. 8; as the
likelihood of a diffusion model: Song et al. 2021, eq. 39.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..comm.communicator import Communicator
from ..gaussian.density import degrees_within
from ..theory.chebyshev import highest_coefficients
from ..theory.grid import Partition
from ..theory.noise import GivenNoise, NoiseSource
from .evaluate import Evaluator
from .nodes import node_rows
from .slot import Visited
from .solution import LogDet
from .traces import PROBES, Directions, Exact, Probes, divergences, subspace
from .whitening import Whitening

WIDTH = 2.0  # standard deviations of the probes' error in an error bar
# change of the log-determinant with a deviation of the path, for every degree of freedom; with 1, bars covered 92 of 100 truths
STEEP = 2.0

Node = tuple[int, int, int]  # position of the sample, piece, node


def make_directions(traces: str | int, whitening: Whitening, evaluator: Evaluator, noise: NoiseSource | None) -> Directions:
    """Build the directions that `Options.traces` names, for the flow of a whitening.

    Raises ValueError for probes without a source of noise, and for exact traces of states that are too large.
    """
    like, project = whitening.first_root, None if evaluator.projection is None else evaluator.project
    basis = whitening.reference.basis
    degrees = degrees_within(basis, project, like)
    if isinstance(traces, str):
        return Exact(subspace(len(whitening.reference.mean), project, like), degrees)
    if noise is None or isinstance(noise, GivenNoise):
        size = len(whitening.reference.mean)
        raise ValueError(f"traces = {traces} probes are drawn from a seed: give noise = Noise(seed, {size})")

    def draw(sample: int, node: int) -> Tensor:
        return noise.at([node], [sample], channels=traces, stream=PROBES)[0, 0]

    return Probes(whitening.reference, evaluator.project, degrees, draw)


def log_determinants(
    whitening: Whitening,
    evaluator: Evaluator,
    directions: Directions,
    visited: Sequence[Sequence[Visited]],
    samples: Sequence[int],
    residual: Tensor,
    comm: Communicator,
) -> tuple[LogDet, Tensor]:
    """Return the log-determinants of samples from the pieces `visited` of each, and the calls [samples] that they cost.

    Collective over `comm`. The error bar adds the quadrature error of the nodes, the effect of the bounds `residual` [samples]
    on the end states (a log-density over r directions changes by about r times as much), and WIDTH deviations of the probes. The
    number of a node, which selects its probes, counts through all pieces of a sample. Raises
    ScoreError on every rank when the score fails on any.
    """
    nodes: list[Node] = [
        (position, number, node)
        for position, pieces in enumerate(visited)
        for number, piece in enumerate(pieces)
        for node in range(len(piece.path) - 1)
    ]
    cut = Partition(len(nodes), comm.size)
    own = nodes[cut.slice(comm.rank)]
    mine = evaluator.together(comm, partial(_divergences, whitening, evaluator, directions, visited, samples, own))
    found = comm.allgather(mine, [cut.length(rank) for rank in range(comm.size)])
    numbers, start = [], 0
    for pieces in visited:
        total = torch.zeros(3, dtype=torch.float64)
        for piece in pieces:
            stop = start + len(piece.path) - 1
            total += _summed(piece, *found[start:stop].unbind(1))
            start = stop
        numbers.append(total)
    value, doubt, variance = torch.stack(numbers).unbind(1)
    error = doubt + STEEP * directions.degrees.sum() * residual + WIDTH * torch.sqrt(variance)
    calls = torch.tensor([sum(len(piece.path) - 1 for piece in pieces) for pieces in visited])
    return LogDet(value + whitening.log_scale(directions.degrees), error, variance), calls


def _divergences(
    whitening: Whitening,
    evaluator: Evaluator,
    directions: Directions,
    visited: Sequence[Sequence[Visited]],
    samples: Sequence[int],
    own: Sequence[Node],
) -> Tensor:
    """Compute the divergence and the variance of its estimate at some nodes, [nodes, 2] float64 on the host."""
    found = torch.zeros(len(own), 2, dtype=torch.float64)
    rows = evaluator.max_rows or max(1, len(own))
    for start in range(0, len(own), rows):
        part = own[start : start + rows]
        pieces = [visited[position][number] for position, number, _ in part]
        at = [(piece.tables, node) for piece, (_, _, node) in zip(pieces, part, strict=True)]
        y = torch.stack([piece.path[node] for piece, (_, _, node) in zip(pieces, part, strict=True)])
        at_nodes = node_rows(whitening, evaluator, at, y)
        inverse = torch.stack([tables.piece.root[node] for tables, node in at]).to(torch.float64) ** -2
        before = [sum(len(piece.path) - 1 for piece in visited[position][:number]) for position, number, _ in part]
        keys = [(samples[position], earlier + node) for earlier, (position, _, node) in zip(before, part, strict=True)]
        found[start : start + rows] = divergences(evaluator, directions, at_nodes.x, at_nodes.t, at_nodes.factor, inverse, keys)
    return found


def _summed(piece: Visited, divergence: Tensor, variance: Tensor) -> Tensor:
    """Integrate the divergence [M] over a piece: the integral, the size of its quadrature error, and its variance.

    The last Chebyshev coefficients count with the length of the piece, because errors of the path at the nodes, which are of
    their size, do not cancel in the integral as the polynomials themselves do.
    """
    tables = piece.tables.piece
    weights, length = tables.weights[-1], abs(tables.high - tables.low) / 4
    last = (highest_coefficients(len(divergence)) @ divergence).abs().max() * length
    return torch.stack([weights @ divergence, last, weights**2 @ variance])
