"""Settings that a run chooses when it starts: predicted from call times, the same on all ranks, stored, and kept on resuming."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import add_network, call, make_model, on_ranks, write_config
from torch import Tensor

import piadm_hpc as piadm
from piadm_hpc.comm.communicator import SerialCommunicator
from piadm_hpc.comm.timing import Network
from piadm_hpc.config.run import RunConfig
from piadm_hpc.run import calls
from piadm_hpc.run.calls import CallTimes, time_calls
from piadm_hpc.run.choose import choose
from piadm_hpc.run.resolve import ResolvedRun, resolve
from piadm_hpc.run.ways import CAP, Way, Ways
from piadm_hpc.solvers.solution import Status

STEPS = 48
LINEAR = CallTimes((1, 64), (0.1, 6.4), warm=True)  # a call of n rows takes n waits, as on a processor
FLAT = CallTimes((1, 4096), (0.1, 0.1), warm=True)  # a call takes as long for any number of rows, as on a GPU that is half empty
OPEN = {"solver": {"kind": "auto"}, "output": {"batch": "auto"}, "compute": {"model_batch": "auto"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a Gaussian model and one with an untrained network."""
    folder = tmp_path_factory.mktemp("auto")
    add_network(make_model(folder), folder / "network")
    return folder


def resolved(folder: Path, **settings: Any) -> ResolvedRun:
    config = RunConfig.model_validate({"model": str(folder / "network"), "grid": {"steps": STEPS}, **settings})
    return resolve(config, piadm.load_model(folder / "network"))


def ways(folder: Path, ranks: int, **settings: Any) -> Ways:
    return Ways(resolved(folder, **settings), ranks, Network())


@pytest.mark.parametrize(
    ("ranks", "samples", "times", "kind", "time_ranks"),
    [
        (1, 1, LINEAR, "sequential", 1),
        (1, 64, LINEAR, "sequential", 1),
        (1, 1, FLAT, "picard", 1),
        (1, 64, FLAT, "picard", 1),
        (16, 64, LINEAR, "sequential", 1),
        (16, 1, LINEAR, "picard", 16),
        (16, 1, FLAT, "picard", 1),
    ],
)
def test_steps_where_ranks_are_full_and_sweeps_where_they_are_idle(
    folder: Path, ranks: int, samples: int, times: CallTimes, kind: str, time_ranks: int
) -> None:
    best = ways(folder, ranks, samples=samples).fastest(times).way
    assert (best.kind, best.time_ranks) == (kind, time_ranks)


@pytest.mark.parametrize(("ranks", "by_turns"), [(8, True), (16, False)])
def test_fewer_ranks_than_points_evaluate_every_second_one(folder: Path, ranks: int, by_turns: bool) -> None:
    """Where a rank has several points, half of the calls count for more than a few sweeps; where it has one, sweeps count."""
    best = ways(folder, ranks, samples=1, grid={"steps": 16}).fastest(LINEAR).way
    assert (best.kind, best.window, best.alternate) == ("picard", None, by_turns)


def test_ranks_that_take_turns_on_processors_sweep_no_faster(folder: Path) -> None:
    assert ways(folder, 16, samples=1).fastest(replace(LINEAR, crowding=8.0)).way.kind == "sequential"


@pytest.mark.parametrize("settings", [{"window": 8}, {"linear": "process"}, {"sweeps": 5, "fixed_depth": True}], ids=str)
def test_settings_that_only_sweeps_read_mean_sweeps(folder: Path, settings: dict[str, Any]) -> None:
    made = resolved(folder, solver=settings)
    assert made.config.solver.kind == "picard" and made.sampler.options.solver == "picard"
    assert {way.kind for way in Ways(made, 4, Network()).all} == {"picard"}


def test_time_ranks_that_are_given_are_kept_without_a_cap(folder: Path) -> None:
    shared = ways(folder, 4, samples=1, compute={"time_ranks": 4})
    assert {(way.kind, way.time_ranks) for way in shared.all} == {("picard", 4)}
    assert shared.most_sweeps(shared.fastest(LINEAR), LINEAR) is None


def test_a_flow_keeps_its_collocation(folder: Path) -> None:
    assert {(way.kind, way.window) for way in ways(folder, 4, chain={"eta": 0.0}).all} == {("picard", None)}


def test_a_batch_is_as_large_as_pays(folder: Path) -> None:
    assert ways(folder, 1, samples=200).fastest(FLAT).batch == 200
    assert ways(folder, 4, samples=200, solver={"kind": "sequential"}).fastest(FLAT).batch == 50
    slow = replace(LINEAR, seconds=(10.0, 640.0))
    assert ways(folder, 1, samples=200).fastest(slow).batch == 1
    assert ways(folder, 1, samples=200, output={"batch": 7}).fastest(FLAT).batch == 7


def test_rows_of_a_call_are_as_many_as_pay() -> None:
    assert CallTimes((1, 8, 64), (1.0, 2.0, 24.0)).best_rows(untried=True) == 8
    assert CallTimes((1, 8), (1.0, 2.0)).best_rows(untried=True) == 64  # larger calls may be better still
    assert CallTimes((1, 8), (1.0, 2.0)).best_rows(untried=False) == 8
    assert CallTimes((1, 8), (1.0, 8.0)).best_rows(untried=True) == 8  # larger calls take no less time per row
    assert CallTimes((1, 8), (1.0, 2.0)).of(12, 8) == pytest.approx(2.0 + 1 + 3 / 7)


@pytest.mark.parametrize(("predicted", "most"), [(1.0, 1), (40.0, 2), (1e9, 10)])
def test_timed_calls_take_a_small_share_of_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, predicted: float, most: int
) -> None:
    timed: list[int] = []

    def call_of(sampler: object, rows: int, repeats: int) -> tuple[float, float]:
        timed.append(rows)
        return rows**0.5, rows**0.5

    monkeypatch.setattr(calls, "_timed", call_of)
    times = time_calls(resolved(folder).sampler, SerialCommunicator(), lambda _: predicted, 512)
    assert len(timed) <= most and list(times.rows) == sorted(set(timed)) and sum(timed[1:]) <= calls.TIMED * predicted * 2
    assert predicted < 1e9 or times.rows == (1, 8, 64, 512)


@pytest.mark.parametrize("ranks", [2, 8, 16])
def test_an_untrained_network_costs_at_most_three_times_its_steps(folder: Path, ranks: int) -> None:
    """The busiest of `ranks` ranks waits for at most CAP times as many rows as there are steps, whatever sweeps do."""
    run = resolved(folder, samples=1, solver={"tol": 1e-12}, compute={"precision": "float64"})
    open_ways = Ways(run, ranks, Network())
    chosen = open_ways._batched(Way("picard", None, ranks), LINEAR)
    limit = open_ways.most_sweeps(chosen, LINEAR)
    rows: list[int] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        rows.append(len(x))
        return run.sampler.score(x, t)

    options = replace(run.sampler.options, sweeps=limit, model_batch=None)
    found = replace(run.sampler, score=counted, options=options).draw([0])
    # as many sweeps as there are steps make every point exact; sweeps without progress end earlier
    assert limit is not None and int(found.sweeps) <= limit
    assert int(found.sweeps) == STEPS or int(found.status) == int(Status.FINISHED_SEQUENTIALLY)
    assert sum(-(-n // ranks) for n in rows) <= CAP * STEPS
    exact = replace(run.sampler, options=replace(options, solver="sequential", sweeps=None)).draw([0])
    assert float((found.x - exact.x).abs().max()) < 1e-5


def test_one_rank_draws_an_untrained_network_step_by_step(folder: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.toml", folder / "network", tmp_path / "run", **OPEN)
    report = call("sample", config)
    assert report["code"] == 0 and report["out"].count("auto: ") == 1
    with piadm.open(tmp_path / "run") as dataset:
        assert (dataset["model_calls"] == dataset["sequential_steps"]).all()
    stored = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert stored["solver"]["kind"] == "sequential" and isinstance(stored["output"]["batch"], int)
    assert "auto: " in (tmp_path / "run" / "log.txt").read_text()


def test_a_run_goes_on_as_it_was_begun(folder: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"solver": {"kind": "picard", "window": 8, "sweeps": 11}}
    begun = write_config(tmp_path / "begun.toml", folder / "network", tmp_path / "run", **changes, samples=2)
    assert call("sample", begun)["code"] == 0
    goes_on = write_config(tmp_path / "run.toml", folder / "network", tmp_path / "run", **OPEN, samples=4)
    assert "sweeps in a window of 8" in call("plan", goes_on)["out"]
    assert call("sample", goes_on)["code"] == 0
    with piadm.open(tmp_path / "run") as dataset:
        assert dataset.sizes["realization"] == 4 and (dataset["sweeps"] > 0).all()
    again = write_config(tmp_path / "other.toml", folder / "network", tmp_path / "run", **OPEN, seed=1)
    refused = call("sample", again)
    assert refused["code"] == 1 and "seed: 0 there, 1 here" in refused["err"]
    assert call("sample", again, "--overwrite")["code"] == 0
    stored = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert stored["solver"]["kind"] == "sequential" and "window" not in stored["solver"]


def test_plan_chooses_by_the_same_function(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_timed", lambda sampler, rows, repeats: (0.1 * rows, 0.1 * rows))
    made = resolved(folder, samples=1)
    for ranks in (1, 16):
        planned, chosen = piadm.plan(made.config, ranks=ranks), choose(made, SerialCommunicator(), ranks=ranks, threads=1)
        assert planned.chosen == chosen.text and planned.time_ranks == chosen.time_ranks
    assert chosen.time_ranks == 16 and chosen.resolved.config.solver.kind == "picard"


def test_ranks_choose_alike_and_members_stay_the_same(folder: Path, tmp_path: Path) -> None:
    """For two samples on four ranks, members are those of the chain step by step, within the tolerance, whatever is chosen."""
    tol = 1e-3
    config = write_config(tmp_path / "run.toml", folder / "network", tmp_path / "run", **OPEN, samples=2)
    done, reports = on_ranks(4, tmp_path / "ranks", [{"args": ["sample", config, "--tol", tol]}])
    assert done.returncode == 0 and [report[0]["code"] for report in reports] == [0] * 4, reports
    steps = resolve(RunConfig.model_validate(tomllib.loads(config.read_text())), piadm.load_model(folder / "network"))
    truth = steps.with_settings({"solver": {"kind": "sequential"}}).sampler.draw(range(2)).x
    with piadm.open(tmp_path / "run") as dataset:
        fields = dataset["tas"].values
    expected = steps.model.decode(truth)["tas"]
    scale = float(np.std(expected))
    assert float(np.sqrt(np.mean((fields - expected) ** 2))) <= 2 * tol * scale + 1e-4 * scale
    assert torch.isfinite(truth).all()
