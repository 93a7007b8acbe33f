"""The ledger of a run: one line of jobs/submissions.jsonl for every submission, from which its jobs can be found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config.validation import ConfigError
from ..host.slurm import job_states

JOBS = "jobs"
LEDGER = "submissions.jsonl"


def enter(out: Path, line: Mapping[str, Any]) -> None:
    """Append the line of a submission: its time, cluster, folder, length of its chain, and job numbers by run folder."""
    (out / JOBS).mkdir(parents=True, exist_ok=True)
    with open(out / JOBS / LEDGER, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def submissions(out: Path) -> list[dict[str, Any]]:
    """Read the submissions of a run or of a folder of runs, oldest first; lines that are not records are left out."""
    try:
        lines = (out / JOBS / LEDGER).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if _is_record(record):
                found.append(record)
    return found


def _is_record(record: Any) -> bool:
    """Whether a line of the ledger has the required fields with the right types."""
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("folder", "cluster")):
        return False
    jobs = record.get("jobs")
    return isinstance(jobs, dict) and all(isinstance(names, list) for names in jobs.values())


def living_jobs(out: Path) -> list[str]:
    """The jobs of earlier submissions that are queued or running for a folder."""
    found = []
    for record in submissions(out):
        names = [name for place, jobs in record["jobs"].items() for name in jobs if Path(place) == out]
        if record["cluster"] != "slurm" or not names:
            continue
        states = job_states(names) or {}
        # job numbers start again when a Slurm is set up again: a job is ours when it runs the script of this submission
        found += [name for name, state in states.items() if state.alive and state.command.startswith(record["folder"])]
    return found


def require_free(out: Path) -> None:
    """Raise ConfigError when a job is already queued or running for a folder."""
    if names := living_jobs(out):
        raise ConfigError(
            f"{out}: job {', '.join(names)} already works on this folder; wait for it (piadm status {out}), "
            f"end it (scancel {' '.join(names)}), or choose another --out"
        )
