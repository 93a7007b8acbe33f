"""Full disks, folders that are in use or read-only, and more shards than files that may be open."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pytest
from store_runs import assert_holds, create, in_child, run, values

from piadm_hpc.store.errors import StoreError
from piadm_hpc.store.files import DiskFile
from piadm_hpc.store.folder import Store
from piadm_hpc.store.index import write_copy
from piadm_hpc.store.lock import Holder, Lock
from piadm_hpc.store.reading import open_run


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[bool]:
    """Mount a file system of that size at `folder`; returns False where this machine does not allow it."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def fill_until_full(folder: Path, limit: int | None) -> None:
    """Finished shards survive a full disk, the unfinished one leaves no file, and the run completes once there is room."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with create(folder, range(8), 2, side=20_000) as store:
        store.write([0, 1], values([0, 1], 20_000), {})
        many = range(2, 40)
        with pytest.raises(StoreError, match=r"no room for samples_.*[kM]B are free; every finished shard is kept"):
            store.write(many, values(many, 20_000), {})
        assert [path.name for path in (folder / "shards").iterdir()] == ["samples_00000000_00000002.h5"]
        store.write([2, 3], values([2, 3], 20_000), {})
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit // 2, resource.RLIM_INFINITY))
            with pytest.raises(StoreError, match="no room"):
                store.merge(1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.join()
    assert_holds(folder, range(4), 20_000)


def test_limited_file_size(tmp_path: Path) -> None:
    in_child(lambda: fill_until_full(tmp_path / "run", 400_000))


def test_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1_000_000) as mounted:
        in_child(lambda: fill_until_full(tmp_path / "disk/run", None if mounted else 350_000))


@pytest.mark.parametrize("room", [0, 1_000, 20_000])
def test_hdf5_survives_a_failing_disk(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 itself ends the process when it closes a file that could not be flushed."""
    honest = os.pwrite

    def failing(handle: int, data: memoryview, offset: int) -> int:
        if offset + len(data) > room:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return honest(handle, data, offset)

    data = np.random.default_rng(0).standard_normal((20, 1000))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing)
        disk = DiskFile(tmp_path / "a.h5")
        with h5py.File(disk, "w") as file:
            file.create_dataset("u", data=data, chunks=(1, 1000))
            file.flush()
            np.testing.assert_array_equal(file["u"][...], data)
        with pytest.raises(OSError, match="uota"):
            disk.check()
        disk.release()


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "/proc"])
def test_folder_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot write in the folder .*(file|proc).*: .*; choose a folder"):
        create(tmp_path / place, range(3))


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    with create(tmp_path, range(3)) as store:
        in_child(lambda: refused(tmp_path, f"process {os.getppid()} on {socket.gethostname()}"))
        store.heartbeat()
        (tmp_path / ".lock").write_text("somebody else")
        with pytest.raises(StoreError, match="no longer held by this run"):
            store.heartbeat()
    assert (tmp_path / ".lock").read_text() == "somebody else"  # the lock belongs to the other process


def refused(folder: Path, words: str, **options: Any) -> None:
    with pytest.raises(StoreError) as caught:
        create(folder, range(3), **options)
    assert words in str(caught.value) and f"remove {folder / '.lock'}" in str(caught.value)


def test_locks_of_processes_that_ended_or_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_child(lambda: create(tmp_path, range(3)))  # the process ends without closing the store
    assert (tmp_path / ".lock").exists()
    create(tmp_path, range(3)).close()
    assert "that process has ended" in caplog.text and not (tmp_path / ".lock").exists()

    monkeypatch.setenv("SLURM_JOB_ID", "77")
    distant = {**Holder.here().__dict__, "host": "node7"}
    (tmp_path / ".lock").write_text(json.dumps(distant))
    refused(tmp_path, "on node7, job 77")
    hour_ago = time.time() - 3600
    os.utime(tmp_path / ".lock", (hour_ago, hour_ago))
    refused(tmp_path, "on node7, job 77")
    create(tmp_path, range(3), stale_hours=0.5).close()
    assert "no sign of life for 1.0 hours" in caplog.text

    (tmp_path / ".lock").write_text(json.dumps(distant))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    create(tmp_path, range(3)).close()
    assert "this job was restarted" in caplog.text


def test_lock_is_never_seen_half_made(tmp_path: Path) -> None:
    random = Random(4)

    def take_and_release() -> None:
        while True:
            Lock.take(tmp_path, stale_hours=2).release()

    for _ in range(25):
        in_child(take_and_release, kill_after=0.005 + 0.01 * random.random())
        Lock.take(tmp_path, stale_hours=2).release()
    assert not (tmp_path / ".lock").exists()


def test_lock_where_links_are_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    held = Lock.take(tmp_path, stale_hours=2)
    refused(tmp_path, f"process {os.getpid()}")
    held.release()
    (tmp_path / ".lock").touch()  # a process is killed between the two calls that this takes
    refused(tmp_path, "an unknown process")
    two_minutes_ago = time.time() - 120
    os.utime(tmp_path / ".lock", (two_minutes_ago, two_minutes_ago))
    create(tmp_path, range(3)).close()
    assert [path.name for path in tmp_path.glob(".lock*")] == []


def test_few_open_files_allowed(tmp_path: Path) -> None:
    with create(tmp_path, range(600), 1, side=8) as store:
        for ids in store.batches():
            store.write(ids, values(ids, 8), {})
        store.join(max_shards=1000)
    assert_holds(tmp_path, range(600), 8)

    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with pytest.raises(StoreError, match=r"needs 600 files open at once, .* \d+ more: raise the limit with `ulimit -n`"):
            open_run(tmp_path)
        with Store.existing(tmp_path) as store:
            store.join(copy=True, to=tmp_path / "one.h5")
            store.join()
        assert_holds(tmp_path, range(600), 8)
        assert_holds(tmp_path / "one.h5", range(600), 8)

    in_child(narrow)


def test_soft_limit_of_open_files_is_raised(tmp_path: Path) -> None:
    def soft() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        run(tmp_path, range(200), 8)
        assert_holds(tmp_path, range(200), 8)

    in_child(soft)


def test_a_growing_run_stays_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of similar size are merged, so that files are few and each sample is copied a few times, however long the run."""
    copied = []
    monkeypatch.setattr(
        "piadm_hpc.store.folder.write_copy", lambda *a, **k: (copied.append(len(a[1].ids)), write_copy(*a, **k))[1]
    )
    with create(tmp_path, range(700), 1, side=4) as store:
        for number, ids in enumerate(store.batches()):
            store.write(ids, values(ids, 4), {})
            store.compact(40)
            if number % 50 == 0:
                assert len(list((tmp_path / "shards").iterdir())) <= 40
                assert sum(map(len, store.missing())) == 699 - number
        store.join()
    assert sum(copied) < 4 * 700
    assert_holds(tmp_path, range(700), 4)


def test_a_thousand_shards(tmp_path: Path) -> None:
    with create(tmp_path, range(1000), 1, side=8) as store:
        for ids in store.batches():
            store.write(ids, values(ids, 8), {"seed": np.ones(1, int)})
        clock = [time.perf_counter()]
        store.join()
        clock.append(time.perf_counter())
    with open_run(tmp_path) as dataset:
        clock.append(time.perf_counter())
        np.testing.assert_array_equal(dataset["u"].values, values(range(1000), 8)["u"])
    join_seconds, open_seconds = np.diff(clock)
    print(f"1000 shards: joined in {join_seconds:.2f} s, opened in {open_seconds:.2f} s")
    assert join_seconds < 30 and open_seconds < 5  # ten times the time on an idle core
