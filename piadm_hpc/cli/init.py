"""piadm init: print a commented configuration to start from."""

from __future__ import annotations

import argparse
from typing import Any

from ..config.templates import KINDS, template
from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("init", help="print a commented configuration to start from")
    parser.add_argument("kind", nargs="?", default="climate", choices=tuple(KINDS))
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    print(template(options.kind), end="")
    return DONE
