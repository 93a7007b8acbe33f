"""piadm join: the index over the shards of a run, or one ordinary file of all its samples."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .exit_codes import DONE, EXIT_CODES, STOPPED


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("join", help="rebuild the index of a run, or copy its samples into one file", epilog=EXIT_CODES)
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--copy", action="store_true", help="write one ordinary file instead of an index")
    parser.add_argument("--to", metavar="FILE", help="path of the copy [samples.h5 in the folder]")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..store.folder import Store
    from ..store.requested import in_words

    with Store.existing(options.folder) as store:
        print(store.join(options.copy, to=options.to))
        left = store.absent()
    if left:
        print(
            f"{len(left)} of {len(store.samples)} samples asked for are missing ({in_words(left)}): "
            "run the same `piadm sample` again, which draws only these",
            file=sys.stderr,
        )
    return STOPPED if left else DONE
