"""piadm tune: choose the options of an integrator on a calibration batch."""

from __future__ import annotations

import argparse
from typing import Any

from ..config.validation import ConfigError
from .exit_codes import DONE
from .options import add_run_options, described_run

LARGEST_BATCH = 10_000


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "tune", help="choose an integrator's options (lam, lam_s, score_time, grid.exponent) on a calibration batch"
    )
    add_run_options(parser)
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="number of samples to calibrate on [4]")
    parser.add_argument(
        "--by",
        default="auto",
        choices=("auto", "error", "mmd"),
        help="distance to a converged path, or mmd of physical features",
    )
    parser.add_argument("--against", metavar="FILE", help="fields whose features are the target [converged samples]")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.tuning import read_states, tune
    from ..models.card import load_model
    from ..run.execute import device_of

    config = described_run(options)
    if not 1 <= options.batch <= LARGEST_BATCH:
        raise ConfigError(f"--batch {options.batch}: give a number of samples from 1 to {LARGEST_BATCH}")
    device = device_of(config)
    model = load_model(config.model, device, allow_code=config.allow_code)
    against = None if options.against is None else read_states(options.against, config.model, model)
    print(tune(config, model, samples=options.batch, by=options.by, against=against, device=device))
    return DONE
