"""A real Slurm on this machine: munged, slurmctld and several virtual nodes from Debian's packages, in a folder of its own.

    python tests/slurm_cluster.py FOLDER [NODES] [CPUS]

starts it, prints what to export, and stops it when standard input ends, so that a killed test session leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libpmix-dev"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
READY_SECONDS = 40.0

CONFIGURATION = """\
ClusterName=piadm
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a job that was queued again starts when its old credential has expired, which takes 2 minutes by default
AuthInfo=cred_expire=5,socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
# nodes may claim more cores than the machine has
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=15
MpiDefault=none
KillWait=5
MailProg=/bin/true
"""


def missing_commands() -> list[str]:
    """Return the programs of the packages that are not on this machine."""
    return [name for name in COMMANDS if shutil.which(name, path=PATH) is None]


@dataclass(frozen=True)
class Cluster:
    """A running Slurm: `environment` is what its commands need, and `nodes` are the names of its nodes."""

    folder: Path
    nodes: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "PMI", "OMPI_", "SUBMITIT_"))}
        return {**kept, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(
        self, arguments: Sequence[object], *, timeout: float = 60, more: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with this Slurm in its environment."""
        return subprocess.run(
            [str(argument) for argument in arguments],
            env={**self.environment, **(more or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, arguments: Sequence[object], *, more: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
        """Start a command in the background and discard its output."""
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            env={**self.environment, **more},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def daemon(self, name: str) -> int:
        """Return the process id of `slurmctld`, `munged` or `slurmd-NODE`."""
        return int((self.folder / f"{name}.pid").read_text())

    def start_node(self, node: str) -> None:
        """Start a node's daemon, for the first time or after it was killed."""
        done = self.run(["slurmd", "-f", self.folder / "conf" / node / "slurm.conf", "-N", node])
        if done.returncode:
            raise RuntimeError(f"slurmd of {node}: {done.stderr}")

    def processes(self, *words: str) -> list[int]:
        """List the processes of this Slurm's jobs whose command line has all the `words`."""
        found = []
        mark = f"SLURM_CONF={self.folder}/"
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if mark.encode() in (folder / "environ").read_bytes() and all(word in line for word in words):
                    found.append(int(folder.name))
        return [pid for pid in found if pid != os.getpid()]

    def end_lingering(self, job: str) -> None:
        """End what Slurm's PMIx keeps of an old step of a job, also its files, which have the same names in a new step.

        For about a minute it tries to reach a node that has left the step. A requeued job of other Slurms starts later than that.
        """
        for pid in self.processes(f"slurmstepd: [{job}."):
            os.kill(pid, signal.SIGKILL)
        for path in self.folder.glob(f"spool/*/stepd.slurm.pmix.{job}.*"):
            path.unlink()
        for path in self.folder.glob(f"spool/*/pmix.{job}.*"):
            shutil.rmtree(path)

    def wait_idle(self, seconds: float = READY_SECONDS) -> None:
        """Wait until every node is idle. Raises RuntimeError with the states of the nodes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.run(["sinfo", "-h", "-o", "%T %D"], timeout=10)
            if answer.stdout.split() == ["idle", str(len(self.nodes))]:
                return
            time.sleep(0.1)
        log = (self.folder / "log" / "slurmctld.log").read_text()[-2000:]
        raise RuntimeError(f"Slurm is not ready:\n{answer.stdout}{answer.stderr}{log}")


def _free_ports(count: int) -> int:
    """Return the first of `count` consecutive ports on which nothing listens."""
    for first in range(20_000 + os.getpid() % 1000 * 20, 60_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("", first + offset))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no free ports for Slurm")


def _write_configuration(cluster: Cluster, cpus: int) -> None:
    folder, host, port = cluster.folder, socket.gethostname().split(".")[0], _free_ports(len(cluster.nodes) + 1)
    text = CONFIGURATION.format(folder=folder, host=host, port=port, user=getpass.getuser())
    for number, node in enumerate(cluster.nodes, 1):
        text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + number} CPUs={cpus} RealMemory=4000\n"
    (folder / "slurm.conf").write_text(text + "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n")
    for node in cluster.nodes:
        for room in ("spool", "pmix", "conf"):
            (folder / room / node).mkdir(parents=True)
        (folder / "conf" / node / "slurm.conf").symlink_to(folder / "slurm.conf")
        # virtual nodes share /tmp, so each keeps its PMIx files in a folder of its own
        (folder / "conf" / node / "mpi.conf").write_text(f"PMIxCliTmpDirBase={folder}/pmix/{node}\n")


def start(folder: Path, nodes: int, cpus: int) -> Cluster:
    """Start the daemons and wait until all nodes are idle. Raises RuntimeError saying what failed."""
    cluster = Cluster(folder, tuple(f"n{number + 1}" for number in range(nodes)))
    for room in ("state", "log"):
        (folder / room).mkdir(parents=True)
    _write_configuration(cluster, cpus)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid", "seed-file": folder / "seed"}
    options = [f"--{name}={path}" for name, path in files.items()]
    for command in (
        ["munged", *options, f"--log-file={folder}/log/munged.log", "--force"],
        ["slurmctld", "-f", folder / "slurm.conf"],
    ):
        done = cluster.run(command)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr}")
    for node in cluster.nodes:
        cluster.start_node(node)
    cluster.wait_idle()
    return cluster


def stop(cluster: Cluster) -> None:
    """End the jobs, the daemons and what the jobs left behind, by process id and never by name."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        cluster.run(["scancel", "--full", "--signal=KILL", "--user", getpass.getuser()], timeout=10)
    pids = []
    for path in [*cluster.folder.glob("slurmd-*.pid"), cluster.folder / "slurmctld.pid", cluster.folder / "munged.pid"]:
        with contextlib.suppress(OSError, ValueError):
            pids.append(int(path.read_text()))
    for signum, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for pid in [*pids, *cluster.processes()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (cluster.processes() or any(map(_alive, pids))):
            time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def running(folder: Path, *, nodes: int, cpus: int) -> Iterator[Cluster]:
    """Start Slurm for a test session, from a process that stops it even if this one is killed."""
    command = [sys.executable, __file__, str(folder), str(nodes), str(cpus)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdin is not None and holder.stdout is not None
    try:
        if not holder.stdout.readline().startswith("export"):
            raise RuntimeError(f"Slurm did not start; its logs are in {folder}/log")
        yield Cluster(folder, tuple(f"n{number + 1}" for number in range(nodes)))
    finally:
        holder.stdin.close()
        holder.wait(60)


def _main(folder: str, nodes: str = "4", cpus: str = "4") -> None:
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    cluster = Cluster(Path(folder).absolute(), ())
    try:
        cluster = start(cluster.folder, int(nodes), int(cpus))
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf", flush=True)
        sys.stdin.read()
    finally:
        stop(cluster)


if __name__ == "__main__":
    _main(*sys.argv[1:])
