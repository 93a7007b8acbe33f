"""piadm doctor: check whether this machine can run the package, and how well."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE, FAILED
from .options import speaks


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("doctor", help="test MPI, devices, HDF5 and the file system, here or on the ranks of a launcher")
    parser.add_argument("--folder", default=".", help="folder whose file system to test [.]")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from .diagnosis import examine

    findings = examine(options.folder)
    if speaks():
        print("\n".join(str(finding) for finding in findings))
    return DONE if all(finding.ok for finding in findings) else FAILED
