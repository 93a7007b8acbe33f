"""piadm report: draw the figure, costs and scores of a finished run."""

from __future__ import annotations

import argparse
from typing import Any

from ..config.validation import ConfigError
from .exit_codes import DONE
from .options import add_allow_code, add_select, selected


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("report", help="draw a figure of a finished run, with a table of its costs and scores")
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--baselines", type=int, default=0, metavar="N", help="also measure sequential baselines on N samples")
    parser.add_argument(
        "--against", metavar="FILE", help="compare with the fields of this file instead of the model's statistics"
    )
    parser.add_argument("--card", action="store_true", help="also write the scores into the model's card")
    add_select(parser)
    parser.add_argument("--pdf", action="store_true", help="also write every figure as a page of PDF")
    add_allow_code(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.report.report import report
    from ..run.reporting import set_up_logging

    if options.baselines < 0:
        raise ConfigError(f"--baselines {options.baselines}: give a number of samples from 1, or leave it out")
    if options.baselines:
        set_up_logging(root=True)
    given = {name: getattr(options, name) for name in ("baselines", "against", "card", "allow_code")}
    print(report(options.folder, **given, select=selected(options.select), pdf=options.pdf))
    return DONE
