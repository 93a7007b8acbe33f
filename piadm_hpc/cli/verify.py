"""piadm verify: samples against real fields or conformers."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("verify", help="compare samples with real fields or conformers: tables, one HTML page, JSON")
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--against", metavar="FILE", help="real fields or conformers [what travels with the model]")
    parser.add_argument("--truth", metavar="FILE", help="fields: what happened, for fair CRPS and rank histogram")
    parser.add_argument("--training", metavar="FILE", help="fields: what was learned from, for distances to the nearest of them")
    parser.add_argument("--energy", metavar="MODULE:FUNCTION", help="conformers: energies of positions [n, atoms, 3] in nm")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.verify.verification import verify

    given = {name: getattr(options, name) for name in ("against", "truth", "training", "energy")}
    print(verify(options.folder, **given))
    return DONE
