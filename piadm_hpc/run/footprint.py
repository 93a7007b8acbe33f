"""Bytes of a run: those that a rank holds in memory, and those that it sends in a sweep."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import torch

from ..comm.communicator import SerialCommunicator
from ..solvers.blocks import block_solver
from ..solvers.evaluate import Evaluator
from ..solvers.sampler import Sampler
from ..solvers.scheme import BlockSolver


def solver_of(sampler: Sampler) -> BlockSolver:
    """The solver of the run's blocks, which knows the bytes that it will hold in memory."""
    chain, options, like = sampler.chain, sampler.options, torch.zeros(0, math.prod(sampler.event_shape), dtype=sampler.dtype)
    evaluator = Evaluator(sampler.score, sampler.event_shape, sampler.project, options.model_batch, fields=chain.reads)
    return block_solver(chain, evaluator, None, sampler.reference, options, SerialCommunicator(), like=like)


def bytes_per_sweep(sampler: Sampler, batch: int, time_ranks: int) -> int:
    """Bytes that one rank sends in a sweep: its map in every stage of a scan over a tree of ranks, and the residuals."""
    width = sampler.dtype.itemsize
    words = batch * sampler.chain.channels * _coords(sampler)
    if sampler.chain.sequential_rounds is None:
        return 0 if time_ranks == 1 else width * words * -(-sampler.chain.num_steps // time_ranks)
    stages = math.ceil(math.log2(time_ranks)) if time_ranks > 1 else 0
    return stages * (width * words + 8 * (batch + 1))


def memory_of_rank(
    sampler: Sampler, solver: BlockSolver, activations: int, points: int, slots: int, batch: int, time_ranks: int
) -> int:
    """Bytes of a rank with `points` points of a block and `slots` samples at once: this process, the solver, and a call.

    Messages and calls come and go; while one sample of several leaves its slot, one array of the others is copied.
    """
    chain, sequential = sampler.chain, sampler.options.solver == "sequential"
    width, d, n = sampler.dtype.itemsize, math.prod(sampler.event_shape), _coords(sampler)
    state = width * chain.channels * n
    swept = chain.sequential_rounds is not None and not sequential
    copied = (slots - 1) * points * state if swept else 0
    exchange = 0 if time_ranks == 1 else slots * state * (6 if swept else points)
    rows = min(sampler.options.model_batch or slots * points, batch if sequential else slots * points)
    call = activations + rows * width * (4 * d * chain.reads + n)
    return resident() + solver.bytes_in_memory(points, slots, batch, width) + exchange + max(copied, call)


def _coords(sampler: Sampler) -> int:
    d = math.prod(sampler.event_shape)
    return d if sampler.reference is None else sampler.reference.basis.num_coords


def resident() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
