"""Checks that run on every rank of a launch: `mpiexec -n N python tests/rank_checks.py VERDICTS.json`.

Each check is a function of the world's communicator. Its verdict is reduced over the ranks before any of them acts on it, so that
a failure on one rank can never leave the others waiting.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from conditional import ShiftedMixture
from problems import F64, chains, drawn, every_method, mixture, solve, start

from piadm_hpc import Noise, grid, integrators
from piadm_hpc.comm.communicator import MPICommunicator
from piadm_hpc.comm.rank_grid import RankGrid, world
from piadm_hpc.schema.conditions import rows_of
from piadm_hpc.schema.layout import Coordinate, Layout, Variable
from piadm_hpc.solvers.adjoint import gradient
from piadm_hpc.solvers.baselines.dispatch import BASELINES
from piadm_hpc.solvers.collocation import Collocation
from piadm_hpc.solvers.errors import ScoreError
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.rollout import Rollout
from piadm_hpc.solvers.sampler import Sampler
from piadm_hpc.store.folder import Store
from piadm_hpc.store.statistics.reading import open_statistics
from piadm_hpc.store.statistics.recipe import Recipe
from piadm_hpc.theory.chain import Chain
from piadm_hpc.theory.grid import Partition
from piadm_hpc.theory.process import OU

PROCESS = OU()


def exscan_equals_the_recurrence(comm: Any) -> None:
    """Slices start at the right states, for scalar, per-coordinate and 2x2 maps, with more coordinates than ranks or fewer."""
    mpi, generator = MPICommunicator(comm), torch.Generator().manual_seed(0)
    for channels, size in ((1, 1), (1, 17), (2, 5)):
        maps = torch.randn(comm.size, size, channels, channels, dtype=F64, generator=generator)
        shifts = torch.randn(comm.size, 3, channels, size, dtype=F64, generator=generator)
        first = torch.randn(3, channels, size, dtype=F64, generator=generator)

        def linear(low: int, high: int, z: torch.Tensor, maps: torch.Tensor = maps) -> torch.Tensor:
            for rank in range(low, high):
                z = torch.einsum("nck,skn->scn", maps[rank], z)
            return z

        state = first
        for rank in range(comm.rank):
            state = torch.einsum("nck,skn->scn", maps[rank], state) + shifts[rank]
        assert torch.allclose(mpi.exscan(first, shifts[comm.rank], linear), state, atol=1e-12)


def collectives_refuse_what_mpi_gets_wrong(comm: Any) -> None:
    mpi = MPICommunicator(comm)
    transposed = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(mpi.bcast(transposed, 0), transposed)
    assert torch.equal(mpi.max(torch.tensor([float(comm.rank), -1.0])), torch.tensor([comm.size - 1.0, -1.0]))
    try:
        mpi.max(torch.zeros(2, dtype=torch.bfloat16))
    except TypeError as error:
        assert "states and sums are float32 or float64" in str(error)
    else:
        raise AssertionError("bfloat16 was accepted")


def a_student_of_any_number_of_ranks_gives_the_same_path(comm: Any) -> None:
    """Every rank follows the student to its own points: rounds and samples are those of one rank, and all ranks fail together."""
    mpi, target = MPICommunicator(comm), mixture(PROCESS)
    reference = target.reference()

    def student(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return target.score(x, t) * (1 + 0.01 * torch.sin(3 * x))

    for scheme in (chains(PROCESS, reference, num_blocks=2)["ddpm"], Collocation(PROCESS, reference, 6.0, 0.02, 16)):
        x0 = drawn(scheme, reference, range(3), 11)
        given = {"noise": Noise(11, 12, dtype=F64), "reference": reference, "tol": 1e-6}
        alone = solve(scheme, target.score, x0, student=student, **given)
        found = solve(scheme, target.score, x0, student=student, comm=mpi, **given)
        assert torch.allclose(found.x, alone.x, atol=1e-10) and torch.equal(found.rounds, alone.rounds)
        try:
            solve(scheme, target.score, x0, comm=mpi, student=student if comm.rank else lambda x, t: x * torch.nan, **given)
        except ScoreError as error:
            assert "not finite" in str(error)
        else:
            raise AssertionError("a student that is not finite on one rank was accepted")


def every_rank_grid_gives_the_same_samples(comm: Any) -> None:
    """All rank grids of sample groups x time ranks agree with the sequential chain on one process, also for uneven counts."""
    target = mixture(PROCESS)
    reference = target.reference()
    names = list(range(5))
    divisors = [n for n in range(1, comm.size + 1) if comm.size % n == 0]
    for name, chain in chains(PROCESS, reference, steps=17, num_blocks=2).items():
        x0, noise = start(PROCESS, chain, names)
        oracle = solve(chain, target.score, x0, noise=noise, reference=reference, solver="sequential").x
        for time_ranks in divisors:
            ranks = RankGrid.mpi(comm, time=time_ranks)
            mine = names[Partition(len(names), ranks.num_groups).slice(ranks.group)]
            if not mine:
                continue
            result = solve(
                chain, target.score, x0[mine], noise=noise, reference=reference, tol=1e-12, comm=ranks.time, samples=mine
            )
            assert float((result.x - oracle[mine]).abs().max()) < 1e-10, name
            assert len({str(item) for item in ranks.time.gather_objects(result.sweeps.tolist())}) == 1


def one_step_per_rank_and_linear_parts(comm: Any) -> None:
    """The smallest slices agree with one process, with every linear part, for a stochastic chain with a corrector."""
    target = mixture(PROCESS)
    reference = target.reference()
    chain = integrators.piadm(PROCESS, grid.log_snr(PROCESS, comm.size, horizon=3.0, delta=0.1))
    x0, noise = start(PROCESS, chain, [0, 1])

    def corrector(t: float) -> Chain:
        return integrators.underdamped(PROCESS, t, friction=2.0, length=0.5, num_steps=comm.size)

    given: dict[str, Any] = {"noise": noise, "reference": reference, "corrector": corrector}
    oracle = solve(chain, target.score, x0, solver="sequential", **given)
    for linear in ("identity", "process", "reference"):
        result = solve(chain, target.score, x0, tol=1e-12, linear=linear, comm=MPICommunicator(comm), **given)
        assert torch.allclose(result.x, oracle.x, atol=1e-10)


def phase_space_agrees_with_one_process(comm: Any) -> None:
    """Chains with two to four channels, several calls a step, and tables that the score reads agree with one process."""
    target = mixture(PROCESS)
    reference = target.reference()
    made = every_method(PROCESS, reference, steps=7)
    for name in ("heun", "rvv-x", "gddim-ab2", "roba", "robab", "lambda-ddim-i-r"):
        sampler = Sampler(made[name], target.score, (12,), 3, options=Options(tol=1e-12), reference=reference, dtype=F64)
        swept = sampler.draw([0, 2], comm=MPICommunicator(comm))
        oracle = replace(sampler, options=Options(solver="sequential")).draw([0, 2])
        assert float((swept.state - oracle.state).abs().max()) < 1e-10 * float(oracle.state.abs().max()), name


def every_baseline_agrees_with_one_process(comm: Any) -> None:
    """Baselines with linear parts, memories, parts or cores of their own agree with one process when ranks share these."""
    target = mixture(PROCESS)
    reference = target.reference()
    made = chains(PROCESS, reference, steps=17)
    for name in ("ddpm", "dpmpp-2m"):
        x0, noise = start(PROCESS, made[name], [0, 2, 5])
        given: dict[str, Any] = {"noise": noise, "samples": [0, 2, 5], "reference": reference}
        oracle = solve(made[name], target.score, x0, solver="sequential", **given)
        for kind in BASELINES:
            for window in (None, 5) if kind == "paradigms" else (None,):
                shared: dict[str, Any] = {"solver": kind, "tol": 1e-12, "window": window, **given}
                found = solve(made[name], target.score, x0, comm=MPICommunicator(comm), **shared)
                alone = solve(made[name], target.score, x0, **shared)
                assert float((found.state - oracle.state).abs().max()) < 1e-10, (name, kind)
                assert torch.equal(found.calls, alone.calls), (name, kind)


def single_precision_agrees_to_rounding(comm: Any) -> None:
    target = mixture(PROCESS)
    reference = target.reference()
    chain = chains(PROCESS, reference, steps=20)["gaussian sde"]
    x0, noise = start(PROCESS, chain, [0, 1])
    oracle = solve(chain, target.score, x0, noise=noise, reference=reference, solver="sequential").x
    single = solve(chain, target.score, x0.float(), noise=noise, reference=reference, tol=1e-4, comm=MPICommunicator(comm))
    assert float((single.x - oracle).norm() / oracle.norm()) < 1e-4


def the_shipped_network_agrees_to_single_precision(comm: Any) -> None:
    from piadm_hpc.config.run import RunConfig
    from piadm_hpc.models.card import load_model
    from piadm_hpc.run.resolve import make_sampler

    model = load_model("ccsm-temperature")
    run = RunConfig(model="ccsm-temperature", grid={"steps": 6}, solver={"tol": 1e-3})
    sampler = make_sampler(run, model)
    serial = sampler.draw([3]).x
    parallel = sampler.draw([3], comm=MPICommunicator(comm)).x
    assert float((parallel - serial).norm() / serial.norm()) < 1e-4


def unconverged_samples_are_finished_alike(comm: Any) -> None:
    target = mixture(PROCESS)
    reference = target.reference()
    chain = chains(PROCESS, reference, steps=11)["piadm sde"]
    x0, noise = start(PROCESS, chain, [0, 1, 2])
    oracle = solve(chain, target.score, x0, noise=noise, reference=reference, solver="sequential")
    for sweeps in (1, 4, 10):
        result = solve(chain, target.score, x0, noise=noise, tol=1e-13, sweeps=sweeps, comm=MPICommunicator(comm))
        assert torch.allclose(result.x, oracle.x, atol=1e-10)
        assert not bool(result.converged.any())


def more_ranks_than_points_is_refused(comm: Any) -> None:
    chain = integrators.ddim(PROCESS, grid.log_snr(PROCESS, max(1, comm.size - 1), horizon=3.0, delta=0.1))
    x0, _ = start(PROCESS, chain, [0])
    try:
        solve(chain, lambda x, t: -x, x0, comm=MPICommunicator(comm))
    except ValueError as error:
        assert f"for {comm.size} time ranks" in str(error)
    else:
        assert comm.size == 1


def a_failing_score_ends_every_rank_with_the_same_words(comm: Any) -> None:
    chain = chains(PROCESS, mixture(PROCESS).reference(), steps=12)["ddim"]
    x0, _ = start(PROCESS, chain, [7])

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if comm.rank == comm.size - 1:
            return torch.full_like(x, float("nan"))
        return -x

    try:
        solve(chain, score, x0, samples=[7], comm=MPICommunicator(comm))
    except ScoreError as error:
        words = set(comm.allgather(str(error)))
        assert len(words) == 1 and f"on rank {comm.size - 1}" in str(error) and "sample 7" in str(error)
    else:
        raise AssertionError("the failure of one rank was not seen by another")


def collocation_is_the_same_on_every_number_of_ranks(comm: Any) -> None:
    """Results agree to the last bit, since every rank sums the same remainders in the same order; failures reach every rank."""
    target = mixture(PROCESS)
    scheme = Collocation(PROCESS, target.reference(), 6.0, 1e-2, max(12, comm.size + 1))
    x0 = target.reference().draw_state(Noise(11, 12, dtype=F64).at([0], [0, 1, 2])[0], *scheme.entry())[:, 0]
    kwargs: dict[str, Any] = {"tol": 1e-5, "reference": target.reference(), "in_flight": 2}

    def one_row(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([target.score(row[None], time[None]) for row, time in zip(x, t, strict=True)])

    alone, shared = (solve(scheme, one_row, x0, comm=c, **kwargs) for c in (None, MPICommunicator(comm)))
    assert torch.equal(alone.x, shared.x) and torch.equal(alone.calls, shared.calls)
    try:
        solve(scheme, lambda x, t: x / (comm.size - 1 - comm.rank), x0, comm=MPICommunicator(comm), **kwargs)
    except ScoreError as error:
        assert len(set(comm.allgather(str(error)))) == 1 and f"on rank {comm.size - 1}" in str(error)
    else:
        raise AssertionError("the failure of one rank was not seen by another")


def conditions_reach_their_samples_on_every_rank_grid(comm: Any) -> None:
    """Sweeps on all rank grids agree with step by step: chains, a window, the parts of a baseline, collocation."""
    world, names = ShiftedMixture(PROCESS), [0, 1, 2, 5, 7]
    reference, tree = world.target.reference(), ShiftedMixture.conditions(5)
    chain = chains(PROCESS, reference, steps=17)["gaussian sde"]
    x0, noise = start(PROCESS, chain, names)
    given: dict[str, Any] = {"noise": noise, "reference": reference}
    oracle = solve(chain, world.score, x0, samples=names, condition=tree, solver="sequential", **given).x
    for time_ranks in (n for n in range(1, comm.size + 1) if comm.size % n == 0):
        ranks = RankGrid.mpi(comm, time=time_ranks)
        cut = Partition(len(names), ranks.num_groups).slice(ranks.group)
        mine = {"samples": names[cut], "condition": rows_of(tree, cut), "comm": ranks.time, "tol": 1e-12, **given}
        for options in ({}, {"alternate": True}, {"window": 5, "in_flight": 2}, {"solver": "parareal"}) if names[cut] else ():
            found = solve(chain, world.score, x0[cut], **mine, **options)
            assert float((found.x - oracle[cut]).abs().max()) < 1e-10, options
    scheme = Collocation(PROCESS, reference, 6.0, 1e-2, 12)
    first = drawn(scheme, reference, names, 3)
    alone, shared = (
        solve(scheme, world.score, first, samples=names, condition=tree, reference=reference, tol=1e-6, comm=c)
        for c in (None, MPICommunicator(comm))
    )
    assert float((alone.x - shared.x).abs().max()) < 1e-10


def pipelined_leads_are_the_same_on_every_number_of_ranks(comm: Any) -> None:
    """Results agree when ranks share pairs of lead and point, and a condition that fails on one rank ends them all."""
    world = ShiftedMixture(PROCESS)
    reference = world.target.reference()
    scheme = Collocation(PROCESS, reference, 6.0, 1e-2, 20)
    sampler = Sampler(scheme, world.score, (12,), 3, Options(tol=1e-3), reference=reference, dtype=F64)

    def given(past: torch.Tensor, links: Any) -> Any:
        return {"map": {"shift": torch.tanh(past[:, -1])}, "sign": torch.zeros(len(past), dtype=torch.long)}

    rollout, past = Rollout(sampler, given, threshold=0.3), reference.draw_state(torch.ones(2, 1, 12), *scheme.entry())
    alone, shared = (rollout.draw(past, 3, members=[0, 4], comm=c) for c in (None, MPICommunicator(comm)))
    assert float((alone.x - shared.x).abs().max()) < 1e-8 and torch.equal(alone.rounds, shared.rounds)

    def broken(past: torch.Tensor, links: Any) -> Any:
        if comm.rank == comm.size - 1:
            raise OSError("no field here")
        return given(past, links)

    for threshold in (None, 0.3):
        try:
            replace(rollout, given=broken, threshold=threshold).draw(past, 3, members=[0, 4], comm=MPICommunicator(comm))
        except OSError as error:
            assert "no field here" in str(error)
        else:
            raise AssertionError("the failure of one rank was not seen by another")


def densities_are_the_same_on_every_number_of_ranks(comm: Any) -> None:
    """Exact traces, probes (which belong to sample and node) and gradients agree; failures reach every rank."""
    target = mixture(PROCESS)
    scheme = Collocation(PROCESS, target.reference(), 6.0, 1e-2, max(12, comm.size + 1))
    x0 = target.reference().draw_state(Noise(11, 12, dtype=F64).at([0], [0, 1, 2])[0], *scheme.entry())[:, 0]
    for traces in ("exact", 4):
        kwargs: dict[str, Any] = {"tol": 1e-5, "traces": traces, "noise": Noise(3, 12)}
        alone, shared = (solve(scheme, target.score, x0, comm=c, **kwargs).log_det for c in (None, MPICommunicator(comm)))
        assert alone is not None and shared is not None
        assert torch.allclose(alone.value, shared.value, rtol=1e-6, atol=0)
        assert torch.allclose(alone.error, shared.error, rtol=1e-6, atol=1e-9)

    def objective(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x).sum(1)

    slopes = [
        gradient(scheme, target.score, x0, objective, Options(tol=1e-6), comm=c).first for c in (None, MPICommunicator(comm))
    ]
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-6, atol=1e-9)

    def undifferentiable(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        score = target.score(x, t)
        return score.detach() if comm.rank == comm.size - 1 else score

    try:
        solve(scheme, undifferentiable, x0, traces="exact", comm=MPICommunicator(comm))
    except ScoreError as error:
        assert len(set(comm.allgather(str(error)))) == 1 and "no gradient" in str(error)
    else:
        raise AssertionError("the failure of one rank was not seen by another")


def members_differ_between_ranks(comm: Any) -> None:
    drawn = comm.allgather(Noise(0, 4).at([0], [comm.rank]).tolist())
    assert len({str(item) for item in drawn}) == comm.size


def statistics_are_the_same_on_every_number_of_ranks(comm: Any) -> None:
    """Statistics agree to the last bit when every rank writes parts of its own, also for members that a killed rank left out."""
    ids = list(range(22))
    fields = np.random.default_rng(0).normal(280, 5, (len(ids), 9)).astype(np.float32)
    edges = np.linspace(260, 300, 9, dtype=np.float32)[:, None].repeat(9, 1)
    points = Coordinate(("x",), np.arange(9.0))
    layout = Layout((Variable("u", ("x",)),), {"x": points})
    kinds = ("mean", "std", "extremes", "quantiles", "histogram", "exceedance")
    recipe = Recipe(layout, kinds, (0.1, 0.5), {"u": (280.0,)}, {"u": edges}, exact=8)
    given: dict[str, Any] = {"layout": layout, "samples": ids, "shard_size": 3, "attributes": {}}
    given |= {"statistics": recipe, "members": False}
    with TemporaryDirectory() as own:
        alone, together = Path(own) / "alone", Path(comm.bcast(own, 0)) / "together"
        for folder, rank, size in ((alone, 0, 1), (together, comm.rank, comm.size)):
            root = rank == 0
            store = Store.create(folder, config={}, **given) if root else None
            comm.barrier()
            store = store or Store.attach(folder, **given)
            for start in (0, 1):
                missing = store.missing()
                comm.barrier()
                for batch in missing[rank::size] if start or rank % 2 == 0 else []:
                    store.write(batch, {"u": fields[list(batch)]}, {})
                comm.barrier()
            if root:
                store.join()
                store.close()
            comm.barrier()
        with open_statistics(alone) as one, open_statistics(together) as other:
            for name in one.data_vars:
                assert np.array_equal(one[name].values, other[name].values), name
        comm.barrier()


CHECKS = [
    exscan_equals_the_recurrence,
    collectives_refuse_what_mpi_gets_wrong,
    every_rank_grid_gives_the_same_samples,
    a_student_of_any_number_of_ranks_gives_the_same_path,
    one_step_per_rank_and_linear_parts,
    phase_space_agrees_with_one_process,
    every_baseline_agrees_with_one_process,
    single_precision_agrees_to_rounding,
    the_shipped_network_agrees_to_single_precision,
    unconverged_samples_are_finished_alike,
    more_ranks_than_points_is_refused,
    a_failing_score_ends_every_rank_with_the_same_words,
    collocation_is_the_same_on_every_number_of_ranks,
    conditions_reach_their_samples_on_every_rank_grid,
    pipelined_leads_are_the_same_on_every_number_of_ranks,
    densities_are_the_same_on_every_number_of_ranks,
    members_differ_between_ranks,
    statistics_are_the_same_on_every_number_of_ranks,
]


def main() -> None:
    torch.set_num_threads(1)
    comm, verdicts = world(), {}
    for check in CHECKS:
        try:
            check(comm)
            problem = ""
        except Exception:
            problem = f"rank {comm.rank}: {traceback.format_exc()}"
        verdicts[check.__name__] = "\n".join(text for text in comm.allgather(problem) if text)
    if comm.rank == 0:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(verdicts, file)


if __name__ == "__main__":
    main()
