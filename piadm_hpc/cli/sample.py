"""piadm sample: draw the samples of a run here, serially or on the ranks of a launcher."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..config.validation import ConfigError
from . import plan
from .exit_codes import DONE, EXIT_CODES, NOT_CONVERGED
from .options import add_run_options, described_run


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "sample", help="run here, serially or under mpiexec / srun; continues with what is missing", epilog=EXIT_CODES
    )
    add_run_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="start again; without it finished shards are kept")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    parser.set_defaults(run=_run, ranks=None, pilot=False, memory=None)


def _run(options: argparse.Namespace) -> int:
    return plan.run(options) if options.plan else draw(options)


def draw(options: argparse.Namespace, *, forecasts: bool = False) -> int:
    """Draw the run that a command line describes, and log its cost. ConfigError for forecasts without a number of leads."""
    from ..run.execute import execute
    from ..run.reporting import how_to_open, logger

    config = described_run(options)
    if forecasts and config.rollout.leads is None:
        raise ConfigError("rollout.leads: say how many leads to forecast, with --leads N or in the section [rollout]")
    summary = execute(config, overwrite=options.overwrite, command=" ".join(["piadm", *sys.argv[1:]]))
    for line in summary.lines(config.solver.tol):
        logger.info(line)
    if summary.not_converged:
        logger.info("%d samples did not meet the tolerance by themselves; they are marked converged = 0", summary.not_converged)
    for statistics in [False] * config.output.members + [True] * bool(config.statistics.kinds):
        logger.info("open with:  %s", how_to_open(Path(config.out), statistics=statistics))
    return NOT_CONVERGED if summary.not_converged else DONE
