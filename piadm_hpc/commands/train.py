"""piadm train: a model from data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..records import override, read
from . import DONE
from .options import add_set


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "train", help="fit a reference and a network to gridded data or trajectories; goes on where it stopped"
    )
    parser.add_argument("config", metavar="train.toml", help="configuration; `piadm init train` prints one")
    add_set(parser, "optimiser.steps=2000")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..models.config import ConformerTrainConfig, TrainConfig, trains_conformers
    from ..models.conformers import train_conformers
    from ..models.training import train

    changes = [override(text) for text in options.set]
    if trains_conformers(Path(options.config)):
        folder = train_conformers(read(ConformerTrainConfig, options.config, changes))
    else:
        folder = train(read(TrainConfig, options.config, changes))
    print(f"model: {folder}")
    return DONE
