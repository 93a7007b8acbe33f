"""piadm integrators: list all integrators."""

from __future__ import annotations

import argparse
from typing import Any

from ..integrators.catalogue import listing
from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "integrators", help="list all integrators with their order, cost, randomness, options and source"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    print(listing())
    return DONE
