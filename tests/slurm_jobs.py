"""Small runs for the tests on a real Slurm, and checks of what must be true of them afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers import add_network, call, make_model, write_config
from slurm_cluster import Cluster

import piadm_hpc
from piadm_hpc.comm.rank_grid import library
from piadm_hpc.host.launcher import family_of, start_up_kinds
from piadm_hpc.run.reporting import read_events

TESTS = Path(__file__).resolve().parent
PIADM = [sys.executable, "-m", "piadm_hpc"]
FAMILY = family_of(library())
START_UP = start_up_kinds(FAMILY)[0]  # the value of `srun --mpi` for the MPI of this environment
NUM_SAMPLES = 6
WAIT_AFTER = 16  # calls of the score, of which a sample takes about twelve


@dataclass(frozen=True)
class Site:
    """A cluster, a folder on it, and a run.toml whose samples, drawn without disturbance, are in `folder`/whole."""

    cluster: Cluster
    folder: Path
    config: Path

    @classmethod
    def make(cls, cluster: Cluster, folder: Path) -> Site:
        model = add_network(make_model(folder), folder / "network")
        config = write_config(
            folder / "run.toml",
            model,
            folder / "whole",
            samples=NUM_SAMPLES,
            grid={"blocks": 3, "cut": "even"},
            output={"batch": 1, "log_interval": 1.0},
        )
        assert call("sample", config)["code"] == 0
        return cls(cluster, folder, config)

    def environment(self, delay: float | Path = 0) -> dict[str, str]:
        """Ranks that crowd on few cores, and scores that take `delay` seconds, or as many as that file says."""
        path = os.pathsep.join([str(TESTS / "slow_scores"), str(TESTS.parent)])
        return {"PYTHONPATH": path, "PIADM_TEST_DELAY": str(delay), "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "OMP_NUM_THREADS": "1"}

    def piadm(self, *arguments: object, delay: float | Path = 0, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Run the piadm command on the login node."""
        return self.cluster.run([*PIADM, *arguments], more=self.environment(delay), timeout=timeout, cwd=self.folder)

    def hold(self, out: str) -> Path:
        """Make every rank of a run wait after its first sample until `release`; returns the file that says so."""
        path = self.folder / f"{out}.delay"
        draft = path.with_suffix(".draft")
        draft.write_text(f"0 {WAIT_AFTER}")
        os.replace(draft, path)
        return path

    def release(self, out: str) -> None:
        """Let a waiting run continue."""
        draft = self.folder / f"{out}.draft"
        draft.write_text("0")
        os.replace(draft, self.folder / f"{out}.delay")

    def submit(self, out: str, *more: object, delay: float | Path = 0, ranks: int = 2) -> str:
        """Submit the run to a folder, on two nodes at most, and return the number of its job."""
        nodes = ["--nodes", min(2, ranks), "--ranks-per-node", -(-ranks // 2), "--hours", 0.3, "--grace", 60]
        done = self.piadm("submit", self.config, "--out", out, *nodes, *more, delay=delay)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout.split("slurm job ")[1].split(";")[0].split(",")[0]

    def status(self, out: str) -> tuple[int, str]:
        """Return the exit code and the output of `piadm status`."""
        done = self.piadm("status", out)
        return done.returncode, done.stdout + done.stderr

    def wait(self, out: str, seconds: float = 300) -> str:
        """Wait until no job works on the folder; return the last output of `piadm status`, whose exit code must be 0."""
        self.until(lambda: self.state(out) == "", seconds, f"the job of {out}", out)
        code, text = self.status(out)
        assert code == 0, text + self.logs(out)
        return text

    def state(self, out: str) -> str:
        """Return state and number of the jobs that are queued or running, as squeue prints them."""
        done = self.cluster.run(["squeue", "--noheader", "--array", "--format=%A %T %o"])
        if done.returncode:  # a busy slurmctld does not always answer
            return "unknown"
        mine = [line for line in done.stdout.splitlines() if f"/{out}/jobs/" in line]
        return " ".join(" ".join(line.split()[:2]) for line in mine)

    def until(self, condition: Callable[[], Any], seconds: float, what: str, out: str = "") -> None:
        """Wait for a condition.

        Raises AssertionError, with the logs of the jobs of `out`, naming `what` has not happened in time.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}; {self.state(out)}\n{self.logs(out)}"
            time.sleep(0.2)

    def until_begun(self, out: str, shards: int = 1, seconds: float = 200) -> None:
        """Wait until the run has some shards."""
        self.until(lambda: len(self.shards(out)) >= shards, seconds, f"{shards} shards in {out}", out)

    def shards(self, out: str) -> list[Path]:
        return sorted((self.folder / out / "shards").glob("samples_*.h5"))

    def events(self, out: str, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.folder / out) if event["event"] == kind]

    def logs(self, out: str) -> str:
        """Return the logs of all ranks of all jobs."""
        return "\n".join(path.read_text(errors="replace") for path in sorted((self.folder / out).glob("jobs/*/*/*.out")))

    def assert_whole(self, out: str, count: int = NUM_SAMPLES, like: str = "whole") -> None:
        """No sample missing, none twice, every byte readable, values as in the undisturbed run."""
        folder = self.folder / out
        report = piadm_hpc.check(folder, deep=True)
        assert report.ok, str(report)
        assert not list(folder.rglob("*.partial"))
        with piadm_hpc.open(folder) as found, piadm_hpc.open(self.folder / like) as expected:
            assert found["realization"].values.tolist() == list(range(count))
            np.testing.assert_allclose(found["tas"].values, expected["tas"].values[:count], rtol=1e-6)
