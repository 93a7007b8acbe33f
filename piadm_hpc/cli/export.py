"""piadm export: write samples in the formats of other programs."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("export", help="write samples as xtc, dcd or pdb (conformers), netcdf or zarr (fields)")
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument("--to", required=True, choices=("xtc", "dcd", "pdb", "netcdf", "zarr"), help="the format")
    parser.add_argument("--out", metavar="FILE", help="file to write [samples with the usual suffix, in the folder]")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.export import export

    print(export(options.folder, options.to, options.out))
    return DONE
