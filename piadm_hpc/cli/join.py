"""piadm join: the index of a run, or one ordinary file."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("join", help="rebuild the index of a run")
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--copy", action="store_true", help="make one ordinary file instead of an index")
    parser.add_argument("--to", metavar="FILE", help="where the copy goes [samples.h5 in the folder]")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..store.folder import Store

    with Store.existing(options.folder) as store:
        print(store.join(options.copy, to=options.to))
    return DONE
