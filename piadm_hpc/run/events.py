"""What happened in a run, for programs: events.jsonl in its folder, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class EventLog:
    """Lines of events.jsonl, from the root alone: {"time", "event", "job", ...}."""

    folder: Path
    speaks: bool

    def write(self, event: str, *, always: bool = False, **more: Any) -> None:
        """Add an event; `always` also from other ranks. A full disk loses the line: what cannot be stored says so itself."""
        if not (self.speaks or always):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        job = {"job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {}
        line = json.dumps({"time": now, "event": event, **job, **more})
        with suppress(OSError):
            handle = os.open(self.folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                # one call, so that lines of two processes never mix
                os.write(handle, f"{line}\n".encode())
            finally:
                os.close(handle)


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, oldest first; a line cut short by a kill or a full disk is left out."""
    try:
        lines = (folder / EVENTS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event
