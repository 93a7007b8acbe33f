"""piadm integrators: every method by name."""

from __future__ import annotations

import argparse
from typing import Any

from ..integrators.catalogue import listing
from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("integrators", help="list the integrators: order, calls a step, randomness, options, source")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    print(listing())
    return DONE
