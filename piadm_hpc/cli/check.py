"""piadm check: whether a run is whole, or a configuration valid."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..config.run import RunConfig
from ..config.validation import read
from .exit_codes import DONE, FAILED


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("check", help="verify that every shard of a run is there and whole, or read a configuration")
    parser.add_argument("path", help="folder of a run, its samples.h5, or a run.toml")
    parser.add_argument("--deep", action="store_true", help="read every value too")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if Path(options.path).suffix == ".toml":
        read(RunConfig, options.path)
        print(f"{options.path}: a valid configuration")
        return DONE
    from ..store.integrity import check

    found = check(options.path, deep=options.deep)
    print(found)
    return DONE if found.ok else FAILED
