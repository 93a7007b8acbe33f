"""piadm train: a model from data."""

from __future__ import annotations

import argparse
from typing import Any

from ..records import override, read
from . import DONE
from .options import add_set


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("train", help="fit a reference and a network to gridded data; goes on where it stopped")
    parser.add_argument("config", metavar="train.toml", help="configuration; `piadm init train` prints one")
    add_set(parser, "optimiser.steps=2000")
    parser.add_argument("--no-probe", action="store_true", help="leave out what `piadm reference` finds for faster sampling")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..models.config import TrainConfig
    from ..models.training import train
    from ..references import probe_trained

    folder = train(read(TrainConfig, options.config, [override(text) for text in options.set]))
    if not options.no_probe:
        probe_trained(folder)
    print(f"model: {folder}")
    return DONE
