"""piadm compare: compare all methods on a model, at equal error."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field

from ..config.limits import MOST, Count, Many
from ..config.validation import ConfigError, Record, build
from .exit_codes import DONE
from .options import add_allow_code

if TYPE_CHECKING:
    from ..analysis.compare.benchmark import Entry

MOST_COMPARED = 10_000  # samples, all of which are solved together


def option_of(name: str) -> str:
    """The option that a name belongs to."""
    return f"--{name.replace('_', '-')}"


class Numbers(Record):
    """The numbers of a comparison, by the names of their options."""

    model_config = ConfigDict(alias_generator=option_of)

    samples: int = Field(ge=1, le=MOST_COMPARED)
    tol: float = Field(gt=0)
    steps: Count
    most_steps: int = Field(ge=4, le=MOST)
    latency: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    model_batch: Many | None


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("compare", help="compare the NFE and time of all methods on a model, at equal error")
    parser.add_argument("model", help="name of a shipped model, a model folder, or target-a, target-b, target-c (exact scores)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="number of samples for each method [4]")
    parser.add_argument("--tol", type=float, default=1e-2, help="error in units of the data's standard deviation [0.01]")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--ode",
        dest="sde",
        action="store_false",
        help="on the probability flow, relative to its converged path [default]",
    )
    kind.add_argument(
        "--sde",
        dest="sde",
        action="store_true",
        help="on stochastic chains, each relative to itself step by step",
    )
    parser.add_argument("--steps", type=int, default=48, metavar="N", help="with --sde: steps of the chain [48]")
    parser.add_argument("--most-steps", type=int, default=512, metavar="N", help="leave out methods that need more steps [512]")
    parser.add_argument("--accelerators", default="1,8,32", metavar="P,P", help="numbers to project the time to [1,8,32]")
    parser.add_argument("--latency", type=float, default=2e-5, metavar="S", help="latency of a message in seconds [2e-5]")
    parser.add_argument("--bandwidth", type=float, default=1e10, metavar="B", help="bandwidth in bytes a second [1e10]")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N [cpu]")
    parser.add_argument("--model-batch", type=int, metavar="ROWS", help="largest number of rows of one network call")
    parser.add_argument("--methods", metavar="NAME,NAME", help="compare only methods whose names contain one of these [all]")
    parser.add_argument("--no-fewest", dest="hindsight", action="store_false",
                        help="do not search for the smallest fixed depth, which takes most of the time")  # fmt: skip
    parser.add_argument("--out", default="compare", metavar="FOLDER", help="folder for the table and the figure [compare]")
    add_allow_code(parser)
    parser.set_defaults(run=_run, sde=False)


def _run(options: argparse.Namespace) -> int:
    from ..analysis.compare.baselines import compare
    from ..analysis.compare.benchmark import Benchmark
    from ..analysis.compare.summary import draw, table, write
    from ..analysis.compare.task import make_task
    from ..analysis.drawing.style import PlotError

    ranks = _counts(options.accelerators)
    build(Numbers, {option_of(name): getattr(options, name) for name in Numbers.model_fields}, "the command line")
    task = make_task(
        options.model,
        samples=options.samples,
        device=options.device,
        model_batch=options.model_batch,
        allow_code=options.allow_code,
    )
    benchmark = Benchmark(task, options.tol, options.sde, options.steps, options.most_steps, options.hindsight)
    if benchmark.floor() > options.tol / 3:
        known = f"the converged path itself is only known to {benchmark.floor():.2g}"
        raise ConfigError(f"--tol {options.tol:g}: {known}; give a larger tolerance")
    rows, folder, chosen = [], Path(options.out), _chosen(options.methods)
    for row in compare(benchmark, ranks, methods=chosen, latency=options.latency, bandwidth=options.bandwidth, log=_log):
        rows.append(row)
        written = write(folder, benchmark, rows, ranks)  # so an interrupted comparison leaves the methods that are done
    if not rows:
        raise ConfigError(
            f"no method reaches {options.tol:g} with {options.most_steps} steps; give a larger --tol or more --most-steps"
        )
    try:
        written.append(draw(folder / "compare.svg", benchmark, rows, ranks))
    except PlotError as error:
        _log(f"no figure: {error}")
    print(table(rows, ranks))
    print("\n".join(str(path) for path in written))
    return DONE


def _chosen(text: str | None) -> list[Entry]:
    from ..analysis.compare.baselines import METHODS

    words = [word.strip().lower() for word in (text or "").split(",") if word.strip()]
    chosen = [one for one in METHODS if not words or any(word in one.name.lower() for word in words)]
    if not chosen:
        names = ", ".join(dict.fromkeys(one.name for one in METHODS))
        raise ConfigError(f"--methods {text!r}: no method has such a name; there are {names}")
    return chosen


def _log(line: str) -> None:
    print(line, flush=True)


def _counts(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) <= MOST for part in parts):
        raise ConfigError(f"--accelerators {text!r}: give numbers from 1 to {MOST}, such as 1,8,32")
    return tuple(int(part) for part in parts)
