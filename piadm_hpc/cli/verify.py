"""piadm verify: compare samples with real fields or conformers."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE
from .options import add_select, selected


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("verify", help="compare samples with real fields or conformers: tables, HTML page, JSON")
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--against", metavar="FILE", help="real fields or conformers [those shipped with the model]")
    parser.add_argument(
        "--truth", metavar="FILE",
        help="fields: observations, for the fair CRPS and the rank histogram; forecasts: fields with dates, from the starts on",
    )  # fmt: skip
    parser.add_argument("--training", metavar="FILE", help="fields: training data, for distances to its nearest members")
    parser.add_argument("--withheld", metavar="FILE", help="fields: observations withheld from a posterior")
    parser.add_argument("--energy", metavar="MODULE:FUNCTION", help="conformers: energy of positions [n, atoms, 3] in nm")
    add_select(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.verify.verification import verify

    given = {name: getattr(options, name) for name in ("against", "truth", "training", "energy", "withheld")}
    print(verify(options.folder, **given, select=selected(options.select)))
    return DONE
