"""Files that appear complete or not at all, and the number of files that may be open at once."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from .errors import StoreError

PARTIAL = ".partial"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE_FILES = 64


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class DiskFile(io.RawIOBase):
    """A file that HDF5 writes to, and that never reports a failure to HDF5 but keeps it in `error`.

    HDF5 ends the process (segmentation fault) when it closes a file that it could not flush. After the first failed write
    the remaining data are kept in memory, HDF5 closes the file as if all were well, and the caller raises `error` afterwards.
    """

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self.position = 0
        self.end = 0
        self.error: OSError | None = None
        self.unwritten: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + (0, self.position, self.end)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += os.pwrite(self.handle, view[done:], self.position + done)
        except OSError as error:
            self.error = error
        if done < len(view):
            self.unwritten.append((self.position, bytes(view)))
        self.position += len(view)
        self.end = max(self.end, self.position)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), max(0, self.end - self.position))
        found = os.pread(self.handle, size, self.position)
        view[:size] = found + bytes(size - len(found))
        for offset, data in self.unwritten:
            low, high = max(offset, self.position), min(offset + len(data), self.position + size)
            if low < high:
                view[low - self.position : high - self.position] = data[low - offset : high - offset]
        self.position += size
        return size

    def truncate(self, size: int | None = None) -> int:
        self.end = self.position if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self.handle, self.end)
        except OSError as error:
            self.error = error
        return self.end

    def check(self) -> None:
        """Raise the first failure, if there was one; called after each large write, so that little is kept in memory."""
        if self.error is not None:
            raise self.error

    def finish(self) -> None:
        """Flush to the disk, not only to the page cache; some file systems report here that they are full."""
        self.check()
        os.fsync(self.handle)

    def release(self) -> None:
        """Close the file."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


@contextmanager
def whole_file(path: Path, *, needed: int, libver: tuple[str, str] | None = None) -> Iterator[tuple[h5py.File, DiskFile]]:
    """Create an HDF5 file that gets the name `path` only when all of it is on disk; `needed` [bytes] is for the message.

    Raises StoreError, and removes what was written, when the disk is full or the folder cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        disk = DiskFile(partial)
        try:
            with h5py.File(disk, "w", libver=libver) as file:
                yield file, disk
            disk.finish()
        finally:
            disk.release()
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise StoreError(_writing_failed(path, error, needed)) from error
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _writing_failed(path: Path, error: OSError, needed: int) -> str:
    if error.errno not in FULL:
        return f"cannot write {path}: {error.strerror or error}; make the folder writable or choose another one, then start again"
    left = _size(free(path.parent))
    return (
        f"no room for {path.name} in {path.parent} ({error.strerror}): it needs about {_size(needed)} and {left}"
        " are free; every finished shard is kept, so free some space (or quota) and start again to draw what is missing"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


def free(folder: Path) -> int:
    """Bytes that an ordinary user may still write in the file system of `folder`."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, where the file system can."""
    with suppress(OSError):
        sync(folder)


def sync(path: Path) -> None:
    """Bring a file or folder from the page cache to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace the contents of the file at `path` by `text` in one step. Raises OSError."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def most_open_files() -> int:
    """The number of further files that this process could have open if its limit were raised as far as the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    opened = SPARE_FILES
    with suppress(OSError):
        opened += len(os.listdir("/proc/self/fd"))
    return (sys.maxsize if hard == resource.RLIM_INFINITY else hard) - opened


def allow_open_files(number: int) -> bool:
    """Raise the limit so that `number` more files can be open at once; False when the system does not allow that many.

    Beyond the limit HDF5 fills virtual datasets with missing values and reports nothing.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if number > most_open_files():
        return False
    wanted = number + 2 * SPARE_FILES + len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 4 * number
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else hard, hard))
    return True
