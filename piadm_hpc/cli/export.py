"""piadm export: write samples in the formats of other programs."""

from __future__ import annotations

import argparse
from typing import Any

from ..config.samples import parse_ids
from ..config.validation import ConfigError
from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("export", help="write samples as xtc, dcd or pdb (conformers), netcdf or zarr (fields)")
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--to", default="netcdf", choices=("xtc", "dcd", "pdb", "netcdf", "zarr"), help="the format [netcdf]")
    parser.add_argument("--out", metavar="FILE", help="file to write [samples with the usual suffix, in the folder]")
    parser.add_argument("--absolute", action="store_true", help="fields: add the climatology of a model of anomalies")
    parser.add_argument(
        "--month",
        metavar="MONTHS",
        help="with --absolute: month of the climatology, or months in turn, such as 1-12",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.export import export

    month = None if options.month is None else _months(options.month)
    print(export(options.folder, options.to, options.out, absolute=options.absolute, month=month))
    return DONE


def _months(text: str) -> tuple[int, ...]:
    try:
        return parse_ids(text)
    except ConfigError:
        raise ConfigError(f"--month {text!r}: give months from 1 to 12, such as 7, 1-12 or 12,1,2") from None
