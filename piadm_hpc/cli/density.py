"""piadm density: densities of given fields under a model."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE
from .options import add_allow_code


def _traces(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("density", help="densities of given fields under a model: bits per dimension, maps of surprise")
    parser.add_argument("--model", required=True, help="name of a shipped model, or a model folder")
    parser.add_argument("--data", required=True, metavar="FILE", help="fields like the model's")
    parser.add_argument("--out", default="density.h5", metavar="FILE", help="file to write [density.h5]")
    parser.add_argument("--tol", type=float, default=1e-2, help="bound on the error of the encoded states [0.01]")
    parser.add_argument("--traces", type=_traces, default="auto", metavar="auto|exact|N", help="as in a run [auto]")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="fields solved together [4]")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N [cpu]")
    parser.add_argument("--model-batch", type=int, default=16, metavar="ROWS", help="largest number of rows of one network call")
    add_allow_code(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.density import density

    given = ("out", "tol", "traces", "batch", "device", "model_batch", "allow_code")
    print(density(options.model, options.data, **{name: getattr(options, name) for name in given}))
    return DONE
