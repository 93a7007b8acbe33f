"""piadm density: densities of given fields under a model, here or on the ranks of a launcher."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE
from .options import add_allow_code, speaks, whole_or_text


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("density", help="densities of given fields under a model: bits per dimension, maps of surprise")
    parser.add_argument("--model", required=True, help="name of a shipped model, or a model folder")
    parser.add_argument("--data", required=True, metavar="FILE", help="fields like the model's")
    parser.add_argument("--condition", metavar="FILE", help="the conditions of the fields, for a conditional model")
    parser.add_argument("--out", default="density.h5", metavar="FILE", help="file to write [density.h5]")
    parser.add_argument("--tol", type=float, default=1e-2, help="bound on the error of the encoded states [0.01]")
    parser.add_argument("--traces", type=whole_or_text, default="auto", metavar="auto|exact|N", help="as in a run [auto]")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="fields solved together [4]")
    parser.add_argument(
        "--time-ranks", type=whole_or_text, default="auto", metavar="N|auto", help="ranks that share one field [auto]"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--model-batch", type=int, default=16, metavar="ROWS", help="largest number of rows of one network call")
    add_allow_code(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.density import density

    given = ("condition", "out", "tol", "traces", "batch", "time_ranks", "device", "model_batch", "allow_code")
    text = density(options.model, options.data, **{name: getattr(options, name) for name in given})
    if speaks():
        print(text)
    return DONE
