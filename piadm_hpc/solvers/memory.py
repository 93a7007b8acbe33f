"""Bytes that solvers keep in memory, for the planning of runs; a test compares them with the arrays themselves."""

from __future__ import annotations

import torch

from .collocation import Collocation
from .problem import Problem


def trajectory_bytes(problem: Problem, points: int, slots: int, itemsize: int, *, closed: bool, keep_scores: bool) -> int:
    """Count the bytes of a Trajectory's arrays at so many points of a rank, with `itemsize` bytes a number."""
    chain, n = problem.chain, problem.basis.num_coords
    arrays = 4 if problem.has_draws else 3
    numbers = slots * n * chain.channels * (points * arrays + 2)
    if closed and problem.prediction is not None:
        numbers += slots * n
    if keep_scores:
        numbers += points * slots * n * chain.reads
    return itemsize * (numbers + len(chain.t)) + 8 * points


def collocation_bytes(scheme: Collocation, slots: int, itemsize: int, kept: int = 0) -> int:
    """Count the bytes that a CollocationSolver keeps on any rank, with the tables of the whole range in one piece.

    Every slot keeps its state, two paths over the M nodes and the end, and the remainders of two sweeps; for log-determinants
    the paths of `kept` samples stay.
    """
    basis, nodes, tables = scheme.reference.basis, scheme.points, 0
    n, width = basis.num_coords, basis.expand(torch.zeros(1, basis.num_shells)).shape[-1]
    for count in scheme.point_counts:
        tables += (2 * count + 1) * width + 4 * (count + 1) * count + 2 * max(2, count // 4) * count
        if scheme.reference.response is not None:
            tables += (count + count**2) * width
    return itemsize * (tables + slots * n * (1 + 2 * (nodes + 1) + 2 * nodes) + kept * n * (nodes + 1))
