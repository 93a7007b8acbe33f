"""piadm rollout: forecasts of many members and leads from the starts in a file, here or on the ranks of a launcher."""

from __future__ import annotations

import argparse
from typing import Any

from ..config.validation import ConfigError
from . import sample
from .exit_codes import EXIT_CODES
from .options import add_run_options


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "rollout",
        help="forecasts: samples conditioned on those before them; continues with what is missing",
        epilog=EXIT_CODES,
    )
    add_run_options(parser)
    parser.add_argument("--init", metavar="FILE", help="the starts: fields with dates, or the model's inputs by name")
    parser.add_argument("--leads", type=int, metavar="N", help="number of leads from every start")
    parser.add_argument("--overwrite", action="store_true", help="start again; without it finished leads are kept")
    parser.set_defaults(run=_run, plan=False)


def _run(options: argparse.Namespace) -> int:
    if options.init is not None and options.condition is not None:
        raise ConfigError("--init and --condition both name the file of starts; give one of them")
    options.condition = options.init or options.condition
    options.set = [*options.set, *([] if options.leads is None else [f"rollout.leads={options.leads}"])]
    return sample.draw(options, forecasts=True)
