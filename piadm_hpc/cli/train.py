"""piadm train: fit a model to data."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE
from .options import add_set


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "train", help="fit a reference and a network to gridded data or trajectories; an interrupted training continues"
    )
    parser.add_argument("config", metavar="train.toml", help="configuration; `piadm init train` prints one")
    add_set(parser, "optimiser.steps=2000")
    parser.add_argument("--no-probe", action="store_true", help="do not probe the model for faster sampling (`piadm reference`)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..models.training.command import train
    from ..run.probe import PROBED_ROWS, probe_trained

    folder = train(options.config, changes=options.set, afterwards=0 if options.no_probe else PROBED_ROWS)
    if not options.no_probe:
        probe_trained(folder)
    print(f"model: {folder}")
    return DONE
