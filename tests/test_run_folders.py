"""Run folders in everyday use: files vanish during a run, runs are started by hand, and numbers are mistyped."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, make_model, on_ranks, one_line, write_config
from launching import launch

import piadm_hpc
from piadm_hpc.config.templates import KINDS, template
from piadm_hpc.models.config import load_config
from piadm_hpc.run.reporting import EventLog, Progress, read_events
from piadm_hpc.store.folder import Store
from piadm_hpc.store.lock import Holder, Lock

LOOSE = {"solver": {"tol": 1e-2}}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Gaussian model, a run.toml for eight samples in shards of two, and the undisturbed run of it."""
    folder = tmp_path_factory.mktemp("folders")
    config = write_config(folder / "run.toml", make_model(folder), folder / "whole", samples=8, **LOOSE)
    assert call("sample", config)["code"] == 0
    return folder


def assert_whole(out: Path, whole: Path) -> None:
    assert call("check", out, "--deep")["code"] == 0
    with piadm_hpc.open(out) as found, piadm_hpc.open(whole) as expected:
        np.testing.assert_allclose(found["tas"].values, expected["tas"].values, rtol=1e-6)


def losing(monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Remove the first shard a given number of times, always just after the third was written."""
    honest, left = Store.write, [times]

    def write(store: Store, ids: Any, *arguments: Any, **options: Any) -> Path:
        path = honest(store, ids, *arguments, **options)
        first = store.folder / "shards/samples_00000000_00000002.h5"
        if left[0] and first.exists() and len(list(first.parent.glob("samples_*.h5"))) > 2:
            left[0] -= 1
            first.unlink()
        return path

    monkeypatch.setattr(Store, "write", write)


def test_a_shard_lost_while_the_run_goes_on_is_drawn_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = work / "lost"
    losing(monkeypatch, times=2)
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0
    assert_whole(out, work / "whole")


def test_a_folder_that_loses_files_again_and_again_is_an_error(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losing(monkeypatch, times=99)
    text = one_line(call("sample", work / "run.toml", "--out", work / "leaking"), 1)
    assert text.startswith(f"2 of 8 samples are not in {work}/leaking although they were drawn 3 times; something deletes")


def test_a_shard_lost_while_two_groups_work(work: Path) -> None:
    """Each group draws a share of the lost samples without waiting for the other."""
    out = work / "lost-by-groups"
    arguments = ["sample", str(work / "run.toml"), "--out", str(out), "--time-ranks", "1"]
    remove = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import helpers
from piadm_hpc.run import execute
honest = execute.draw_batches
def draw_batches(run, missing, drawn, **options):
    honest(run, missing, drawn, **options)
    run.ranks.world.barrier()
    if run.ranks.root and len(missing) == 4:
        (run.store.folder / "shards/samples_00000002_00000004.h5").unlink()
    run.ranks.world.barrier()
execute.draw_batches = draw_batches
helpers._main(Path(sys.argv[1]))
"""
    (work / "script-groups").mkdir()
    script = work / "script-groups/script.json"
    script.write_text(json.dumps([{"args": arguments}]))
    done = launch([sys.executable, "-c", remove, str(script)], ranks=2, timeout=90)
    assert done.returncode == 0, done.stderr
    reports = [json.loads((script.parent / f"report-{rank}.jsonl").read_text()) for rank in range(2)]
    assert [report["code"] for report in reports] == [0, 0], reports
    assert_whole(out, work / "whole")


@pytest.mark.parametrize("harm", ["seed", "tol", "model"])
def test_a_shard_of_another_run_is_refused_with_a_reason(work: Path, harm: str) -> None:
    mine, other = work / f"mine-{harm}", work / f"other-{harm}"
    changes = {"seed": ["--seed", 1], "tol": ["--tol", 0.5], "model": []}[harm]
    if harm == "model":
        (work / "elsewhere").mkdir()
        changes = ["--model", make_model(work / "elsewhere", reference={"rank": 3})]
    assert call("sample", work / "run.toml", "--out", mine)["code"] == 0
    assert call("sample", work / "run.toml", "--out", other, *changes)["code"] == 0
    name = "samples_00000002_00000004.h5"
    (mine / "shards" / name).write_bytes((other / "shards" / name).read_bytes())
    for command in (["sample", work / "run.toml", "--out", mine], ["join", mine]):
        report = call(*command)
        assert report["code"] == 1 and f"{harm}" in report["err"] and "Traceback" not in report["err"], report
    report = call("check", mine)
    assert report["code"] == 1 and name in report["out"]
    (mine / "shards" / name).unlink()
    assert call("sample", work / "run.toml", "--out", mine)["code"] == 0
    assert_whole(mine, work / "whole")


def test_join_and_check_compare_with_what_was_asked_for(work: Path) -> None:
    out = work / "part"
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0
    (out / "shards/samples_00000004_00000006.h5").unlink()
    joined = call("join", out)
    assert joined["code"] == 75 and "2 of 8 samples asked for are missing (4-5): run the same" in joined["err"]
    checked = call("check", out)
    assert checked["code"] == 1 and "2 of the 8 samples asked for are missing (4-5)" in checked["out"]
    assert call("status", out)["code"] == 1
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0 and call("join", out)["code"] == 0
    assert_whole(out, work / "whole")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"samples": [[0, 99999999999]]}', '{"samples": [[3, 1]]}', "\x00\xff", "[" * 9000]
)
def test_a_note_of_what_was_asked_for_that_cannot_be_read_is_not_needed(work: Path, content: str) -> None:
    """The samples are then those of run.toml, as in folders of earlier versions."""
    out = work / "noted"
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0
    (out / "requested.json").write_text(content)
    assert call("check", out)["code"] == 0
    (out / "shards/samples_00000004_00000006.h5").unlink()
    call("join", out)
    assert "2 of the 8 samples asked for are missing" in call("check", out)["out"]


def test_status_knows_runs_that_were_started_by_hand(work: Path) -> None:
    out = work / "by-hand"
    assert call("sample", work / "run.toml", "--out", out, "--samples", 2)["code"] == 0
    (out / "samples.h5").unlink()
    lock = Lock.take(out, stale_hours=2)
    running = call("status", out)
    assert running["code"] == 75 and f"at work: process {os.getpid()} on {socket.gethostname()}" in running["out"]
    (out / ".lock").write_text(lock.text.replace(str(os.getpid()), "999999999"))  # the process has ended
    over = call("status", out)
    assert over["code"] == 1 and "at work" not in over["out"] and "no job or process is left" in over["out"]
    elsewhere = {**Holder.here().__dict__, "host": "node7", "job": ""}
    (out / ".lock").write_text(json.dumps(elsewhere))
    assert "on node7" in call("status", out)["out"]
    os.utime(out / ".lock", (time.time() - 9000, time.time() - 9000))
    assert "on node7" not in call("status", out)["out"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x"}', "[" * 9000, '{"pid": -1, "host": []}', "\udcff"])
def test_a_lock_that_nobody_can_read_is_an_unknown_process(work: Path, text: str) -> None:
    out = work / "whole"
    (out / ".lock").write_text(text, errors="surrogateescape")
    try:
        assert "at work: an unknown process" in call("status", out)["out"]
        assert "an unknown process" in one_line(call("join", out), 1)
    finally:
        (out / ".lock").unlink()


def test_files_beside_a_run_that_hold_anything(work: Path) -> None:
    out = work / "odd"
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0
    (out / "jobs").mkdir()
    odd = ["{", "[]", "3", '{"folder": 3}', '{"folder": "/x", "cluster": "slurm", "jobs": []}', "\x00"]
    (out / "jobs/submissions.jsonl").write_text("\n".join([*odd, json.dumps({"folder": "/", "cluster": "local", "jobs": {}})]))
    with open(out / "events.jsonl", "a") as file:
        file.write('{"event": 3}\n{"event": "progress", "time": "then", "left": "soon"}\n{"event": "started"}\n"x"\n')
    assert call("status", out)["code"] == 0
    assert call("sample", work / "run.toml", "--out", out)["code"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples", 10**9], "samples: must be at most"),
        (["--samples", 10**30], "samples: must be at most"),
        (["--only", "0-999999999999"], "ids go up to 2147483647, and a run has at most 10000000 samples"),
        (["--only", "2147483648"], "ids go up to 2147483647"),
        (["--set", "solver.window=1e30"], "solver.window: must be a whole number"),
        (["--set", f"solver.window={10**30}"], "solver.window: must be at most"),
        (["--set", "solver.sweeps=1e18"], "solver.sweeps: must be at most"),
        (["--set", "grid.steps=10000000000"], "grid.steps: must be at most 1000000 or 'auto'"),
        (["--set", "grid.step=1e-300"], "grid.step: must be at least 1e-05"),
        (["--set", "compute.threads=1000000"], "compute.threads: must be at most 4096 or 'auto'"),
        (["--set", "compute.in_flight=1e12"], "compute.in_flight: must be at most"),
        (["--time-ranks", 10**12], "compute.time_ranks: must be at most 1000000 or 'auto'"),
        (["--seed", 10**40], "seed: must be less than"),
        (
            ["--set", f"rollout.leads={10**7}", "--set", f"samples={10**7}", "--condition", "x.nc"],
            "10000000 lead(s) are 10000000000",
        ),
        (["--set", "rollout.leads=4", "--only", "2147483646", "--condition", "x.nc"], "with ids up to 2147483647"),
    ],
)
def test_numbers_beyond_reason_are_refused(work: Path, arguments: list[object], words: str) -> None:
    assert words in one_line(call("sample", work / "run.toml", "--out", work / "beyond", *arguments), 2)
    assert not (work / "beyond").exists()


@pytest.mark.parametrize("number", ["0", "4,2", "-3", "many", "1e3", "99999999", "²"])
def test_a_number_of_threads_that_is_none(work: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", number)
    text = one_line(call("sample", work / "run.toml", "--out", work / "threads"), 2)
    assert text == f"OMP_NUM_THREADS={number}: give one whole number of threads from 1 to 4096, or set compute.threads"
    assert call("sample", work / "run.toml", "--set", "compute.threads=1")["code"] == 0


def test_progress_counts_the_samples_of_all_groups(tmp_path: Path) -> None:
    others = iter([3, 5])
    events = EventLog(tmp_path, speaks=True)
    with Progress(8, unit="samples", interval=0, enabled=True, events=events, elsewhere=lambda: next(others)) as progress:
        progress.show(0.5, "batch 1/2")
        progress.show(2.0, "batch 2/2")
    assert [(event["done"], event["total"]) for event in read_events(tmp_path)] == [(3.5, 8), (7.0, 8)]


def test_two_groups_report_one_progress(work: Path) -> None:
    out = work / "groups"
    arguments = ["sample", work / "run.toml", "--out", out, "--time-ranks", 1, "--set", "output.log_interval=1e-6"]
    done, reports = on_ranks(2, work / "script-progress", [{"args": [*arguments, "--set", "output.batch=1"]}])
    assert done.returncode == 0 and reports[0][0]["code"] == 0
    lines = [event for event in read_events(out) if event["event"] == "progress"]
    assert lines and {event["total"] for event in lines} == {8}
    assert max(event["done"] for event in lines) > 4 and all(event["done"] <= 8 for event in lines)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_check_reads_every_template(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "fresh.toml"
    path.write_text(template(kind))
    report = call("check", path)
    assert report["code"] == 0 and f"{path}: a valid configuration" in report["out"]
    assert ("of a training" in report["out"]) == kind.startswith("train")
    path.write_text(template(kind).replace("seed = 0", "sede = 0"))
    assert "sede: unknown key" in one_line(call("check", path), 2)


def test_the_gaussian_alone_is_one_line_of_the_template(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(template("train").replace('# network = "none" ', 'network = "none" '))
    assert load_config(path).network == "none"
    path.write_text(template("train").replace("# [network]", "[network]").replace("# width = 32", "width = 32"))
    assert load_config(path) == load_config(_written(tmp_path / "fresh.toml", template("train")))


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
