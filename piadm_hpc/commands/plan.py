"""piadm plan: what a run will cost, before it runs."""

from __future__ import annotations

import argparse
from typing import Any

from . import DONE
from .options import add_run_options, described_run, speaks


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("plan", help="what a run will cost: rounds, calls, memory per rank, output, time")
    add_run_options(parser)
    parser.add_argument("--ranks", type=int, help="plan for this many ranks instead of the present ones")
    parser.add_argument("--memory", type=float, metavar="GB", help="of a rank, to arrange points by [its share of this host's]")
    parser.add_argument("--pilot", action="store_true", help="solve one sample to measure its sweeps")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the plan of the run that the options describe; returns the exit code."""
    from ..planning import plan

    made = plan(described_run(options), ranks=options.ranks, pilot=options.pilot, memory=options.memory)
    if speaks():
        print(made)
    return DONE
