"""Bad scores, killed ranks, full disks and damaged shards give one clear message, and no finished sample is lost."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import STEPS, add_network, call, make_model, on_ranks, one_line, piadm, write_config
from launching import launch

import piadm_hpc
from piadm_hpc.host.stop import STOP_FILE
from piadm_hpc.run.reporting import read_events
from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.folder import Store

NUM_SAMPLES = 8


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a run.toml for eight samples in shards of two, and the undisturbed run of it."""
    folder = tmp_path_factory.mktemp("faults")
    model = add_network(make_model(folder), folder / "network")
    config = write_config(folder / "run.toml", model, folder / "whole", samples=NUM_SAMPLES)
    assert call("sample", config)["code"] == 0
    return folder


def fields(out: Path) -> np.ndarray:
    with piadm_hpc.open(out) as dataset:
        assert dataset["realization"].values.tolist() == list(range(NUM_SAMPLES))
        return dataset["tas"].values


def assert_same(out: Path, other: Path) -> None:
    np.testing.assert_allclose(fields(out), fields(other), rtol=1e-6)


def shards(out: Path) -> list[Path]:
    return sorted((out / "shards").glob("*.h5"))


def harmed(work: Path, ranks: int, out: str, fault: dict[str, Any], *more: object) -> str:
    """Run the command with a fault on one of several ranks; returns its output once all ranks have ended, which is soon."""
    script = [{"args": ["sample", work / "run.toml", "--out", work / out, *more], "fault": fault, "ends": True}]
    done, _ = on_ranks(ranks, work / f"script-{out}", script, timeout=60)
    # the log is opened just before the first score
    assert done.returncode != 0 and time.time() - (work / out / "log.txt").stat().st_mtime < 30
    assert "Traceback" not in done.stderr, done.stderr
    said = [line.removeprefix("piadm: ") for line in done.stderr.splitlines() if line.startswith("piadm: ")]
    assert len(said) == 1, done.stderr
    return said[0]


@pytest.mark.parametrize("kind", ["nan", "raise"])
def test_a_failing_score_of_a_serial_run(work: Path, kind: str) -> None:
    arguments = ["sample", work / "run.toml", "--out", work / f"serial-{kind}"]
    text = one_line(call(*arguments, fault={"kind": kind, "call": 20}), 1)
    if kind == "nan":
        assert text.startswith("the score is not finite for sample ") and " at time t = " in text and text.endswith(" on rank 0")
    else:
        assert text == "the score failed on rank 0: ZeroDivisionError: division by zero in the network"
    kept = len(shards(work / f"serial-{kind}"))
    assert kept > 0
    again = call(*arguments)
    assert again["code"] == 0 and f"{NUM_SAMPLES - 2 * kept} of {NUM_SAMPLES} samples to make" in again["out"]
    assert_same(work / f"serial-{kind}", work / "whole")


def test_a_score_that_is_not_finite_on_one_of_two_ranks_ends_both(work: Path) -> None:
    text = harmed(work, 2, "nan-2", {"kind": "nan", "rank": 1, "call": 3}, "--time-ranks", 2)
    sample, rest = text.removeprefix("the score is not finite for sample ").split(" at time t = ")
    level, rank = rest.split(" on rank ")
    assert int(sample) in (0, 1) and 0 < float(level) < 10 and rank == "1"


def test_an_exception_on_one_of_three_ranks_ends_all(work: Path) -> None:
    text = harmed(work, 3, "raise-3", {"kind": "raise", "rank": 2, "call": 2}, "--time-ranks", 3)
    assert text == "the score failed on rank 2: ZeroDivisionError: division by zero in the network"


def test_a_failing_group_ends_the_groups_that_are_well(work: Path) -> None:
    text = harmed(work, 2, "nan-group", {"kind": "nan", "rank": 1, "call": 1}, "--time-ranks", 1)
    assert text.startswith("the score is not finite for sample ") and text.endswith("on rank 1")


@pytest.mark.parametrize("time_ranks", [2, 1], ids=["of one group", "of another group"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [("exit", "SystemExit the licence server does not answer"), ("interrupt", "KeyboardInterrupt")],
)
def test_a_rank_that_exits_ends_the_others(work: Path, kind: str, words: str, time_ranks: int) -> None:
    """These exceptions are not caught as errors, but the other ranks would wait for ever."""
    fault = {"kind": kind, "rank": 1, "call": 3}
    assert harmed(work, 2, f"{kind}-{time_ranks}", fault, "--time-ranks", time_ranks) == f"rank 1 ended with {words}"
    (event,) = (event for event in read_events(work / f"{kind}-{time_ranks}") if event["event"] == "failed")
    assert event["message"] == f"rank 1 ended with {words}"


def test_a_rank_that_exits_while_it_loads_ends_the_others(work: Path) -> None:
    """This happens before the run has a folder."""
    script = [
        {"args": ["sample", work / "run.toml", "--out", work / "none"], "fault": {"kind": "exit-load", "rank": 1}, "ends": True}
    ]
    begun = time.monotonic()
    done, _ = on_ranks(2, work / "script-exit-load", script, timeout=60)
    assert done.returncode != 0 and time.monotonic() - begun < 40
    assert "piadm: rank 1 ended with SystemExit the licence server does not answer" in done.stderr
    assert "Traceback" not in done.stderr and not (work / "none").exists()


def test_a_killed_rank_loses_nothing_that_was_finished(work: Path) -> None:
    out = work / "killed"
    arguments = ["sample", work / "run.toml", "--out", out, "--time-ranks", 2]
    script = [
        {"args": [*arguments, "--out", work / "undisturbed"]},
        {"args": arguments, "fault": {"kind": "kill", "rank": 1, "call": 20}, "ends": True},
    ]
    done, reports = on_ranks(2, work / "script-killed", script, timeout=90)
    assert done.returncode != 0 and [report[0]["code"] for report in reports] == [0, 0]
    finished = {path.name: path.read_bytes() for path in shards(out)}
    assert 0 < len(finished) < NUM_SAMPLES // 2
    with pytest.raises(StoreError, match="piadm join"):
        piadm_hpc.open(out)
    again = piadm(arguments, ranks=2)
    assert again.returncode == 0 and f"{NUM_SAMPLES - 2 * len(finished)} of {NUM_SAMPLES} samples to make" in again.stdout
    assert {name: (out / "shards" / name).read_bytes() for name in finished} == finished
    assert_same(out, work / "undisturbed")
    assert_same(out, work / "whole")


@pytest.mark.parametrize("harm", ["truncated", "deleted", "garbled"])
def test_a_harmed_shard_is_noticed_and_drawn_again(work: Path, harm: str) -> None:
    out = work / harm
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0
    victim = shards(out)[1]
    if harm == "deleted":
        victim.unlink()
    else:
        content = victim.read_bytes()
        victim.write_bytes(content[: len(content) // 2] if harm == "truncated" else b"\x00" * len(content))
    report = call("check", out)
    named = f"shards/{victim.name}" if harm != "garbled" else str(victim)
    assert report["code"] == 1 and named in report["out"] and "run the same `piadm sample` again" in report["out"]
    with pytest.raises(StoreError, match=victim.name):
        piadm_hpc.open(out)
    again = call("sample", work / "run.toml", "--out", out)
    assert again["code"] == 0 and f"2 of {NUM_SAMPLES} samples to make" in again["out"]
    assert call("check", out, "--deep")["code"] == 0
    assert_same(out, work / "whole")


def test_a_folder_in_use_is_refused_and_left_alone(work: Path) -> None:
    out = work / "used"
    assert call("sample", work / "run.toml", "--out", out, "--samples", 2)["code"] == 0
    with Store.existing(out):
        for command in (["sample", work / "run.toml", "--out", out], ["join", out]):
            text = one_line(call(*command), 1)
            assert text.startswith(f"{out} is being written by process ") and "wait for it or choose another folder" in text
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0


def test_a_disk_that_fills_up_is_one_message_and_the_rest_is_drawn_later(work: Path) -> None:
    out, report = work / "full", work / "full.json"
    arguments = ["sample", str(work / "run.toml"), "--out", str(out)]
    # a limit on the size of files acts like a full disk and needs no administrator
    limit = shards(work / "whole")[0].stat().st_size - 2000
    limited = f"""
import json, resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from helpers import call
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
report = call(*sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
open({str(report)!r}, "w").write(json.dumps(report))
"""
    assert call(*arguments, "--samples", 4, "--set", "output.batch=1")["code"] == 0
    done = launch([sys.executable, "-c", limited, *arguments], ranks=None, timeout=90)
    assert done.returncode == 0, done.stderr
    text = one_line(json.loads(report.read_text()), 1)
    assert text.startswith("no room for samples_00000004_00000006.h5 in ") and "every finished shard is kept" in text
    assert len(shards(out)) == 4 and not list(out.rglob("*.partial"))
    again = call(*arguments)
    assert again["code"] == 0 and f"4 of {NUM_SAMPLES} samples to make" in again["out"]
    assert_same(out, work / "whole")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_log_that_cannot_be_written_is_reported(work: Path) -> None:
    out = work / "log"
    (out / "log.txt").mkdir(parents=True)
    text = one_line(call("sample", work / "run.toml", "--out", out), 1)
    assert "log.txt" in text and "Is a directory" in text


def test_a_run_that_is_interrupted_by_hand_says_how_to_go_on(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("piadm_hpc.run.execute.resolve", interrupted)
    text = one_line(call("sample", work / "run.toml", "--out", work / "by-hand"), 75)
    assert text == "interrupted; finished shards are kept, the same command continues from there"


def test_a_stop_file_of_an_earlier_run_does_not_stay(work: Path) -> None:
    out = work / "left"
    assert call("sample", work / "run.toml", "--out", out, "--samples", 2)["code"] == 0
    (out / STOP_FILE).touch()
    assert call("sample", work / "run.toml", "--out", out, "--samples", 2)["code"] == 0
    assert not (out / STOP_FILE).exists()


def test_a_request_is_obeyed_from_the_moment_the_run_has_a_log(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that is requested as soon as the log exists must not be taken for a request to an earlier run."""
    out = work / "asked-at-once"

    def begin(**options: object) -> None:
        (out / STOP_FILE).write_text("LIMIT")

    monkeypatch.setattr("piadm_hpc.run.execute.set_up_logging", begin)
    one_line(call("sample", work / "run.toml", "--out", out), 75)
    monkeypatch.undo()
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0
    assert_same(out, work / "whole")


def test_the_message_of_a_failed_score_names_a_time_of_the_grid(work: Path) -> None:
    text = one_line(call("sample", work / "run.toml", "--out", work / "time", fault={"kind": "nan", "call": 1}), 1)
    level = float(text.split(" at time t = ")[1].split()[0])
    config = piadm_hpc.RunConfig(model=str(work / "network"), grid={"steps": STEPS})
    from piadm_hpc.run.resolve import resolve

    times = resolve(config, piadm_hpc.load_model(config.model)).grid.t
    assert float((times - level).abs().min()) < 1e-4 * level
