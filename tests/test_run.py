"""A run gives the same members on every rank grid, whatever else is drawn, and after every requested interruption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers import RUN, STEPS, add_network, call, make_model, on_ranks, one_line, write_config
from test_conditional_models import make, write_world

import piadm_hpc
from piadm_hpc.host.stop import STOP_FILE, StopReason

NUM_SAMPLES = 20


@dataclass(frozen=True)
class Work:
    """A folder with two models, a run.toml, and the finished serial run that others are compared with."""

    folder: Path
    config: Path
    serial: xr.Dataset

    def members(self, out: str) -> xr.Dataset:
        with piadm_hpc.open(self.folder / out) as dataset:
            return dataset.load()

    def assert_same(self, out: str, ids: list[int]) -> None:
        """Check that members equal the serial ones to an ulp of the 280 K at which they are stored, far below their spread."""
        found = self.members(out)
        assert found["realization"].values.tolist() == ids
        expected = self.serial.sel(realization=ids)
        difference = np.abs(found["tas"].values - expected["tas"].values).max()
        assert difference <= 1e-4 * float(self.serial["tas"].std("realization").mean()), difference
        for name in ("converged", "status", "seed"):
            np.testing.assert_array_equal(found[name].values, expected[name].values)

    def given(self, command: str, out: str, *arguments: object) -> list[object]:
        """Draw two members for each of two conditions, or for the forecasts of three leads that begin there."""
        start = ["--condition"] if command == "sample" else ["--leads", 3, "--init"]
        common = ["--samples", 2, "--tol", 1e-4, "--set", "output.batch=2", "--out", self.folder / out]
        return [command, "--model", self.folder / "months", *start, self.folder / "starts.nc", *common, *arguments]

    def sample(self, *arguments: object, **more: Any) -> dict[str, Any]:
        return {"args": ["sample", self.config, *arguments], **more}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("run")
    model = add_network(make_model(folder), folder / "network")
    config = write_config(folder / "run.toml", model, folder / "serial", samples=NUM_SAMPLES, output={"batch": 4})
    assert call("sample", config)["code"] == 0
    write_world(folder)
    make(folder, "months", condition={"inputs": {"tas_1": {"kind": "lag"}, "month": {"kind": "month"}}})
    with xr.open_dataset(folder / "fields.nc") as fields:
        fields.isel(time=slice(-3, None)).to_netcdf(folder / "starts.nc")
    with piadm_hpc.open(folder / "serial") as dataset:
        return Work(folder, config, dataset.load())


Reports = dict[int, list[list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def reports(work: Work) -> Reports:
    """The results of several commands on 2, 3 and 4 ranks, with one launch for each number."""
    few, stop = ["--samples", 6], work.folder / "stopped" / STOP_FILE
    depth = ["--set", "solver.fixed_depth=true", "--set", "solver.sweeps=2"]
    limited = ["--set", "solver.sweeps=1", "--tol", "1e-7"]
    touch = {"kind": "touch", "rank": 1, "call": 1, "file": str(stop)}
    commands = {
        2: [
            work.sample(*few, "--out", work.folder / "1x2", "--time-ranks", 2),
            work.sample(*few, "--out", work.folder / "2x1", "--time-ranks", 1),
            work.sample(*few, "--out", work.folder / "stopped", "--set", "output.batch=1", fault=touch),
            work.sample(*few, "--out", work.folder / "stopped", "--set", "output.batch=1"),
            work.sample("--only", "17", "--out", work.folder / "depth", *depth),
            work.sample("--only", "17", "--out", work.folder / "limited", *limited),
            work.sample("--out", work.folder / "1x2", "--time-ranks", 2, "--seed", 3),
            work.sample("--out", work.folder / "2x1", fault={"kind": "load", "rank": 1}),
            {"args": ["plan", work.config, "--time-ranks", 2]},
            {"args": ["doctor", "--folder", work.folder]},
            {"args": work.given("rollout", "rollout-2x1", "--time-ranks", 1)},
        ],
        3: [
            work.sample("--only", "3-5", "--out", work.folder / "1x3", "--time-ranks", 3),
            work.sample("--out", work.folder / "none", "--time-ranks", 2),
            work.sample("--out", work.folder / "none", "--time-ranks", 3, "--set", "grid.steps=2"),
            work.sample("--out", work.folder / "none", "--time-ranks", 3, "--set", "corrector.enabled=true",
                        "--set", "corrector.steps=4", "--set", "corrector.blocks=2"),
            work.sample("--out", work.folder / "none", "--model", "unheard-of"),
            {"args": work.given("rollout", "rollout-1x3", "--time-ranks", 3)},
        ],
        4: [
            work.sample("--only", "17,2", "--out", work.folder / "2x2"),
            work.sample("--only", "7", "--out", work.folder / "1x4"),
            {"args": work.given("sample", "sample-2x2", "--time-ranks", 2)},
        ],
    }  # fmt: skip
    found = {}
    for ranks, script in commands.items():
        done, found[ranks] = on_ranks(ranks, work.folder / f"on-{ranks}", script, timeout=120)
        assert all(len(report) == len(script) for report in found[ranks]), f"{done.returncode}: {done.stderr}"
    return found


def codes(reports: Reports, ranks: int, command: int) -> set[int]:
    return {report[command]["code"] for report in reports[ranks]}


def said_once(reports: Reports, ranks: int, command: int, code: int) -> str:
    """Return the line that only the first rank prints; every rank must end with the same code."""
    assert codes(reports, ranks, command) == {code}
    assert not any(report[command]["err"] for report in reports[ranks][1:])
    return one_line(reports[ranks][0][command], code)


@pytest.mark.parametrize(
    ("ranks", "command", "out", "ids"),
    [
        (2, 0, "1x2", list(range(6))),
        (2, 1, "2x1", list(range(6))),
        (3, 0, "1x3", [3, 4, 5]),
        (4, 0, "2x2", [2, 17]),
        (4, 1, "1x4", [7]),
    ],
)
def test_rank_grids_agree_with_the_serial_run(
    work: Work, reports: Reports, ranks: int, command: int, out: str, ids: list[int]
) -> None:
    assert codes(reports, ranks, command) == {0}
    groups, time_ranks = out.split("x")
    assert f"{groups} sample group(s) x {time_ranks} time rank(s)" in reports[ranks][0][command]["out"]
    assert not any(report[command]["out"] for report in reports[ranks][1:]), "only the first rank speaks"
    work.assert_same(out, ids)


@pytest.mark.parametrize(
    ("command", "ranks", "number", "out"),
    [("rollout", 2, 10, "rollout-2x1"), ("rollout", 3, 5, "rollout-1x3"), ("sample", 4, 2, "sample-2x2")],
)
def test_forecasts_and_conditions_agree_with_the_serial_run(
    work: Work, reports: Reports, command: str, ranks: int, number: int, out: str
) -> None:
    """Members of two starts and of two conditions do not depend on how ranks share them."""
    assert codes(reports, ranks, number) == {0}, reports[ranks][0][number]
    assert call(*work.given(command, f"{out}-alone"))["code"] == 0
    found, alone = work.members(out).tas, work.members(f"{out}-alone").tas
    assert found.sizes == alone.sizes and found.sizes["realization"] == 2
    assert float(np.abs(found.values - alone.values).max()) < 0.01 * float(alone.std())


def test_a_member_made_alone_is_the_member_of_the_large_run(work: Work) -> None:
    assert call("sample", work.config, "--only", "17", "--out", work.folder / "alone")["code"] == 0
    work.assert_same("alone", [17])


def test_members_differ_and_follow_the_seed(work: Work) -> None:
    fields = work.serial["tas"].values.reshape(NUM_SAMPLES, -1)
    distances = np.linalg.norm(fields[:, None] - fields[None], axis=-1)
    typical = float(np.median(distances))
    assert (distances[~np.eye(NUM_SAMPLES, dtype=bool)] > 0.1 * typical).all()
    assert call("sample", work.config, "--only", "0", "--seed", 1, "--out", work.folder / "seed")["code"] == 0
    other = work.members("seed")
    assert other["seed"].values.tolist() == [1]
    assert np.linalg.norm(other["tas"].values.ravel() - fields[0]) > 0.1 * typical


def test_a_stop_file_ends_every_group_and_the_next_run_goes_on(work: Work, reports: Reports) -> None:
    text = said_once(reports, 2, 2, 75)
    found = f"{work.folder}/stopped/{STOP_FILE} was found"
    assert text == f"{found}: finished samples are kept, the same command continues from there"
    assert codes(reports, 2, 3) == {0} and not (work.folder / "stopped" / STOP_FILE).exists()
    left = int(reports[2][0][3]["out"].split(" of 6 samples to make")[0].split()[-1])
    assert 0 < left < 6, "the batch that was being solved is stored before the run stops"
    work.assert_same("stopped", list(range(6)))


def test_a_stop_file_between_blocks_loses_no_block(work: Work) -> None:
    """The batch continues from the end of the block, with the costs of earlier blocks, and its samples do not change."""
    out, changes = work.folder / "blocks", ["--only", "0-3", "--set", "grid.blocks=3", "--set", "output.batch=4"]
    arguments = ["sample", work.config, *changes, "--out", out]
    fault = {"kind": "touch", "call": 1, "file": str(out / STOP_FILE)}
    one_line(call(*arguments, fault=fault), 75)
    assert not list((out / "shards").glob("*.h5")) and len(list((out / "unfinished").glob("*.h5"))) == 1
    one_line(call(*arguments, fault=fault), 75)
    again = call(*arguments)
    assert again["code"] == 0 and "4 of 4 samples to make" in again["out"]
    assert not (out / "unfinished").exists()
    assert call("sample", work.config, *changes, "--out", work.folder / "at-once")["code"] == 0
    stopped, whole = work.members("blocks"), work.members("at-once")
    for name in ("tas", "sweeps", "residual", "status", "model_calls", "rounds"):
        np.testing.assert_array_equal(stopped[name].values, whole[name].values)


@pytest.mark.parametrize(("change", "after"), [("chain.eta=0", 40), ("solver.window=4", 12), ("solver.kind=sequential", 7)])
def test_a_stop_within_a_batch_keeps_what_is_done(work: Work, monkeypatch: pytest.MonkeyPatch, change: str, after: int) -> None:
    """Without blocks a stop does not wait for the end of a batch, and only the samples in flight are drawn again."""
    monkeypatch.setattr("piadm_hpc.run.batches.PATIENCE", dict.fromkeys(StopReason, 0.0))
    out, one_by_one = work.folder / change, "sequential" not in change
    in_flight = ["--set", "compute.in_flight=1"] if one_by_one else []
    arguments = ["sample", work.config, "--only", "0-3", "--set", "output.batch=4", "--set", change, *in_flight, "--out", out]
    one_line(call(*arguments, fault={"kind": "touch", "call": after, "file": str(out / STOP_FILE)}), 75)
    again = call(*arguments)
    left = int(again["out"].split(" of 4 samples to make")[0].split()[-1])
    assert again["code"] == 0 and (0 < left < 4 if one_by_one else left == 4)
    assert call(*arguments[:-1], work.folder / f"{change}-whole")["code"] == 0
    found, expected = (work.members(name)["tas"].values for name in (change, f"{change}-whole"))
    np.testing.assert_allclose(found, expected, rtol=3e-7)  # a batch of other samples has other rounding errors


def test_a_stop_within_a_block_that_takes_long_loses_that_block_alone(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    out, changes = work.folder / "long-block", ["--only", "0-1", "--set", "grid.blocks=3", "--tol", "1e-6"]
    arguments = ["sample", work.config, *changes, "--out", out]
    monkeypatch.setattr("piadm_hpc.run.batches.PATIENCE", dict.fromkeys(StopReason, 0.0))
    whole = call(*arguments[:-1], work.folder / "no-long-block")
    first = int(work.members("no-long-block")["sweeps"].values[:, 0].max())
    assert whole["code"] == 0
    one_line(call(*arguments, fault={"kind": "touch", "call": first + 1, "file": str(out / STOP_FILE)}), 75)
    assert len(list((out / "unfinished").glob("*.h5"))) == 1
    assert call(*arguments)["code"] == 0
    for name in ("tas", "sweeps", "model_calls", "rounds"):
        np.testing.assert_array_equal(work.members("long-block")[name].values, work.members("no-long-block")[name].values)


def test_what_was_left_by_another_configuration_is_not_continued(work: Work) -> None:
    out = work.folder / "other-left"
    arguments = ["sample", work.config, "--only", "0-1", "--out", out, "--set", "grid.blocks=3"]
    one_line(call(*arguments, fault={"kind": "touch", "call": 1, "file": str(out / STOP_FILE)}), 75)
    assert call(*arguments, "--seed", 5)["code"] == 0
    other = work.members("other-left")["tas"].values
    assert call(*arguments, "--seed", 5, "--out", work.folder / "other-whole")["code"] == 0
    np.testing.assert_array_equal(other, work.members("other-whole")["tas"].values)


def test_a_fixed_depth_is_done_and_a_limit_is_not_converged(work: Work, reports: Reports) -> None:
    assert codes(reports, 2, 4) == {0} and codes(reports, 2, 5) == {3}
    depth, limited = work.members("depth"), work.members("limited")
    assert depth["sweeps"].values.tolist() == [[2]] and depth["converged"].values.all() and depth["status"].values.all()
    meaning = depth["status"].attrs["flag_meanings"].split()
    assert meaning[int(depth["status"].values[0, 0])] == "fixed_depth"
    assert meaning[int(limited["status"].values[0, 0])] == "finished_sequentially"
    assert limited["converged"].values.tolist() == [0] and limited["sequential_steps"].values.tolist() == [[STEPS - 1]]
    assert "1 samples did not meet the tolerance by themselves; they are marked converged = 0" in reports[2][0][5]["out"]
    sequential = ["--set", "solver.kind=sequential", "--tol", "1e-7", "--only", "17", "--out", work.folder / "sequential"]
    assert call("sample", work.config, *sequential)["code"] == 0
    np.testing.assert_allclose(limited["tas"].values, work.members("sequential")["tas"].values, rtol=1e-6)


def test_mistakes_on_several_ranks_are_reported_once_before_any_work(work: Work, reports: Reports) -> None:
    changed = reports[2][0][6]
    assert codes(reports, 2, 6) == {1} and not reports[2][1][6]["err"]
    assert "  seed: 0 there, 3 here" in changed["err"].splitlines()
    assert said_once(reports, 2, 7, 2) == "weights.safetensors: no such file on this host"
    assert said_once(reports, 3, 1, 2) == "--time-ranks 2 does not divide 3 ranks; possible are [1, 3]"
    assert said_once(reports, 3, 2, 2) == (
        "3 time ranks cannot share the 2 step(s) of the grid's shortest block; give --time-ranks 2 or less, "
        "fewer blocks or more steps"
    )
    assert said_once(reports, 3, 3, 2).startswith("3 time ranks cannot share the 2 step(s) of the corrector's shortest block; ")
    assert said_once(reports, 3, 4, 2).startswith("unheard-of: no such model folder; ")
    assert not (work.folder / "none").exists()


def test_plan_and_doctor_speak_once_on_two_ranks(reports: Reports) -> None:
    for command, words in ((8, "20 samples on 2 ranks: 1 sample groups x 2 time ranks"), (9, "2 ranks (")):
        assert codes(reports, 2, command) == {0}, reports
        assert words in reports[2][0][command]["out"] and not reports[2][1][command]["out"]


def test_the_same_words_in_python(work: Work) -> None:
    config = piadm_hpc.RunConfig(model=str(work.folder / "gaussian"), out=str(work.folder / "python"), **RUN)
    with piadm_hpc.sample(config.replace(samples=2)) as dataset:
        assert dataset["tas"].shape == (2, 8, 16) and dataset.attrs["seed"] == 0
    with piadm_hpc.sample(config.replace(samples=3)) as dataset:
        assert dataset["realization"].values.tolist() == [0, 1, 2]
        kept = dataset["tas"].values
    with pytest.raises(RuntimeError, match="seed: 0 there, 1 here"):
        piadm_hpc.sample(config.replace(samples=3, seed=1))
    with piadm_hpc.sample(config.replace(samples=3, seed=1), overwrite=True) as dataset:
        assert np.abs(dataset["tas"].values - kept).max() > 0.1


@pytest.mark.parametrize(
    "integrator",
    ["piadm", "gaussian", "collocation", "ddim", "ddpm", "dpmpp-2m", "heun", "lambda-ddim-ab2", "gddim-ab2", "rbaoab"],
)
def test_every_chain_runs_from_a_configuration(work: Work, integrator: str) -> None:
    out = work.folder / f"by-{integrator}"
    report = call("sample", work.config, "--only", "0", "--out", out, "--set", f"chain.integrator={integrator}", "--tol", "1e-3")
    assert report["code"] == 0, report
    values = work.members(out.name)["tas"].values
    assert np.isfinite(values).all() and 230 < values.mean() < 330
