"""Jobs without Slurm: requests, batch scripts, the output of launchers and squeue, and jobs on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from helpers import add_network, call, make_model, one_line, write_config
from launching import launch

import piadm_hpc
from piadm_hpc.config.run import RunConfig
from piadm_hpc.config.validation import ConfigError, read
from piadm_hpc.host.launcher import clear_leftovers, nesting_problem, start_up_problem
from piadm_hpc.host.slurm import GONE, job_states, seconds, start_up_list
from piadm_hpc.models.card import load_model
from piadm_hpc.models.config import load_config
from piadm_hpc.run.reporting import EventLog, Progress, read_events, set_up_logging
from piadm_hpc.submit import JobRequest, batch_script, read_status
from piadm_hpc.submit.payload import Job
from piadm_hpc.submit.work import RECORDS

JOBS = Path(__file__).parents[1] / "jobs"
MPICH_WHEEL = "MPICH Version: 5.0.2 with ABI 1.0, pypi.org/p/mpich"
OPEN_MPI = "Open MPI v5.0.8, package: Open MPI builder"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    model = add_network(make_model(folder), folder / "network")
    write_config(folder / "run.toml", model, folder / "whole", samples=4, output={"batch": 1})
    assert call("sample", folder / "run.toml")["code"] == 0
    return folder


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put commands with these names on the PATH, each a few lines of shell."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name, text in scripts.items():
        (place / name).write_text(f"#!/bin/bash\n{text}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")


def assert_equal(out: Path, whole: Path) -> None:
    with piadm_hpc.open(out) as found, piadm_hpc.open(whole) as expected:
        assert float(abs(found["tas"] - expected["tas"]).max()) < 1e-3


def test_what_a_job_asks_for() -> None:
    request = JobRequest(nodes=2, gpus_per_node=4, hours=1.5, cpus_per_rank=8, mpi="pmix")
    assert (request.tasks_per_node, request.ranks, request.minutes, request.queues_again) == (4, 8, 90, True)
    assert request.srun_arguments() == ["--mpi=pmix", "--cpus-per-task=8", "--kill-on-bad-exit=1"]
    assert request.environment["OMP_NUM_THREADS"] == "8" and request.environment["HDF5_USE_FILE_LOCKING"] == "FALSE"
    assert not JobRequest(chain=3).queues_again and JobRequest(hours=1 / 60, grace=20).minutes == 1


def test_a_job_is_read_without_torch(work: Path) -> None:
    """Signal handlers are installed as soon as the job has been read."""
    job = Job.of(read(RunConfig, work / "run.toml"), ranks=4)
    assert RunConfig.model_validate_json(job.config) == read(RunConfig, work / "run.toml")
    for recipe in sorted((JOBS.parent / "datasets").glob("*.toml")):
        config = load_config(recipe)
        assert RECORDS[type(config).__name__].model_validate_json(Job.of(config).config) == config
    reading = f"import pickle, sys; pickle.loads({pickle.dumps(job)!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", reading], capture_output=True, text=True, timeout=60).stdout == "False\n"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"hours": 1 / 60, "grace": 60}, "grace: 60 s is not shorter than the time limit of 60 s"),
        ({"gpus_per_node": 4, "ranks_per_node": 6}, "6 ranks cannot share 4 GPUs evenly"),
        ({"options": {"--time": "1:00"}}, "time: piadm sets these itself"),
        ({"nods": 2}, "nodes"),
    ],
)
def test_what_a_job_may_not_ask_for(numbers: dict[str, Any], words: str) -> None:
    from piadm_hpc.config.validation import build

    with pytest.raises(ConfigError, match=words):
        build(JobRequest, numbers, "the job")


def test_the_kind_of_start_up_is_what_the_mpi_library_and_the_site_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "echo 'srun: MPI plugin types are...'; echo 'srun: none'; echo 'srun: pmi2'; echo 'srun: cray_shasta'"
    fake(tmp_path, monkeypatch, srun=listed)
    assert start_up_list() == ["none", "pmi2", "cray_shasta"]
    monkeypatch.setattr("piadm_hpc.submit.request.library", lambda: MPICH_WHEEL)
    assert JobRequest(nodes=2).start_up() == "pmi2" and JobRequest().start_up() == "none"
    monkeypatch.setattr("piadm_hpc.submit.request.library", lambda: OPEN_MPI)
    with pytest.raises(ConfigError, match=r"needs srun --mpi=pmix .* this srun offers cray_shasta, none, pmi2; use another MPI"):
        JobRequest(nodes=2).start_up()
    with pytest.raises(ConfigError, match="'pmx' is not known to this srun; it offers"):
        JobRequest(nodes=2, mpi="pmx").start_up()


@pytest.mark.parametrize(
    ("library", "environment", "words"),
    [
        (MPICH_WHEEL, {"SLURM_STEP_NUM_TASKS": "4", "PMI_FD": "9", "SLURM_MPI_TYPE": "pmi2"}, ""),
        (OPEN_MPI, {"SLURM_STEP_NUM_TASKS": "4", "PMIX_NAMESPACE": "n", "SLURM_MPI_TYPE": "pmix"}, ""),
        (MPICH_WHEEL, {"SLURM_STEP_NUM_TASKS": "4", "SLURM_MPI_TYPE": "none"}, "no way to find each other; use srun --mpi=pmi2"),
        (MPICH_WHEEL, {"SLURM_STEP_NUM_TASKS": "4", "PMIX_NAMESPACE": "n", "SLURM_MPI_TYPE": "pmix"}, "does not understand"),
        (OPEN_MPI, {"SLURM_STEP_NUM_TASKS": "4", "PMI_FD": "9", "SLURM_MPI_TYPE": "pmi2"}, "understand; use srun --mpi=pmix"),
        (MPICH_WHEEL, {"PMIX_NAMESPACE": "n", "LOADEDMODULES": "gcc:openmpi/5"}, "module openmpi/5 is loaded: set MPI4PY_LIBMPI"),
    ],
)
def test_a_library_and_a_launcher_that_do_not_belong_together(library: str, environment: dict[str, str], words: str) -> None:
    found = start_up_problem(library, environment)
    assert words in found if words else not found


def test_a_launcher_inside_another_is_told_from_one_alone() -> None:
    assert nesting_problem([("7.0", 0, 2), ("7.0", 1, 2)]) == "" and nesting_problem([("", 0, 1), ("", 0, 1)]) == ""
    assert "a launcher was started inside another one" in nesting_problem([("7.0", 0, 2), ("7.0", 0, 2)])


def test_the_memory_of_killed_ranks_is_removed_and_no_other(tmp_path: Path) -> None:
    """Files that a living process has mapped, new files and files of other programs stay."""
    shm, proc = tmp_path / "shm", tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    shm.mkdir()
    for name in ("mpich_shm_dead_0", "mpich_shm_alive_0", "sem.other"):
        (shm / name).touch()
    (proc / "7" / "maps").write_text(f"7f00-7f01 rw-s 00000000 00:1a 5 {shm}/mpich_shm_alive_0\n7f02-7f03 r--p 0 00:00 0\n")
    assert clear_leftovers(shm, proc) == []
    time.sleep(0.05)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("piadm_hpc.host.launcher.SETTLED", 0.0)
        assert [path.name for path in clear_leftovers(shm, proc)] == ["mpich_shm_dead_0"]
    assert sorted(path.name for path in shm.iterdir()) == ["mpich_shm_alive_0", "sem.other"]


def test_squeue_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "17|17|RUNNING|None|n[1-2]|1-00:02:03|2026-01-01T00:00:00|/a b/jobs\n9_1|11|PENDING|Priority||1:00|N/A|/c"
    fake(tmp_path, monkeypatch, squeue=f"printf '{rows}'")
    states = job_states(["17", "9_1", "5"])
    assert states is not None and states["17"].alive and states["17"].left == 86_523 and states["17"].command == "/a b/jobs"
    assert states["9_1"].reason == "Priority" and states["5"].state == GONE and not states["5"].alive
    fake(tmp_path, monkeypatch, squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert job_states(["17"]) is None, "no answer is not the end of a job"
    fake(tmp_path, monkeypatch, squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    found = job_states(["17"])
    assert found is not None and found["17"].state == GONE
    assert [seconds(text) for text in ("UNLIMITED", "45", "2:05", "1:00:00")] == [None, 45, 125, 3600]


SCHEDULER = """
# a stand-in: runs the script, signals it once like a limit that comes near, and starts it again when it was queued again
export SLURM_JOB_ID=7 SLURM_ARRAY_TASK_ID=${ARRAY:-}
while :; do
    rm -f "$QUEUED"
    bash "$1" & pid=$!
    if [ -n "${LIMIT_WHEN:-}" ]; then
        until [ -e "$LIMIT_WHEN" ]; do sleep 0.05; done
        kill -USR1 "$pid"; LIMIT_WHEN=
    fi
    wait "$pid"; rc=$?
    [ -e "$QUEUED" ] || exit "$rc"
done
"""


def test_the_printed_script_runs_stops_at_its_limit_and_goes_on(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "fields"
    fake(tmp_path, monkeypatch, srun='while [[ "$1" == -* ]]; do shift; done; exec "$@"', scontrol='touch "$QUEUED"')
    printed = call("submit", work / "run.toml", "--out", out, "--print", "--nodes", 2, "--hours", 2, "--mpi", "pmix",
                   "--sbatch", "account=abc", "--setup", "echo ready")  # fmt: skip
    lines = printed["out"].splitlines()
    for line in ("--nodes=2", "--time=02:00:00", "--signal=B:USR1@180", "--requeue", "--open-mode=append", "--account=abc"):
        assert f"#SBATCH {line}" in lines, printed["out"]
    assert "echo ready" in lines and "srun --mpi=pmix --cpus-per-task=1 --kill-on-bad-exit=1" in printed["out"]
    assert not out.exists(), "nothing is made until the job runs"
    (tmp_path / "job.sh").write_text(printed["out"])
    (tmp_path / "scheduler.sh").write_text(SCHEDULER)
    monkeypatch.setenv("QUEUED", str(tmp_path / "queued"))
    monkeypatch.setenv("LIMIT_WHEN", str(out / "log.txt"))
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent / 'slow_scores'}:{Path(__file__).parents[1]}")
    monkeypatch.setenv("PIADM_TEST_DELAY", "0.1")
    done = launch(["bash", str(tmp_path / "scheduler.sh"), str(tmp_path / "job.sh")], ranks=None, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [event["event"] for event in read_events(out) if event["event"] != "progress"] == [
        "started",
        "stopped",
        "started",
        "done",
    ]
    assert_equal(out, work / "whole")


def test_an_array_is_printed_as_one_script_with_every_configuration(work: Path, tmp_path: Path) -> None:
    printed = call("submit", work / "run.toml", "--out", tmp_path / "seeds", "--array", "seed=0-2", "--parallel", 2, "--print")
    assert "#SBATCH --array=0-2%2" in printed["out"] and printed["out"].count("seed = ") == 3
    assert f"RUN={tmp_path}/seeds/seed-2" in printed["out"]
    assert subprocess.run(["bash", "-n"], input=printed["out"], text=True, check=False).returncode == 0
    configs = [RunConfig(model="m", out=str(tmp_path / name), seed=seed) for seed, name in enumerate("ab")]
    assert 'case "$SLURM_ARRAY_TASK_ID" in' in batch_script(configs, JobRequest())
    assert "--array 'seed': write it as KEY=VALUES" in one_line(call("submit", work / "run.toml", "--array", "seed"), 2)


SBATCH = """
n=$(( $(cat {folder}/count 2>/dev/null || echo 0) + 1 )); echo $n > {folder}/count
if [ $n -ge {refused} ]; then
    echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2
    echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2
    exit 1
fi
echo "Submitted batch job $(( n + 70 ))"
"""
PENDING = """for n in 71 72; do echo "$n|$n|PENDING|Priority||1:00:00|N/A|$(ls -d {out}/jobs/*/ | head -1)submission.sh"; done"""


def refusing(work: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, refused: int) -> tuple[object, ...]:
    """A submission of a chain of three jobs where sbatch refuses the one with this number and all later ones."""
    out = folder / "fields"
    sbatch = SBATCH.format(folder=folder, refused=refused)
    fake(folder, monkeypatch, sbatch=sbatch, srun="exit 1", squeue=PENDING.format(out=out))
    return ("submit", work / "run.toml", "--out", out, "--chain", 3, "--mpi", "pmi2")


@pytest.mark.parametrize("array", [(), ("--array", "seed=0-1")])
def test_the_words_of_sbatch_that_refuses_a_job_are_quoted(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: tuple[str, ...]
) -> None:
    """Where nothing was queued, nothing is recorded either."""
    said = one_line(call(*refusing(work, tmp_path, monkeypatch, 1), *array), 1)
    assert "sbatch: error: AssocMaxSubmitJobLimit; sbatch: error: Batch job submission failed: Job violates" in said
    assert said.endswith("; nothing was queued") and not list(tmp_path.rglob("submissions.jsonl"))


@pytest.mark.parametrize(("array", "names"), [((), ["71", "72"]), (("--array", "seed=0-1"), ["71_0", "72_0"])])
def test_jobs_that_were_queued_before_one_is_refused_are_named_and_recorded(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: tuple[str, ...], names: list[str]
) -> None:
    """`status` shows them, and another submission into their folders is refused."""
    arguments = (*refusing(work, tmp_path, monkeypatch, 3), *array)
    said = one_line(call(*arguments), 1)
    assert "sbatch: error: AssocMaxSubmitJobLimit;" in said and "this was job 3 of a chain of 3, and job 71, 72 remains" in said
    assert said.endswith("scancel 71 72")
    recorded = json.loads((tmp_path / "fields" / "jobs" / "submissions.jsonl").read_text())
    assert recorded["chain"] == 2 and next(iter(recorded["jobs"].values())) == names
    if not array:
        assert "job 71: waiting (Priority)" in call("status", tmp_path / "fields")["out"]
        assert "job 71, 72 already works on this folder" in one_line(call(*arguments), 2)


def test_an_answer_of_sbatch_without_a_number(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that names no job ends in one line that says where to look."""
    fake(tmp_path, monkeypatch, sbatch="echo 'queued, thank you'", srun="exit 1", squeue="exit 1")
    said = one_line(call("submit", work / "run.toml", "--out", tmp_path / "fields", "--mpi", "pmi2"), 1)
    assert '"queued, thank you"' in said and "see in squeue whether the job is there" in said


def test_a_job_on_this_machine(work: Path, tmp_path: Path) -> None:
    """Two ranks run in the background, are signalled as at a time limit, and complete the run when submitit restarts them."""
    out = tmp_path / "here"
    arguments = ["submit", str(work / "run.toml"), "--out", str(out), "--cluster", "local", "--ranks-per-node", "2", "--wait"]
    arguments += ["--set", "compute.time_ranks=2"]  # there is one group, which has three samples left after the first
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parent / 'slow_scores'}:{Path(__file__).parents[1]}",
        "PIADM_TEST_DELAY": "0.2",
        "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    }
    waiting = subprocess.Popen(
        [sys.executable, "-m", "piadm_hpc", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while not list((out / "shards").glob("samples_*.h5")):
        assert time.monotonic() < deadline and waiting.poll() is None
        time.sleep(0.1)
    for pid in tasks_of(out):
        os.kill(pid, signal.SIGUSR2)
    printed, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, printed
    kinds = [event["event"] for event in read_events(out) if event["event"] != "progress"]
    assert kinds == ["started", "stopped", "started", "done"], kinds
    assert "4 of 4 samples drawn" in printed and "complete; open with" in printed
    assert_equal(out, work / "whole")
    assert call("status", out)["code"] == 0
    assert "nodes: 2 are not available on this machine alone" in one_line(
        call("submit", work / "run.toml", "--out", tmp_path / "two", "--cluster", "local", "--nodes", 2), 2
    )


def tasks_of(out: Path) -> list[int]:
    """List the processes in which submitit runs the job of a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (place / "cmdline").read_bytes().decode(errors="replace")
            if "submitit.core._submit" in line and f"{out}/" in line:
                found.append(int(place.name))
    return found


def test_the_same_job_in_this_process(work: Path, tmp_path: Path) -> None:
    done = call("submit", work / "run.toml", "--out", tmp_path / "debug", "--cluster", "debug", "--samples", 2)
    assert done["code"] == 0 and "2 of 2 samples drawn" in done["out"], done
    assert_equal(tmp_path / "debug", work / "whole")


HERE = ["--cluster", "debug", "--nodes", "1", "--ranks-per-node", "1", "--gpus-per-node", "0", "--cpus-per-rank", "1"]


def run_job(script: str, folder: Path, *arguments: str) -> str:
    """Run a script of jobs/ with further options that suit this machine, and return what it prints."""
    command = [sys.executable, str(JOBS / script), *HERE, *arguments]
    done = launch(command, ranks=None, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("script", "outs"),
    [
        ("climate_ensemble.py", ["climate-ensemble"]),
        ("conformers.py", ["conformers"]),
        ("many_seeds.py", ["seeds/seed-0", "seeds/seed-1", "seeds/seed-2", "seeds/seed-3"]),
    ],
)
def test_an_example_of_a_run_draws_its_samples_here(script: str, outs: list[str], work: Path, tmp_path: Path) -> None:
    like_the_run = ["--model", str(work / "network"), "--samples", "2", "--tol", "1e-5", "--set", "grid.steps=12"]
    said = run_job(script, tmp_path, *like_the_run)
    for out in outs:
        assert f"{out}: 2 of 2 samples drawn" in said
        assert read(RunConfig, tmp_path / out / "run.toml").samples == 2
    assert_equal(tmp_path / outs[0], work / "whole")


def test_the_example_of_a_training_trains_here(work: Path, tmp_path: Path) -> None:
    recipe = {
        "name": "trained",
        "output": "trained",
        "data": {"files": [str(work / "fields.nc")], "variables": ["tas"], "scale": "global"},
        "reference": {"rank": 4},
        "network": {"width": 8, "multipliers": [1, 1], "embedding": 8, "static_maps": 1},
        "optimiser": {"steps": 4, "batch": 8, "warm_up": 1, "validate_every": 2},
    }
    (tmp_path / "train.toml").write_text(tomli_w.dumps(recipe))
    run_job("training.py", tmp_path)
    assert load_model(tmp_path / "trained").layout.variables[0].name == "tas"


def test_every_example_of_a_job_is_run_here() -> None:
    assert {path.name for path in JOBS.glob("*.py")} == {"climate_ensemble.py", "conformers.py", "many_seeds.py", "training.py"}


def test_status_says_what_is_there_and_what_is_not(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no run has begun here, and none was submitted" in one_line(call("status", tmp_path), 2)
    (status,) = read_status(work / "whole")
    assert status.complete and not status.failed and str(status).endswith(f'piadm_hpc.open("{work}/whole")')
    out = tmp_path / "queued"
    assert call("sample", work / "run.toml", "--out", out, "--samples", 1)["code"] == 0
    folder = out / "jobs" / "one"
    folder.mkdir(parents=True)
    (folder / "run-0.toml").write_text((work / "run.toml").read_text().replace(str(work / "whole"), str(out)))
    record = {"time": "t", "cluster": "slurm", "folder": str(folder), "chain": 1, "jobs": {str(out): ["1"]}}
    (out / "jobs" / "submissions.jsonl").write_text(json.dumps(record) + "\n")
    fake(tmp_path, monkeypatch, squeue=f"echo '1|1|PENDING|Priority||1:00:00|2026-01-01T10:00:00|{folder}/submission.sh'")
    found = call("status", out)
    assert found["code"] == 75 and "job 1: waiting (Priority), expected to start at 2026-01-01T10:00:00" in found["out"]
    assert "1 already works on this folder" in one_line(call("submit", work / "run.toml", "--out", out, "--cluster", "local"), 2)
    # after a new installation of Slurm another job may have the same number
    fake(tmp_path, monkeypatch, squeue="echo '1|1|RUNNING|None|n1|1:00:00|N/A|/home/somebody/else.sh'")
    found = call("status", out)
    assert found["code"] == 1 and "job 1: over, Slurm has forgotten it" in found["out"]
    assert "no job or process is left: submit the same run again" in found["out"]


def test_a_line_of_the_log_says_how_far_how_fast_and_until_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(root=True, file=tmp_path / "log.txt")
    events = EventLog(tmp_path, speaks=True)
    with Progress(8, unit="samples", interval=0.0, enabled=True, ends=time.monotonic() + 3600.4, events=events) as progress:
        time.sleep(0.02)
        progress.show(2.5, "batch 1/2 block 3 sweeps 4")
    line = (tmp_path / "log.txt").read_text().splitlines()[-1]
    assert "2/8 samples  batch 1/2 block 3 sweeps 4  " in line and " samples/s  about " in line
    assert line.endswith("left, limit in 1 h 00 min")
    (event,) = read_events(tmp_path)
    assert (event["event"], event["done"], event["total"]) == ("progress", 2.5, 8) and 3590 < event["limit"] <= 3601
    set_up_logging(root=True)


def test_events_survive_a_line_that_was_cut(tmp_path: Path) -> None:
    EventLog(tmp_path, speaks=False).write("started")
    EventLog(tmp_path, speaks=True).write("started", samples=3)
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"time": "2026-')
    assert [event["samples"] for event in read_events(tmp_path)] == [3]


def test_the_plan_of_a_job_compares_its_rank_grids(work: Path) -> None:
    slow = call("plan", work / "run.toml", "--nodes", 2, "--ranks-per-node", 2, "--latency", "10", "--bandwidth", "1e3")
    assert slow["code"] == 0 and "ways to arrange 4 ranks on 2 nodes:" in slow["out"]
    assert [line.split()[0] for line in slow["out"].splitlines() if " sample groups x " in line][1:] == ["4", "2", "1"]
    assert "suggestion: --time-ranks 1" in slow["out"] or 'suggestion: --set solver.kind="sequential"' in slow["out"]
    alone = call("plan", work / "run.toml", "--samples", 1, "--nodes", 1, "--ranks-per-node", 4, "--latency", "1e-9")
    assert [line.split()[0] for line in alone["out"].splitlines() if " sample groups x " in line][1:] == ["1", "2", "4"]
    assert 'suggestion: --set solver.kind="sequential": step by step takes about' in alone["out"]
    assert "--latency -1: must be more than zero" in one_line(call("plan", work / "run.toml", "--latency", "-1"), 2)


def test_numbers_in_jobs_are_options_of_submit(work: Path, tmp_path: Path) -> None:
    for name in ("climate_ensemble", "many_seeds", "conformers"):
        done = launch(
            [sys.executable, str(JOBS / f"{name}.py"), "--print", "--mpi", "pmi2"], ranks=None, cwd=tmp_path, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0
    assert not list(tmp_path.iterdir())


def test_eight_ranks_without_a_batch_system(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """jobs/mpirun.sh is run unchanged."""
    config = tomllib.loads((work / "run.toml").read_text())
    config["grid"] = {**config.get("grid", {}), "steps": 12, "blocks": 1}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(config))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for command in (["bash", str(JOBS / "mpirun.sh")], ["piadm", "sample", "run.toml", "--out", "alone"]):
        done = launch(command, ranks=None, cwd=tmp_path, timeout=200)
        assert done.returncode == 0, done.stderr
    assert "2 sample group(s) x 4 time rank(s)" in (tmp_path / "fields" / "log.txt").read_text()
    assert_equal(tmp_path / "fields", tmp_path / "alone")
