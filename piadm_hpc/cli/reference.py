"""piadm reference: probe a model, or fit a reference to data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..config.validation import ConfigError
from .exit_codes import DONE
from .options import add_allow_code

MOST_PROBED = 10_000
"""Samples, probes and levels of a pilot run, whose response is kept in memory."""


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("reference", help="improve the preconditioner: probe the model, or fit a reference to data")
    parser.add_argument("model", help="name of a shipped model, or a model folder")
    parser.add_argument("--data", metavar="FILE", help="fit mean and spectrum to these fields (or a run's samples.h5) instead")
    parser.add_argument("--condition", metavar="FILE", help="probe a conditional model under the conditions of this file")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="number of samples of the pilot run [8]")
    parser.add_argument("--probes", type=int, default=2, metavar="N", help="random probes per sample and noise level [2]")
    parser.add_argument("--levels", type=int, default=24, metavar="N", help="number of noise levels [24]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pilot run and the probes [0]")
    parser.add_argument("--out", metavar="FILE", help="file to write; a probed response goes into the model's folder by default")
    add_allow_code(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..data.mistakes import gathered
    from ..run.probe import probe_model, refit
    from ..store.arrays import require_replaceable

    given = {name: (getattr(options, name), least) for name, least in (("samples", 1), ("probes", 1), ("levels", 3))}
    mistakes = [f"--{name} must be at least {least}" for name, (value, least) in given.items() if value < least]
    mistakes += [f"--{name} must be at most {MOST_PROBED}" for name, (value, _) in given.items() if value > MOST_PROBED]
    if not 0 <= options.seed < 2**63:
        mistakes.append("--seed must be from 0 to 2^63 - 1")
    if options.data is not None and options.out is None:
        mistakes.append("--data needs --out, the file to write")
    if options.data is not None and options.condition is not None:
        mistakes.append("--condition is for probing: leave it out with --data")
    if options.out is not None and not Path(options.out).absolute().parent.is_dir():
        mistakes.append(f"--out {options.out}: there is no folder {Path(options.out).parent}; create it first")
    elif options.out is not None:
        with gathered(mistakes):
            require_replaceable(Path(options.out), "--out", ("reference of ", "mean response of "))
    if mistakes:
        raise ConfigError("; ".join(mistakes))
    if options.data is not None:
        path = refit(options.model, options.data, options.out, allow_code=options.allow_code)
        print(f"reference: {path}\nuse it with:  --set solver.reference={path}")
        return DONE
    path = probe_model(
        options.model,
        samples=options.samples,
        probes=options.probes,
        levels=options.levels,
        seed=options.seed,
        condition=options.condition,
        out=options.out,
        allow_code=options.allow_code,
    )
    print(f"response: {path}")
    return DONE
