"""The lock of a folder: one run at a time writes there."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from ..host.slurm import step_over, this_job
from .errors import StoreError

log = logging.getLogger(__name__)
LOCK = ".lock"
STALE_HOURS = 2.0
UNWRITTEN_HOURS = 1 / 60  # the text of a lock follows its name at once: if it is empty after a minute, its process was killed


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder; `born` distinguishes it from a later process with the same number."""

    host: str
    pid: int
    born: str
    job: str
    step: str
    restarts: int
    started: str
    token: str

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.started}"

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """Read a holder from the text of a lock; None for text that a run did not write, or has not written yet."""
        try:
            values = json.loads(text)
            kinds = {field.name: int if field.name in ("pid", "restarts") else str for field in fields(cls)}
            return cls(**values) if all(type(values[name]) is kind for name, kind in kinds.items()) else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    @classmethod
    def here(cls) -> Holder:
        """This process as a holder."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            born=_born(os.getpid()),
            job=this_job(),
            step=os.environ.get("SLURM_STEP_ID", ""),
            restarts=int(restarts) if (restarts := os.environ.get("SLURM_RESTART_COUNT", "")).isdecimal() else 0,
            started=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            token=uuid.uuid4().hex,
        )


@dataclass(frozen=True)
class Lock:
    """A lock file that this process holds until it releases it."""

    path: Path
    text: str

    @classmethod
    def take(cls, folder: Path, *, stale_hours: float) -> Lock:
        """Lock `folder`. Raises StoreError that names the holder while another run works there.

        A lock is taken over from a process of this host that has ended, from an earlier start of this job, from a job that
        Slurm knows to be over, and from another host when its last heartbeat is more than `stale_hours` old.
        """
        path = folder / LOCK
        text = json.dumps(asdict(Holder.here()))
        for _ in range(8):
            try:
                _create(path, text)
                return cls(path, text)
            except FileExistsError:
                _clear(path, stale_hours)
            except OSError as error:
                raise StoreError(f"cannot lock {folder}: {error.strerror or error}; choose a folder you may write") from error
        raise StoreError(f"cannot lock {folder}: several runs are trying to take it at once; start only one of them")

    def heartbeat(self) -> None:
        """Show other hosts that this run is alive. Raises StoreError when another run has taken the folder."""
        if _text(self.path) != self.text:
            raise StoreError(f"{self.path} is no longer held by this run; another one took the folder over: stop one of the two")
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Remove the lock, unless another run has taken it."""
        if _text(self.path) == self.text:
            self.path.unlink(missing_ok=True)


def holder_of(folder: Path, *, stale_hours: float = STALE_HOURS) -> str:
    """Describe the process that holds a folder, as far as its lock and Slurm tell; empty when no run works there."""
    path = folder / LOCK
    text = _text(path)
    if text is None:
        return ""
    holder = Holder.parse(text)
    return "" if _over(path, holder, stale_hours if text else UNWRITTEN_HOURS) else str(holder or "an unknown process")


def _create(path: Path, text: str) -> None:
    """Create the lock with its text in one step. Raises FileExistsError when there is one.

    A process may be killed between any two calls, and a lock without text would not name its holder, so that nothing could tell
    whether the holder is gone. The text is therefore written under another name, and that file is linked to the lock's.
    """
    draft = _aside(path)
    try:
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            raise
        except OSError:  # without hard links the text follows the name, and `_over` allows for the gap
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            try:
                os.write(handle, text.encode())
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(handle)
    finally:
        draft.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    """Make up a name beside the lock, and remove files under such names that processes killed long ago have left."""
    for old in path.parent.glob(f"{LOCK}.*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > 86_400:
                old.unlink()
    return path.with_name(f"{LOCK}.{uuid.uuid4().hex}")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _clear(path: Path, stale_hours: float) -> None:
    """Remove the lock of a run that is over. Raises StoreError when the run may still be alive."""
    text = _text(path)
    if text is None:
        return
    holder = Holder.parse(text)
    reason = _over(path, holder, stale_hours if text else UNWRITTEN_HOURS)
    if not reason:
        owner = holder or "an unknown process"
        raise StoreError(
            f"{path.parent} is being written by {owner}; wait for it or choose another folder"
            f" (if that run is certainly over, remove {path} and start again)"
        )
    # renamed, then compared: of two runs that see the same dead lock only one may continue
    aside = _aside(path)
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _text(aside) != text:
        with suppress(OSError):
            os.link(aside, path)
    else:
        log.warning("taking %s over from %s: %s", path.parent, holder or "an unknown process", reason)
    aside.unlink(missing_ok=True)


def _over(path: Path, holder: Holder | None, stale_hours: float) -> str:
    """The reason why the holder has certainly ended; empty when it may be alive. Of an unknown holder only the age counts."""
    here = Holder.here()
    if holder is not None and holder.host == here.host:
        return "" if _born(holder.pid) == holder.born and _alive(holder.pid) else "that process has ended"
    if holder is not None and holder.job and holder.job == here.job and holder.restarts < here.restarts:
        return "this job was restarted"
    if holder is not None and holder.job and step_over(holder.job, holder.step):
        return f"Slurm says that job {holder.job} no longer works there"
    hours = _age(path) / 3600
    return f"no sign of life for {hours:.1f} hours" if hours > stale_hours else ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _born(pid: int) -> str:
    """When a process started, in clock ticks since boot; "over" for one that has ended but is not reaped; empty if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "over" if fields[0] in "ZX" else fields[19]


def _age(path: Path) -> float:
    """Seconds since the last heartbeat by the clock of the file server, since the clocks of two hosts may disagree."""
    probe = _aside(path)
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - path.stat().st_mtime
    except OSError:
        return 0.0
