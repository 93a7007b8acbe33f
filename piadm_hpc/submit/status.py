"""The status of a run: its progress, its jobs and processes, when the rest will be ready, and its errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ..config.run import RunConfig
from ..config.validation import ConfigError, read
from ..host.slurm import GONE, JobState, job_states
from ..run.reporting import how_to_open, read_events, span
from ..store.index import INDEX
from ..store.lock import holder_of
from ..store.packs.records import PLACE as PACKED
from ..store.packs.records import ZARR
from ..store.requested import members_wanted, requested
from ..store.settings import RUN_FILE
from ..store.shard import drawn_samples
from ..store.statistics.output import STATISTICS
from ..store.statistics.parts import PLACE
from .ledger import submissions


@dataclass(frozen=True)
class RunStatus:
    """The status of one run: its samples, its jobs as Slurm knows them, the process that holds it, and its latest events.

    `not_converged` counts the samples marked as such; `holder` is empty when no process works in the folder.
    """

    folder: Path
    total: int
    drawn: int
    not_converged: int
    joined: bool
    jobs: tuple[JobState, ...]
    progress: dict[str, Any] | None
    last: dict[str, Any] | None
    holder: str = ""

    @property
    def complete(self) -> bool:
        """Every sample is drawn, and the index is there."""
        return self.drawn >= self.total and self.joined

    @property
    def alive(self) -> bool:
        """A job or a process is working on it."""
        return bool(self.holder) or any(job.alive for job in self.jobs)

    @property
    def failed(self) -> bool:
        """Samples are missing, nothing is working on it, and its last event is not a requested stop."""
        return not self.complete and not self.alive and (self.last is not None or bool(self.jobs)) and not self._stopped

    @property
    def _stopped(self) -> bool:
        return self.last is not None and self.last["event"] == "stopped"

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.drawn} of {self.total} samples drawn" + self._marked()]
        lines += [f"  job {job.job}: {_job_line(job)}" for job in self.jobs]
        if self.holder:
            lines.append(f"  at work: {self.holder}")
        if self.alive and self.progress is not None:
            lines.append(f"  {_progress_line(self.progress)}")
        if self.last is not None and self.last["event"] == "failed":
            lines.append(f"  failed at {self.last['time']} on rank {self.last.get('rank')}: {self.last.get('message')}")
        if self.complete:
            statistics = not members_wanted(self.folder)
            lines.append(f"  complete; open with:  {how_to_open(self.folder, statistics=statistics)}")
        elif self.failed:
            lines.append("  no job or process is left: submit the same run again, only missing samples are drawn")
        elif not self.alive and self._stopped:
            lines.append("  stopped on request: submit the same run again to continue")
        return "\n".join(lines)

    def _marked(self) -> str:
        return f", {self.not_converged} of them not converged by themselves (marked)" if self.not_converged else ""


def read_status(folder: str | Path) -> list[RunStatus]:
    """Read the status of the run in `folder`, or of the runs of an array below it. Raises ConfigError when there is none."""
    root = Path(folder).absolute()
    outs = list(dict.fromkeys(Path(out) for record in submissions(root) for out in record["jobs"]))
    found = [_status(out) for out in (outs or [root])]
    if all(status is None for status in found):
        raise ConfigError(f"{root}: no run has begun here, and none was submitted; give the folder of a run")
    return [status for status in found if status is not None]


def _status(out: Path) -> RunStatus | None:
    records = submissions(out)
    config = _configuration(out, records)
    if config is None:
        return None
    members = members_wanted(out)
    ids, not_converged = drawn_samples(out, PACKED, *([] if members else [PLACE]))
    # a submission may have requested more samples than the folder records, since its job has not begun
    wanted = {*(requested(out) or config.ids), *(config.ids if records else ())}
    events = [event for event in read_events(out) if isinstance(event.get("event"), str) and "time" in event]
    progress = next((event for event in reversed(events) if event["event"] == "progress"), None)
    last = next((event for event in reversed(events) if event["event"] in ("started", "stopped", "failed", "done")), None)
    return RunStatus(
        out,
        len(wanted),
        len(ids.intersection(wanted)),
        not_converged,
        _file_to_open(out).exists(),
        _jobs(out, records),
        progress,
        last,
        holder_of(out),
    )


def _file_to_open(out: Path) -> Path:
    """The file to open once a run is complete: its index, its statistics if it has no samples, or its Zarr store."""
    if not members_wanted(out):
        return out / STATISTICS
    return out / ZARR if (out / PACKED).is_dir() else out / INDEX


def _configuration(out: Path, records: Sequence[dict[str, Any]]) -> RunConfig | None:
    """The newest configuration: more samples may have been requested since the run began."""
    for record in reversed(records):
        for file in sorted(Path(record["folder"]).glob("run-*.toml")):
            # another user cannot read the folder of a submission, and whoever wrote into it may have written anything
            with suppress(ConfigError):
                config = read(RunConfig, file)
                if Path(config.out) == out:
                    return config
    return read(RunConfig, out / RUN_FILE) if (out / RUN_FILE).is_file() else None


def _jobs(out: Path, records: Sequence[dict[str, Any]]) -> tuple[JobState, ...]:
    """The jobs of the latest submission that are queued or running, or all of them when none is."""
    for record in reversed(records):
        names = record["jobs"].get(str(out), [])
        if record["cluster"] != "slurm" or not names:
            continue
        states = job_states(names)
        if states is None:
            return tuple(JobState(name, "UNKNOWN") for name in names)
        # job numbers start again when a Slurm is set up again
        ours = [s if s.command.startswith(record["folder"]) else JobState(s.job, GONE) for s in states.values()]
        return tuple([state for state in ours if state.alive] or ours)
    return ()


def _job_line(job: JobState) -> str:
    if job.state == GONE:
        return "over, Slurm has forgotten it"
    if job.state == "PENDING":
        start = "" if job.start in ("", "N/A") else f", expected to start at {job.start}"
        return f"waiting ({job.reason}){start}"
    left = "" if job.left is None or not job.alive else f", {span(job.left)} to its limit"
    return f"{job.state.lower()} on {job.nodes}{left}" if job.nodes else job.state.lower()


def _progress_line(event: dict[str, Any]) -> str:
    """The latest progress in words; an event written by somebody else may contain anything."""
    try:
        return _progress_words(event)
    except (KeyError, TypeError, ValueError, OverflowError):
        return "its last line of progress cannot be read"


def _progress_words(event: dict[str, Any]) -> str:
    written = datetime.fromisoformat(event["time"])
    if event["left"] is None:
        return f"{event['note']} at {event['time']}; no sample is done yet, so nobody knows how long the rest takes"
    ready = written + timedelta(seconds=float(event["left"]))
    left = max(0.0, ready.timestamp() - time.time())
    return (
        f"{event['done']}/{event['total']} {event['unit']} at {event['time']}, {float(event['rate']):.3g} {event['unit']}/s; "
        f"the rest in about {span(left)}, at {ready.astimezone():%Y-%m-%d %H:%M}"
    )
