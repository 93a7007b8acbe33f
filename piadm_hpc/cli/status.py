"""piadm status: the progress of a run, its jobs, and when the rest will be ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .exit_codes import DONE, FAILED, NOT_CONVERGED, STOPPED


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "status",
        help="samples drawn, jobs running or failed, and when the rest will be ready",
        epilog="exit codes: 0 complete; 1 failed, no job left; 3 complete, some not converged; 75 not complete yet",
    )
    parser.add_argument("folder", help="folder of a run, or of the runs of an array")
    parser.set_defaults(run=lambda options: show(Path(options.folder)))


def show(folder: Path) -> int:
    """Print the status of the runs in a folder; returns the exit code of the worst of them."""
    from ..submit import read_status

    found = read_status(folder)
    print("\n".join(map(str, found)))
    if any(status.failed for status in found):
        return FAILED
    if not all(status.complete for status in found):
        return STOPPED
    return NOT_CONVERGED if any(status.not_converged for status in found) else DONE


__all__ = ["add", "show"]
