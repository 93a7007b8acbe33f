"""`piadm compare` finds the fewest steps by bisection at equal error for all methods, and writes tables and figures."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import call, make_model
from problems import HORIZONS, mixture, solve

from piadm_hpc import grid, integrators
from piadm_hpc.analysis.compare import baselines
from piadm_hpc.analysis.compare.baselines import compare, projected
from piadm_hpc.analysis.compare.benchmark import Benchmark, Entry, Row, in_parallel, rms, step_by_step
from piadm_hpc.analysis.compare.task import make_task
from piadm_hpc.models.analytic import GaussianField
from piadm_hpc.theory.process import EDM, OU, VP, Flow

TASK = make_task("target-c:16", samples=2)


@pytest.mark.parametrize("process", [OU(), VP(), EDM(), Flow()], ids=lambda one: type(one).__name__)
def test_the_two_step_method_is_exact_on_its_gaussian_and_of_second_order_beyond(process: Any) -> None:
    target = mixture(process)
    reference = target.reference()

    def end(score: Any, steps: int) -> Any:
        made = grid.log_snr(process, steps, horizon=HORIZONS[type(process)], delta=0.02)
        chain = integrators.gaussian_ab2(process, made, reference)
        return chain, solve(chain, score, first, reference=reference, solver="sequential").x

    first = float(process.sigma(process.time(torch.tensor(5.0, dtype=torch.float64)))) * torch.randn(
        3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    chain, swept = end(GaussianField(process, reference).score, 5)
    exact = reference.flow(process, first, chain.t[:1].expand(3), chain.t[-1:].expand(3))
    assert torch.allclose(swept, exact, atol=1e-10 * float(exact.abs().max()))
    truth = end(target.score, 512)[1]
    errors = [float((end(target.score, steps)[1] - truth).norm()) for steps in (32, 64, 128)]
    assert all(3.2 < a / b < 5.5 for a, b in pairwise(errors)), errors


def test_the_fewest_steps_are_just_enough() -> None:
    benchmark = Benchmark(TASK, 1e-2, sde=False)
    for integrator in ("dpmpp-2m", "gaussian-ab2"):
        found = benchmark.fewest(integrator, 1e-2)
        assert found is not None
        assert (
            benchmark.sequential(integrator, found, "log-snr")[0]
            <= 1e-2
            < benchmark.sequential(integrator, found - 1, "log-snr")[0]
        )
    assert Benchmark(TASK, 1e-2, sde=False, most=8).fewest("ddim", 1e-2) is None


def test_a_method_that_needs_too_many_steps_is_named_and_left_out() -> None:
    heard: list[str] = []
    entries = (Entry("DDIM", partial(step_by_step, "ddim", name="DDIM")), Entry("x", partial(in_parallel, "ddim", name="x")))
    short = Benchmark(TASK, 1e-2, False, most=8)
    assert list(compare(short, (1,), methods=entries, latency=1e-5, bandwidth=1e9, log=heard.append)) == []
    assert heard == ["DDIM: not reached with 8 steps", "x: not reached with 8 steps"]


def test_a_method_whose_iterates_overflow_is_left_out_and_the_others_go_on() -> None:
    """Plain increments may overflow in sweeps where the chain step by step does not."""

    def score(x: torch.Tensor, t: Any) -> Any:
        found = TASK.score(x, t)
        return found if len(x) <= TASK.samples else found / 0

    heard: list[str] = []
    entries = (
        Entry("sweeps", partial(in_parallel, "ddpm", name="sweeps"), random=True),
        Entry("DDPM", partial(step_by_step, "ddpm", name="DDPM"), random=True),
    )
    benchmark = Benchmark(replace(TASK, score=score), 1e-2, sde=True, steps=12)
    rows = list(compare(benchmark, (), methods=entries, latency=1e-5, bandwidth=1e9, log=heard.append))
    assert [row.method for row in rows] == ["DDPM"] and heard[0].startswith("sweeps: not reached")


def test_projected_time_is_rounds_times_a_call_and_its_messages() -> None:
    TASK.memory.update({("call", 1): 1.0, ("call", 4): 3.0})
    row = Row("x", "ddim", 16, "tol", rounds=5, most_rounds=5, fewest=4, calls=80, error=0.0, seconds=0.0)
    alone = Row("x", "ddim", 16, "-", rounds=16, most_rounds=16, fewest=16, calls=16, error=0.0, seconds=0.0)
    size = 16 * 8
    assert projected(TASK, row, 16, latency=0.1, bandwidth=1e3) == pytest.approx(5 * (1.0 + 4 * (0.1 + size / 1e3)))
    assert projected(TASK, row, 4, latency=0.1, bandwidth=1e3) == pytest.approx(5 * (3.0 + 2 * (0.1 + size / 1e3)))
    assert projected(TASK, alone, 16, latency=0.1, bandwidth=1e3) == pytest.approx(16.0)  # one at a time: nobody to tell


@pytest.mark.parametrize("kind", ["--ode", "--sde"])
def test_the_command_compares_every_method_at_equal_error(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    report = call("compare", "target-c:16", kind, "--samples", 2, "--steps", 24, "--accelerators", "1,4", "--out", out)
    assert report["code"] == 0, report
    record = json.loads((out / "compare.json").read_text())
    rows = {row["method"]: row for row in record["rows"]}
    expected = {entry.name for entry in baselines.METHODS if (entry.flow if kind == "--ode" else entry.random)}
    assert set(rows) == expected
    assert all(row["error"] <= 1e-2 for row in rows.values())
    assert record["reference_error"] < 1e-2 / 3
    others = ("ParaDiGMS", "ParaTAA", "SRDS, pipelined", "PIADM as published")
    assert rows["piadm_hpc"]["rounds"] < min(rows[name]["rounds"] for name in others)
    assert all(row["fewest"] <= row["most_rounds"] for name, row in rows.items() if name.startswith("piadm_hpc"))
    lines = list(csv.reader((out / "compare.csv").open()))
    assert len(lines) == len(rows) + 1 and lines[0][-1] == "projected_seconds_4"
    assert (out / "compare.svg").stat().st_size > 10_000
    assert "piadm_hpc" in report["out"]
    drawn = (out / "compare.svg").read_text()
    for words in ("piadm_hpc, parallel", "other parallel methods", "step by step", "calls of the network", "4 accelerators"):
        assert f">{words}<" in drawn, words
    assert "ours" not in drawn + report["out"]


def test_the_command_takes_a_model_folder_and_some_methods(tmp_path: Path) -> None:
    options = ("--samples", 2, "--accelerators", "1", "--methods", "two-step, Solver", "--out", tmp_path / "compare")
    report = call("compare", make_model(tmp_path), *options)
    assert report["code"] == 0, report
    record = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert [row["method"] for row in record["rows"]] == ["Gaussian-aware two-step", "DPM-Solver++(2M)"]


def test_rounds_with_hindsight_are_the_smallest_depth_that_reaches_the_error() -> None:
    benchmark = Benchmark(TASK, 1e-3, sde=True, steps=24)
    row = in_parallel("gaussian", benchmark, name="x", fixed={})
    # one depth applies to all draws, whereas the samples of a run stop one by one
    assert row is not None and row.fewest is not None and row.fewest <= row.most_rounds
    chain = TASK.chain("gaussian", 24, eta=1.0)
    depths = (int(row.fewest) - 1, int(row.fewest))
    ends = [TASK.solve(chain, tol=None, sweeps=depth)[0].x for depth in depths]
    missed, reached = (rms(TASK.error(end, benchmark.truth(chain))) for end in ends)
    assert reached <= 1e-3 < missed
    unasked = in_parallel("gaussian", replace(benchmark, hindsight=False), name="x", fixed={})
    assert unasked is not None and unasked.fewest is None and unasked.rounds == row.rounds


def test_the_command_leaves_out_the_rounds_with_hindsight(tmp_path: Path) -> None:
    options = ("--sde", "--samples", 2, "--steps", 16, "--methods", "piadm_hpc", "--accelerators", "1", "--no-fewest")
    report = call("compare", "target-c:16", *options, "--out", tmp_path / "compare")
    assert report["code"] == 0, report
    record = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert {row["fewest"] for row in record["rows"]} == {None}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["target-c:x"], "number of modes after the colon"),
        (["no-such-model"], "no-such-model"),
        (["target-a:8", "--tol", "1e-9"], "only known to"),
        (
            ["target-a:8", "--samples", "0", "--most-steps", "1"],
            "--samples: must be at least 1 (given 0)\n  --most-steps: must be at least 4 (given 1)",
        ),
        (["target-a:8", "--accelerators", "many"], "give numbers from 1 to 1000000, such as"),
        (["target-a:8", "--methods", "magic"], "no method has such a name; there are piadm_hpc, "),
        (["target-a:8", "--methods", "ddim", "--most-steps", "4"], "no method reaches 0.01 with 4 steps"),
    ],
)
def test_mistakes_are_said_in_words(options: Any, words: str) -> None:
    report = call("compare", *options)
    assert report["code"] == 2 and words in report["err"], report
