"""piadm check: whether a run is whole, or a configuration is valid."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..config.run import RunConfig
from ..config.validation import read
from .exit_codes import DONE, FAILED
from .options import is_training


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "check", help="verify that every sample of a run is there and whole, or that a configuration is valid"
    )
    parser.add_argument("path", help="folder of a run, its samples.h5, or a configuration of a run or of a training")
    parser.add_argument("--deep", action="store_true", help="read every value too")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if Path(options.path).suffix == ".toml":
        print(_read(Path(options.path)))
        return DONE
    from ..store.integrity import check

    found = check(options.path, deep=options.deep)
    print(found)
    return DONE if found.ok else FAILED


def _read(path: Path) -> str:
    """Read a configuration of a run, or of a training, which has a section `data`. Raises ConfigError."""
    if is_training(path):
        from ..models.config import load_config

        load_config(path)
        return f"{path}: a valid configuration of a training"
    read(RunConfig, path)
    return f"{path}: a valid configuration"
