"""The memory that solvers announce to planning equals that of the arrays which they allocate, to the last byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from problems import F64, chains, drawn, mixture, start
from torch import Tensor

from piadm_hpc.comm.communicator import SerialCommunicator
from piadm_hpc.gaussian.reference import GaussianReference, Response
from piadm_hpc.solvers.baselines.dispatch import SWEEPING
from piadm_hpc.solvers.blocks import block_solver
from piadm_hpc.solvers.collocate import CollocationSolver
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.evaluate import Evaluator
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.solvers.sweep import PicardSolver
from piadm_hpc.theory.process import OU

PROCESS = OU()
STEPS, SAMPLES = 17, [0, 1, 2, 3, 4]


class FirstOfTwo(SerialCommunicator):
    """The first of two ranks, whose partner adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 2

    def allgather(self, values: Tensor, lengths: Sequence[int]) -> Tensor:
        return torch.cat([values, values.new_zeros(sum(lengths) - len(values), *values.shape[1:])])


def tensors(found: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors that an object, its records and its lists hold, one for each piece of memory."""
    if isinstance(found, Tensor):
        if found.untyped_storage().data_ptr() not in seen:
            seen.add(found.untyped_storage().data_ptr())
            yield found
    elif isinstance(found, list | tuple | dict):
        for one in found.values() if isinstance(found, dict) else found:
            yield from tensors(one, seen)
    elif is_dataclass(found):
        for field in fields(found):
            yield from tensors(getattr(found, field.name, None), seen)


def bytes_of(*found: Any) -> int:
    return sum(one.untyped_storage().nbytes() for one in tensors(found, set()))


def problem_of(
    scheme: Scheme, reference: GaussianReference | None, options: Options, comm: SerialCommunicator
) -> tuple[Any, Any]:
    """The solver of a scheme's blocks for the mixture, and the first states of the samples."""
    target = mixture(PROCESS)
    x0, noise = (
        start(PROCESS, scheme, SAMPLES) if scheme.sequential_rounds else (drawn(scheme, target.reference(), SAMPLES, 3), None)
    )
    momentum = torch.zeros(len(SAMPLES), scheme.channels - 1, x0.shape[-1], dtype=F64)
    evaluator = Evaluator(target.score, (x0.shape[-1],), fields=scheme.reads)
    return block_solver(scheme, evaluator, noise, reference, options, comm, like=x0), torch.cat([x0[:, None], momentum], dim=1)


CASES: dict[str, tuple[str, Options]] = {
    "noise": ("piadm sde", Options()),
    "no noise": ("ddim", Options()),
    "a few samples at once": ("gaussian sde", Options(in_flight=2)),
    "a window": ("gaussian sde", Options(window=4, in_flight=3)),
    "a front": ("ddpm", Options(pipelined=True)),
    "every second point": ("gaussian sde", Options(alternate=True)),
    "several channels": ("dpmpp-2m", Options()),
    "kept differences": ("ddpm", Options(solver="anderson", memory=2)),
    "a map of every step": ("ddpm", Options(solver="newton")),
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "none"])
@pytest.mark.parametrize("case", CASES)
def test_a_chain_takes_as_many_bytes_as_planned(case: str, with_reference: bool, ranks: int) -> None:
    name, options = CASES[case]
    comm = SerialCommunicator() if ranks == 1 else FirstOfTwo()
    reference = mixture(PROCESS).reference()
    chain = chains(PROCESS, reference, steps=STEPS, num_blocks=3 if options.pipelined else 1)[name]
    known = reference if with_reference or chain.basis is not None else None
    blocks, x = problem_of(chain, known, options, comm)
    (block,), z = blocks.blocks(), blocks.problem.basis.analyse(x)
    solver = SWEEPING.get(options.solver, PicardSolver)(blocks.problem, block, z, SAMPLES, options, comm)
    for _ in range(options.memory + 2 if options.solver == "anderson" else 0):
        solver._evaluate()
        solver._update()
    slots = options.in_flight or len(SAMPLES)
    trajectory = {
        name: part for name, part in vars(solver.trajectory).items() if name not in ("problem", "base", "predictor", "scan")
    }
    own = [getattr(solver, name, None) for name in ("states", "gaps", "last", "maps")]
    planned = blocks.bytes_in_memory(len(solver.rows.points), slots, len(SAMPLES), z.element_size())
    assert planned == bytes_of(trajectory, own, solver.first, solver.result.end)


@pytest.mark.parametrize("probed", [True, False], ids=["probed", "not probed"])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("slots", [2, 5])
def test_a_collocation_takes_as_many_bytes_as_planned(slots: int, ranks: int, probed: bool) -> None:
    comm = SerialCommunicator() if ranks == 1 else FirstOfTwo()
    reference = mixture(PROCESS).reference()
    if probed:
        gains = torch.full((2, reference.basis.num_shells), 0.5, dtype=F64)
        reference = replace(reference, response=Response(torch.tensor([-8.0, 8.0]), gains))
    scheme, options = Collocation(PROCESS, reference, 6.0, 1e-2, 9), Options(in_flight=slots)
    blocks, x = problem_of(scheme, reference, options, comm)
    solver = CollocationSolver(scheme, blocks.evaluator, x[:, 0], SAMPLES, options, comm, None)
    solver._fill()
    for _ in scheme.point_counts[:-1]:
        solver._evaluate()
        solver._advance()
        solver.slots = [slot for slot in map(solver._next, solver.slots) if slot is not None]
    solver._evaluate()
    solver._advance()
    solver._evaluate()
    arrays = [[slot.y, slot.path, slot.at, slot.remainder, slot.evaluated] for slot in solver.slots]
    tables = [{**vars(piece), "piece": None} for piece in solver.tables.values()]
    planned = blocks.bytes_in_memory(-(-scheme.points // ranks), slots, len(SAMPLES), x.element_size())
    assert planned == bytes_of(arrays, tables, solver.first, solver.result.end)


def test_step_by_step_a_few_states_are_in_memory_however_many_steps_there_are() -> None:
    reference = mixture(PROCESS).reference()
    solvers = [
        problem_of(
            chains(PROCESS, reference, steps=steps)["ddpm"], reference, Options(solver="sequential"), SerialCommunicator()
        )[0]
        for steps in (17, 170)
    ]
    first, second = (blocks.bytes_in_memory(steps, 5, 5, 8) for blocks, steps in zip(solvers, (17, 170), strict=True))
    assert first == second == 4 * 5 * 8 * reference.basis.num_coords
