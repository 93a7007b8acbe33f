"""piadm weigh: importance weights of samples towards a Boltzmann distribution or a posterior."""

from __future__ import annotations

import argparse
from typing import Any

from .exit_codes import DONE
from .options import add_allow_code


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "weigh", help="importance weights of samples, towards an energy, a posterior or measured averages"
    )
    parser.add_argument("folder", help="folder of the run")
    parser.add_argument(
        "--energy",
        metavar="NAME",
        help="openmm, lennard-jones, or module:callable, a function that returns U/kT; none for samples with observations",
    )
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="temperature for openmm [300]")
    parser.add_argument(
        "--force-field", nargs="+", default=["amber14-all.xml", "implicit/gbn2.xml"], metavar="FILE", help="files of openmm"
    )
    parser.add_argument(
        "--averages",
        metavar="FILE",
        help="table of averages over all conformers, such as of nuclear Overhauser effects, by maximum entropy",
    )
    parser.add_argument(
        "--theta", type=float, default=1.0, metavar="X", help="how much a change of the ensemble counts against --averages [1]"
    )
    parser.add_argument("--resample", type=int, metavar="N", help="store how often each sample occurs among N equal ones")
    parser.add_argument("--smooth", action="store_true", help="store weights with a smoothed tail (PSIS), which biases a little")
    add_allow_code(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.weights.weighing import weigh

    given = ("energy", "temperature", "force_field", "averages", "theta", "resample", "smooth", "allow_code")
    print(weigh(options.folder, **{name: getattr(options, name) for name in given}))
    return DONE
