"""piadm report: what a finished run shows."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("report", help="figure, table of costs and scores of a finished run")
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--baselines", type=int, default=0, metavar="N", help="also measure sequential baselines on N samples")
    parser.add_argument(
        "--against", metavar="FILE", help="compare with the fields of this file instead of the model's statistics"
    )
    parser.add_argument("--card", action="store_true", help="also write the scores into the model's card")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.report.report import report

    print(report(options.folder, baselines=options.baselines, against=options.against, card=options.card))
    return DONE
