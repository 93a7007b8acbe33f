"""Checks of the machine: MPI, ranks, threads, devices, HDF5 and the file system. A check that fails explains what to do."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..comm.rank_grid import library, world
from ..host.launcher import LOCAL_RANKS, first_number, launched, launcher_size, ranks_here
from ..host.slurm import accounting, seconds_left, start_up_list, this_job, warning_signal

Check = Callable[[], str]
FEW_FILES = 1024
NEED_MPI = ("messages", "device")  # checks that are left out when that of MPI fails


@dataclass(frozen=True)
class Finding:
    """The result of a check: its name, whether it passed, and what was found or what to do."""

    name: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.name:12} {self.text}"


def examine(folder: str | Path = ".") -> list[Finding]:
    """Run all checks from this process, with files in `folder`; under a launcher those of MPI and devices are collective."""
    checks: list[tuple[str, Check]] = [
        ("packages", _packages),
        ("MPI", _mpi),
        ("messages", _messages),
        ("threads", _threads),
        ("device", _device),
        ("HDF5", lambda: _hdf5(Path(folder))),
        ("locking", lambda: _locking(Path(folder))),
        ("write speed", lambda: _write_speed(Path(folder))),
        ("open files", _open_files),
        ("Slurm", _slurm),
    ]
    found: list[Finding] = []
    for name, check in checks:
        if name not in NEED_MPI or all(finding.ok for finding in found if finding.name == "MPI"):
            found.append(_finding(name, check))
    return found


def _finding(name: str, check: Check) -> Finding:
    try:
        return Finding(name, True, check())
    except Exception as error:  # a broken installation may fail in any way, and is reported like the rest
        return Finding(name, False, " ".join(str(error).split()))


def _packages() -> str:
    names = ("torch", "numpy", "h5py", "h5netcdf", "xarray", "mpi4py", "submitit", "netCDF4", "dask", "matplotlib")
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _mpi() -> str:
    key, announced = launcher_size()
    if not launched():
        return "no launcher, so serial; `mpiexec -n 2 piadm doctor` tests MPI"
    comm = world()
    hosts = sorted(set(comm.allgather(os.uname().nodename)))
    return f"{announced} ranks ({key}) on {len(hosts)} host(s) find each other; {library()}"


def _messages() -> str:
    """How messages travel, and whether the library is CUDA-aware."""
    if not launched():
        return "none without a launcher"
    words = {1: "the library is CUDA-aware, which is not needed", 0: "the library is not CUDA-aware, nor need it be"}
    return f"go through host memory; {words.get(_cuda_aware(), 'the library does not say whether it is CUDA-aware')}"


def _cuda_aware() -> int:
    """Whether the loaded MPI library reports that it is CUDA-aware: 1 or 0, or -1 if it does not tell."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        path = line.rsplit(None, 1)[-1]
        if "/libmpi" in path and ".so" in path and "fort" not in path:
            query = getattr(ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY), "MPIX_Query_cuda_support", None)
            if query is not None:
                return int(query() == 1)
    return -1


def _threads() -> str:
    local = ranks_here()
    cores, each = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if local > 1 and each * local > cores:
        advice = (
            f"set OMP_NUM_THREADS={cores // local}" if local <= cores else f"ask for at most {cores} ranks on a node like this"
        )
        raise RuntimeError(f"{local} ranks x {each} threads on {cores} cores slow each other down; {advice}")
    waits = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    return f"{each} per rank, {cores} cores visible" + (
        "" if waits else "; OMP_WAIT_POLICY=PASSIVE would keep them from spinning"
    )


def _device() -> str:
    """Which GPU every rank would use. Raises RuntimeError when ranks share one while another is idle."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mine = first_number(LOCAL_RANKS)[1] % count if count else 0
    name = f"{torch.cuda.get_device_name(mine)} {torch.cuda.get_device_properties(mine).uuid}" if count else ""
    places = world().allgather((os.uname().nodename, name, count)) if launched() else [(os.uname().nodename, name, count)]
    if not any(device for _, device, _ in places):
        return "cpu (no CUDA device is seen)"
    if blind := sorted({host for host, device, _ in places if not device}):
        raise RuntimeError(
            f"ranks on {', '.join(blind)} see no GPU while others do; ask for GPUs on every node (--gpus-per-node)"
        )
    for host in {place[0] for place in places}:
        ranks = [place for place in places if place[0] == host]
        used, there = len({device for _, device, _ in ranks}), max(devices for _, _, devices in ranks)
        if used < min(len(ranks), there):
            raise RuntimeError(
                f"{len(ranks)} ranks on {host} use {used} of {there} GPUs; give every rank its own, or all ranks all of them"
            )
    return f"{len({(host, device) for host, device, _ in places})} GPU(s) for {len(places)} rank(s): {places[0][1]}"


def _hdf5(folder: Path) -> str:
    from ..store.probe import probe

    return probe(folder)


def _locking(folder: Path) -> str:
    """Whether the file system has locks; every file has one writer, so HDF5 can do without where they fail or hang."""
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
        return "not asked for (HDF5_USE_FILE_LOCKING=FALSE)"
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".piadm-doctor-") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"{folder} has no file locks ({error.strerror}); set HDF5_USE_FILE_LOCKING=FALSE") from error
    return "works"


def _open_files() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        raise RuntimeError(
            f"at most {hard} per process; shards are merged to keep below that, `ulimit -n` up to {FEW_FILES} avoids it"
        )
    return f"{soft} per process, can be raised to {'any number' if hard == resource.RLIM_INFINITY else hard}"


def _slurm() -> str:
    """The job's time limit and the warning before it, and which commands and launch types the site has."""
    if not this_job():
        return "not in a job"
    left, restarts = seconds_left(), os.environ.get("SLURM_RESTART_COUNT", "0")
    limit = "no time limit" if left is None else f"{left / 60:.0f} min to the limit"
    warned = warning_signal(this_job())
    if left is not None and not warned:
        raise RuntimeError(
            f"job {this_job()} has {limit} and no warning before it; submit with --signal=USR2@180 (or B:USR1@180, as in jobs/)"
        )
    counted = "sacct answers" if accounting(this_job()) else "no sacct, nor is it needed"
    kinds = ", ".join(sorted(start_up_list())) or "unknown"
    return f"job {this_job()}, start {int(restarts) + 1}, {limit}, {warned or 'no warning'}; srun --mpi: {kinds}; {counted}"


def _write_speed(folder: Path) -> str:
    size = 32 * 2**20
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".piadm-doctor-") as file:
        start = time.perf_counter()
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
        return f"{size / 1e6 / (time.perf_counter() - start):.0f} MB/s to {folder.resolve()}"
