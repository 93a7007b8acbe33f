"""Does the machine fit: MPI, ranks, threads, devices, HDF5, file system; every failing check says what to do."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .comm import library, world
from .launcher import launched, launcher_size

Check = Callable[[], str]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is well, and what was found or what to do."""

    name: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.name:12} {self.text}"


def examine(folder: str | Path = ".") -> list[Finding]:
    """All checks, from this process; under a launcher the MPI check is collective."""
    checks: list[tuple[str, Check]] = [
        ("packages", _packages),
        ("MPI", _mpi),
        ("threads", _threads),
        ("device", _device),
        ("HDF5", lambda: _hdf5(Path(folder))),
        ("write speed", lambda: _write_speed(Path(folder))),
    ]
    return [_finding(name, check) for name, check in checks]


def _finding(name: str, check: Check) -> Finding:
    try:
        return Finding(name, True, check())
    except Exception as error:  # a broken installation may fail in any way; the point is to say so
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


def _threads() -> str:
    local = max(1, launcher_size()[1])
    cores, each = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if local > 1 and each * local > cores:
        raise RuntimeError(
            f"{local} ranks x {each} threads on {cores} cores slow each other down; set OMP_NUM_THREADS={max(1, cores // local)}"
        )
    return f"{each} per rank, {cores} cores visible"


def _device() -> str:
    if not torch.cuda.is_available():
        return "cpu (no CUDA device is seen)"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _hdf5(folder: Path) -> str:
    from .store import probe

    return probe(folder)


def _write_speed(folder: Path) -> str:
    size = 32 * 2**20
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".piadm-doctor-") as file:
        start = time.perf_counter()
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
        return f"{size / 1e6 / (time.perf_counter() - start):.0f} MB/s to {folder.resolve()}"
