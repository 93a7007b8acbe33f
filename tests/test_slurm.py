"""On a real Slurm, runs are submitted, stopped by a time limit, killed, cancelled and requeued, and end complete."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from slurm_jobs import NUM_SAMPLES, PIADM, START_UP, Site

pytestmark = pytest.mark.timeout(900)
SWEEPS = 12  # of a sample, in all blocks


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(cluster, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module", autouse=True)
def limited(site: Site) -> str:
    """A job that requests far less time than it needs; it mostly waits, so that other tests can run meanwhile.

    Its ranks work for about a quarter minute between their start, however long that takes on this machine, and the signal.
    """
    began = time.monotonic()
    assert site.piadm("plan", site.config).returncode == 0
    start = 2 * (time.monotonic() - began)
    signalled = 15 + 1.5 * start
    minutes = int(signalled // 60) + 1
    delay = 2.5 * (signalled - start) / (NUM_SAMPLES // 2 * SWEEPS)
    site.submit("limit", "--hours", minutes / 60, "--grace", 60 * minutes - int(signalled), delay=delay)
    return "limit"


def test_four_ranks_on_two_nodes_and_an_array_of_four(site: Site) -> None:
    """Both are submitted together, complete, and equal a serial run."""
    job = site.submit("four", ranks=4)
    arrayed = site.piadm(*("submit", site.config, "--out", "array", "--samples", 2, "--array", "samples=1,2,3,4", "--hours", 0.3))
    assert arrayed.returncode == 0, arrayed.stderr
    text = site.wait("four")
    assert f"job {job}: completed" in text and f"{NUM_SAMPLES} of {NUM_SAMPLES} samples drawn" in text
    assert "sample group(s) x" in site.logs("four")
    site.assert_whole("four")
    text = site.wait("array")
    for count in (1, 2, 3, 4):
        assert f"array/samples-{count}: {count} of {count} samples drawn" in text
        site.assert_whole(f"array/samples-{count}", count)


def test_a_signal_while_a_job_begins_queues_it_again(site: Site) -> None:
    """The signal comes before the run installs its handler; that of submitit is installed once the job has been read."""
    job = site.submit("early")
    site.until(lambda: site.logs("early").count("Loading pickle") == 2, 100, "two ranks that begin", "early")
    time.sleep(1)
    assert site.cluster.run(["scancel", "--signal=USR2", job]).returncode == 0
    if START_UP == "pmix":
        site.until(lambda: "PENDING" in site.state("early"), 60, "the job in the queue", "early")
        site.cluster.end_lingering(job)
    site.wait("early")
    assert site.logs("early").count("Loading pickle") == 4
    site.assert_whole("early")


def kill_a_rank(site: Site, out: str, job: str) -> None:
    ranks = site.cluster.processes("submitit.core._submit", f"/{out}/")
    os.kill(random.Random(0).choice(sorted(ranks)), signal.SIGKILL)


def environment(pid: int) -> bytes:
    """Return the environment of a process; that of srun itself has no rank."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def cancel(site: Site, out: str, job: str) -> None:
    assert site.cluster.run(["scancel", job]).returncode == 0


def requeue(site: Site, out: str, job: str) -> None:
    """Kill all ranks and requeue the job, which keeps its number and finds their shared memory on its nodes."""
    for rank in site.cluster.processes("submitit.core._submit", f"/{out}/"):
        os.kill(rank, signal.SIGKILL)
    assert site.cluster.run(["scontrol", "requeue", job]).returncode == 0


def kill_a_node(site: Site, out: str, job: str) -> None:
    """Kill slurmd and everything it started, as when a machine loses power."""
    nodes = site.cluster.run(["squeue", "-h", "-j", job, "-o", "%N"]).stdout
    node = site.cluster.run(["scontrol", "show", "hostnames", nodes.strip()]).stdout.split()[-1]
    os.kill(site.cluster.daemon(f"slurmd-{node}"), signal.SIGKILL)
    for pid in [*site.cluster.processes(f"slurmstepd: [{job}."), *site.cluster.processes("submitit.core._submit", f"/{out}/")]:
        environment = Path(f"/proc/{pid}/environ")
        if environment.exists() and f"SLURMD_NODENAME={node}".encode() in environment.read_bytes():
            os.kill(pid, signal.SIGKILL)
    assert site.cluster.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"]).returncode == 0
    site.cluster.start_node(node)
    site.cluster.run(["scontrol", "update", f"nodename={node}", "state=resume"])  # refused if the node has returned by itself


def test_disturbed_jobs_are_finished_by_the_same_command(site: Site) -> None:
    """A killed rank, a cancelled and a requeued job and a lost node are tested together; only one job uses the lost node."""
    harms = {harm.__name__: harm for harm in (kill_a_node, kill_a_rank, cancel, requeue)}
    places = {out: "n[3-4]" if out == "kill_a_node" else "n[1-2]" for out in harms}
    jobs = {out: site.submit(out, "--sbatch", f"nodelist={places[out]}", delay=site.hold(out)) for out in harms}
    kept: dict[str, dict[str, bytes]] = {}
    while len(kept) < len(harms):
        site.until(lambda: any(site.shards(out) for out in harms.keys() - kept.keys()), 200, "the next job that begins")
        out = next(out for out in harms if out not in kept and site.shards(out))
        kept[out] = {path.name: path.read_bytes() for path in site.shards(out)}
        harms[out](site, out, jobs[out])
        site.release(out)
    harmed = time.monotonic()
    for out, job in jobs.items():
        # Slurm requeues the job, or its end is noticed within a minute, without sacct
        site.until(lambda out=out: not {"RUNNING", "COMPLETING"} & {*site.state(out).split()}, 60, f"the end of job {job}")
        code, text = site.status(out)
        if code and not site.state(out):
            assert time.monotonic() - harmed < 60 and code in (1, 75), text
            assert "submit the same run again" in text
            site.submit(out)
    for out in harms:
        site.wait(out)
        assert {name: (site.folder / out / "shards" / name).read_bytes() for name in kept[out]} == kept[out]
        site.assert_whole(out)


def test_fifty_kills_in_a_row(site: Site) -> None:
    """A serial run is killed forty-four times and one of two ranks six times, at random moments; the same command ends it."""
    count, dice = 140, random.Random(1)
    arguments = ["sample", site.config, "--samples", count, "--out", "kills"]
    killing = [sys.executable, Path(__file__).with_name("killing.py"), 44, 7, site.folder / "kills" / "shards", *arguments]
    done = site.cluster.run(["srun", "-n1", "--mpi=none", *killing], more=site.environment(0.05), cwd=site.folder, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < len(site.shards("kills")) < count
    step = ["srun", "-n2", "-N2", f"--mpi={START_UP}", "--kill-on-bad-exit=1", *PIADM, *arguments]
    for number in range(6):
        begun = len(site.events("kills", "started"))
        running = site.cluster.start(step, more=site.environment(0.3), cwd=site.folder)
        site.until(lambda begun=begun: len(site.events("kills", "started")) > begun, 60, f"start {number}")
        time.sleep(dice.random())
        ranks = [pid for pid in site.cluster.processes("piadm_hpc sample", "kills") if b"SLURM_PROCID=" in environment(pid)]
        os.kill(dice.choice(ranks), signal.SIGKILL)
        assert running.wait(60) != 0
    done = site.cluster.run(step, more=site.environment(), cwd=site.folder, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert site.piadm("sample", site.config, "--samples", count, "--out", "whole").returncode == 0
    site.assert_whole("kills", count)


def test_a_limit_far_below_the_need_is_met_again_and_again(site: Site, limited: str) -> None:
    """The job is signalled, stopped at a block and requeued several times; each stop loses at most one block."""
    site.wait(limited, 600)
    stops, starts = site.events(limited, "stopped"), site.events(limited, "started")
    assert len(starts) == len(stops) + 1 >= 3 and all(stop["limit"] for stop in stops), (starts, stops)
    assert len({event["job"] for event in starts}) == 1, "the same job was queued again"
    assert "limit in" in site.logs(limited)
    site.assert_whole(limited)
