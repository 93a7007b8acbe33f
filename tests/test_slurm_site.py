"""On a real Slurm: the examples of jobs/, chains, trainings, batch scripts, and mistakes that give one error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import tomli_w
from helpers import call
from slurm_cluster import Cluster, running
from slurm_jobs import FAMILY, NUM_SAMPLES, PIADM, START_UP, Site

import piadm_hpc
from piadm_hpc.host.launcher import local_environment
from piadm_hpc.store.errors import StoreError

pytestmark = pytest.mark.timeout(900)
JOBS = Path(__file__).resolve().parents[1] / "jobs"
LIKE_THE_RUN = ["--tol", "1e-5", "--set", "grid.steps=12", "--set", "grid.blocks=3", "--set", "grid.cut=even"]
SHORT = ["--hours", "0.3", "--grace", "60", "--cpus-per-rank", "1"]


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(cluster, tmp_path_factory.mktemp("site"))


def test_the_examples_that_are_numbers_alone(site: Site) -> None:
    """Scripts of jobs/ run with other numbers: four ranks on two nodes, along time and over samples, and an array of four."""
    model = ["--model", site.folder / "network", *LIKE_THE_RUN, *SHORT, "--ranks-per-node", "2"]
    examples = {
        "climate_ensemble": ["--out", "ensemble", "--samples", NUM_SAMPLES, "--gpus-per-node", "0", "--set", "output.batch=1"],
        "conformers": ["--out", "campaign", "--samples", NUM_SAMPLES, "--nodes", "2", "--set", "output.batch=1"],
        "many_seeds": ["--out", "seeds", "--samples", "2", "--ranks-per-node", "1", "--parallel", "4"],
    }
    for script, numbers in examples.items():
        done = site.cluster.run(
            [sys.executable, JOBS / f"{script}.py", *model, *numbers], more=site.environment(), cwd=site.folder
        )
        assert done.returncode == 0, done.stderr
    site.wait("ensemble")
    site.assert_whole("ensemble")
    site.wait("campaign")
    site.assert_whole("campaign")
    text = site.wait("seeds")
    assert all(f"seeds/seed-{seed}: 2 of 2 samples drawn" in text for seed in range(4))
    site.assert_whole("seeds/seed-0", 2)


def test_a_chain_a_script_and_a_training_each_stopped_once(site: Site) -> None:
    """The next job of a chain continues; a batch script and a training requeue themselves. All are tested together."""
    chain = site.submit("chain", "--chain", 3, delay=site.hold("chain"))
    script = start_script(site, "plain")
    training = start_training(site)
    for out, job, name, more in (("chain", chain, "USR2", []), ("plain", script, "USR1", ["--batch"])):
        site.until_begun(out)
        signal_job(site, job, name, *more)
        time.sleep(1)
        site.release(out)
    site.until((site.folder / ".trained.training").exists, 300, "a checkpoint")
    signal_job(site, training, "USR2")
    text = site.wait("chain")
    assert [event["limit"] for event in site.events("chain", "stopped")] == [True]
    assert len({event["job"] for event in site.events("chain", "started")}) >= 2, text
    site.assert_whole("chain")
    site.until((site.folder / "plain" / "samples.h5").exists, 300, "the batch script")
    assert [event["limit"] for event in site.events("plain", "stopped")] == [True]
    site.assert_whole("plain")
    site.until((site.folder / "trained" / "card.toml").exists, 300, "the training")
    said = "".join(path.read_text() for path in (site.folder / "trained.training").glob("jobs/*/*/*.out"))
    assert "continuing from step" in said, said


def signal_job(site: Site, job: str, name: str, *more: str) -> None:
    assert site.cluster.run(["scancel", f"--signal={name}", *more, job]).returncode == 0


def start_script(site: Site, out: str) -> str:
    """Submit jobs/sample.sbatch, changed as its page says: without GPUs, for the MPI of this environment, on two ranks."""
    text = (JOBS / "sample.sbatch").read_text().replace("#SBATCH --gpus-per-task=1\n", "").replace("/fields", f"/{out}")
    (site.folder / "sample.sbatch").write_text(text.replace("--mpi=pmix", f"--mpi={START_UP}"))
    path = f"{Path(sys.prefix) / 'bin'}:{site.cluster.environment['PATH']}"
    options = ["--parsable", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=20"]
    done = site.cluster.run(
        ["sbatch", *options, "sample.sbatch"],
        more={**site.environment(site.hold(out)), "SCRATCH": str(site.folder), "PATH": path},
        cwd=site.folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start_training(site: Site) -> str:
    values = {
        "name": "trained",
        "output": "trained",
        "data": {"files": ["fields.nc"], "variables": ["tas"], "scale": "global"},
        "reference": {"rank": 4},
        "network": {"width": 8, "multipliers": [1, 1], "embedding": 8, "static_maps": 1},
        "optimiser": {"steps": 1500, "batch": 16, "warm_up": 5, "validate_every": 50, "patience": 1000},
    }
    (site.folder / "train.toml").write_text(tomli_w.dumps(values))
    numbers = ["--gpus-per-node", "0", *SHORT]
    done = site.cluster.run([sys.executable, JOBS / "training.py", *numbers], more=site.environment(), cwd=site.folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("slurm job ")[1].split(";")[0]


def test_a_folder_belongs_to_one_run_and_a_dead_job_is_noticed(site: Site) -> None:
    """A second submission and a run by hand are refused; a job that is killed by SIGKILL ends `--wait` within a minute."""
    waiting = subprocess.Popen(
        [*PIADM, "submit", str(site.config), "--out", "once", "--mpi", START_UP, "--ranks-per-node", "2", *SHORT, "--wait"],
        env={**site.cluster.environment, **site.environment(site.hold("once"))},
        cwd=site.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    site.until_begun("once")
    job = site.state("once").split()[0]
    second = site.piadm("submit", site.config, "--out", "once")
    assert second.returncode == 2 and f"once: job {job} already works on this folder; wait for it" in second.stderr
    by_hand = site.cluster.run(
        ["srun", "-n1", *PIADM, "sample", site.config, "--out", "once"], more=site.environment(), cwd=site.folder
    )
    assert by_hand.returncode == 1 and "once is being written by process" in by_hand.stderr and f"job {job}" in by_hand.stderr
    killed = time.monotonic()
    signal_job(site, job, "KILL", "--full")
    printed, _ = waiting.communicate(timeout=200)
    assert waiting.returncode == 1 and "submit the same run again" in printed, printed
    assert time.monotonic() - killed < 60
    assert site.piadm("sample", site.config, "--out", "once").returncode == 0
    site.assert_whole("once")


WITHOUT = ["srun", "-n2", "-N2", "--mpi=none"]
NESTED = ["srun", "-n2", "-N1", "--mpi=none", "MPIEXEC", "-n", "2"]
# mpiexec starts its ranks itself, where with Slurm it would wait for the nodes of the step in which it runs
WITHOUT_SLURM = {**local_environment(2), "PRTE_MCA_plm": "ssh", "PRTE_MCA_ras": "^slurm"}
MODULE = "is loaded: set MPI4PY_LIBMPI"
WRONG: dict[str, dict[str, tuple[list[str], dict[str, str], str]]] = {
    "mpich": {
        "no start-up": (WITHOUT, {}, "gives the ranks of MPICH"),
        "a wheel under the start-up of a module's MPI": (
            ["srun", "-n2", "-N2", "--mpi=pmix"],
            {"LOADEDMODULES": "openmpi/4"},
            f"module openmpi/4 {MODULE}",
        ),
        "nested launchers": (NESTED, {"HYDRA_LAUNCHER": "fork"}, "a launcher was started inside another one"),
        "another MPI's launcher": (["env", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=0"], {}, "(OMPI_COMM_WORLD_SIZE)"),
    },
    "openmpi": {
        "no start-up": (WITHOUT, {}, "gives the ranks of Open MPI"),
        "a wheel under the start-up of a module's MPI": (
            ["srun", "-n2", "-N2", "--mpi=pmi2"],
            {"LOADEDMODULES": "mpich/4"},
            f"module mpich/4 {MODULE}",
        ),
        "nested launchers": (NESTED, WITHOUT_SLURM, "a launcher was started inside another one"),
        "another MPI's launcher": (["env", "PMI_SIZE=2", "PMI_RANK=0"], {}, "by the mpiexec of another MPI"),
    },
}


@pytest.mark.parametrize(("launcher", "environment", "words"), WRONG[FAMILY].values(), ids=WRONG[FAMILY])
def test_a_wrong_pairing_is_one_error_at_once(site: Site, launcher: list[str], environment: dict[str, str], words: str) -> None:
    """Ranks never run as silent singletons, and never hang."""
    mpiexec = str(Path(sys.prefix) / "bin" / "mpiexec")
    command = [mpiexec if word == "MPIEXEC" else word for word in launcher]
    more = {**site.environment(), **environment}
    began = time.monotonic()
    done = site.cluster.run([*command, *PIADM, "sample", site.config, "--out", "wrong"], more=more, cwd=site.folder, timeout=60)
    assert time.monotonic() - began < 30
    said = {line for line in done.stderr.splitlines() if line.startswith("piadm: ")}
    assert done.returncode != 0 and len(said) == 1 and words in said.pop(), done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not (site.folder / "wrong" / "shards").exists()


def test_doctor_under_srun(site: Site) -> None:
    step = ["srun", "-n2", "-N2", f"--mpi={START_UP}", *PIADM]
    done = site.cluster.run([*step, "doctor"], more=site.environment(), cwd=site.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        f"2 ranks ({'SLURM_STEP_NUM_TASKS' if FAMILY == 'openmpi' else 'PMI_SIZE'})",
        f"find each other; {'Open MPI' if FAMILY == 'openmpi' else 'MPICH'}",
        "start 1, no time limit, no warning",
        START_UP,
        "no sacct, nor is it needed",
    ):
        assert words in done.stdout, done.stdout
    wrong = site.cluster.run(
        ["srun", "-n2", "-N2", "-t5", "--mpi=none", *PIADM, "doctor"], more=site.environment(), cwd=site.folder
    )
    assert wrong.returncode == 1 and "FAIL  MPI" in wrong.stdout and f"use srun --mpi={START_UP}" in wrong.stdout
    assert "no warning before it; submit with --signal=USR2@180" in wrong.stdout
    planned = site.cluster.run(
        ["srun", "-n2", f"--mpi={START_UP}", *PIADM, "plan", site.config, "--nodes", "2"], more=site.environment()
    )
    assert planned.returncode == 0 and "measured between these ranks" in planned.stdout and "suggestion: " in planned.stdout


def test_a_disk_that_fills_up_in_the_middle(site: Site) -> None:
    """The job ends with an error, no stored sample is lost, and the same command completes the run when there is room."""
    assert call("sample", site.config, "--samples", 2, "--out", site.folder / "full")["code"] == 0
    limit = site.shards("whole")[0].stat().st_size // 1024 - 1
    # there is one rank, since the limit also holds for the files in shared memory that several would open
    site.submit("full", "--setup", f"ulimit -f {limit}", ranks=1)
    site.until(lambda: site.state("full") == "" and site.events("full", "failed"), 200, "the full disk", "full")
    code, text = site.status("full")
    assert code == 1 and "no room for samples_" in text and "every finished shard is kept" in text, text
    assert not list((site.folder / "full").rglob("*.partial"))
    site.submit("full")
    site.wait("full")
    site.assert_whole("full")


def test_a_copy_without_its_shards_is_refused(site: Site) -> None:
    shutil.copytree(site.folder / "whole", site.folder / "copied", ignore=shutil.ignore_patterns("shards"))
    report = call("check", site.folder / "copied")
    assert report["code"] == 1 and "none of its 6 shards" in report["out"], report
    with pytest.raises(StoreError, match="none of its 6 shards"):
        piadm_hpc.open(site.folder / "copied")


def test_numbers_of_jobs_that_start_again_bring_no_old_result(site: Site) -> None:
    """Two installations of Slurm give their first jobs the same number; `--wait` waits for the second job."""
    for count in (1, 2):
        with tempfile.TemporaryDirectory(prefix="piadm-slurm-", ignore_cleanup_errors=True) as folder:
            with running(Path(folder) / "c", nodes=1, cpus=2) as cluster:
                other = Site(cluster, site.folder, site.config)
                done = other.piadm("submit", site.config, "--out", "again", "--samples", count, *SHORT, "--wait")
                assert done.returncode == 0 and "slurm job 1;" in done.stdout, done.stdout + done.stderr
                assert f"{count} of {count} samples drawn" in done.stdout and "job 1: completed" in done.stdout
    site.assert_whole("again", 2)
    assert len(os.listdir(site.folder / "again" / "jobs")) == 3
