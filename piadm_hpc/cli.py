"""The command line: piadm sample, plan, train, tune, report, check, join, integrators, doctor, init."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# threads that spin while they wait starve other ranks on the same cores; must be set before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .comm import LauncherError, launcher_size
from .config import RunConfig, parse_ids
from .records import ConfigError, override, read

DONE, FAILED, BAD_CONFIGURATION, NOT_CONVERGED, STOPPED = 0, 1, 2, 3, 75

DESCRIPTION = "Diffusion samplers that are parallel in time over MPI ranks."
EPILOG = "exit codes: 0 done; 1 failed; 2 bad configuration; 3 not converged (samples kept, marked); 75 stopped, call again"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Mistakes of the user end in one message, not in a traceback."""
    from .solving import ScoreError
    from .store import StoreError

    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        return _fail(error, BAD_CONFIGURATION)
    except (ValueError, LauncherError, ScoreError, StoreError, OSError) as error:
        return _fail(error, BAD_CONFIGURATION if isinstance(error, ValueError) else FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; finished shards are kept, the same command goes on from there", STOPPED)


def _fail(error: object, code: int) -> int:
    """One message from the first rank; the others hold the same error and stay silent."""
    from .comm import launched, launcher_rank

    if not launched() or launcher_rank() == 0 or isinstance(error, LauncherError):
        print(f"piadm: {error}", file=sys.stderr, flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="piadm", description=DESCRIPTION, epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_sample(commands)
    _add_plan(commands)
    _add_train(commands)
    _add_tune(commands)
    _add_report(commands)
    _add_check(commands)
    _add_join(commands)
    listing = commands.add_parser("integrators", help="list the integrators: order, calls a step, randomness, options, source")
    listing.set_defaults(run=_integrators)
    doctor = commands.add_parser("doctor", help="test MPI, devices, HDF5 and the file system from where you stand")
    doctor.add_argument("--folder", default=".", help="folder whose file system to test [.]")
    doctor.set_defaults(run=_doctor)
    init = commands.add_parser("init", help="print a commented configuration to start from")
    init.add_argument("kind", nargs="?", default="climate", choices=("climate", "paper-sde", "paper-ode", "train"))
    init.set_defaults(run=_init)
    return parser


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", nargs="?", metavar="run.toml", help="configuration; `piadm init` prints one")
    command.add_argument("--model", help="name of a shipped model, or a model folder")
    command.add_argument("--out", metavar="FOLDER", help="where the run lives")
    command.add_argument("--samples", type=int, metavar="N", help="how many")
    command.add_argument("--only", metavar="IDS", help="sample ids to make, for example 17,42-47: exactly these members")
    command.add_argument("--seed", type=int, help="the one number all noise comes from")
    command.add_argument("--tol", type=float, help="change of the denoised estimate at which a sample is done")
    command.add_argument("--time-ranks", metavar="N|auto", help="ranks that share one sample's time axis")
    command.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    command.add_argument("--model-batch", type=int, metavar="ROWS", help="most rows of one network call")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key, for example grid.steps=64")


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser(
        "sample", help="run here, serial or under mpiexec / srun; goes on with what is missing", epilog=EPILOG
    )
    _add_run_options(sample)
    sample.add_argument("--overwrite", action="store_true", help="start again; without it finished shards are kept")
    sample.add_argument("--plan", action="store_true", help="print the plan and stop")
    sample.set_defaults(run=_sample, ranks=None, pilot=False)


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser("plan", help="what a run will cost: rounds, calls, memory per rank, output, time")
    _add_run_options(plan)
    plan.add_argument("--ranks", type=int, help="plan for this many ranks instead of the present ones")
    plan.add_argument("--pilot", action="store_true", help="solve one sample to measure its sweeps")
    plan.set_defaults(run=_plan)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="fit a reference and a network to gridded data; goes on where it stopped")
    train.add_argument("config", metavar="train.toml", help="configuration; `piadm init train` prints one")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key, for example optimiser.steps=2000"
    )
    train.set_defaults(run=_train)


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser(
        "tune", help="try the few scalars an integrator reads (lam, lam_s, cond, grid.exponent) on a batch"
    )
    _add_run_options(tune)
    tune.add_argument("--batch", type=int, default=4, metavar="N", help="samples to calibrate on [4]")
    tune.add_argument(
        "--by", default="auto", choices=("auto", "error", "mmd"), help="distance to a converged path, or of physical features"
    )
    tune.add_argument("--against", metavar="FILE", help="fields that features are compared with [converged samples]")
    tune.set_defaults(run=_tune)


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="figure, table of costs and scores of a finished run")
    report.add_argument("folder", help="folder of the run")
    report.add_argument("--rivals", type=int, default=0, metavar="N", help="also measure the sequential rivals on N samples")
    report.add_argument(
        "--against", metavar="FILE", help="compare with the fields of this file instead of the model's statistics"
    )
    report.add_argument("--card", action="store_true", help="also write the scores into the model's card")
    report.set_defaults(run=_report)


def _add_check(commands: Any) -> None:
    check = commands.add_parser("check", help="verify that every shard of a run is there and whole, or read a configuration")
    check.add_argument("path", help="folder of a run, its samples.h5, or a run.toml")
    check.add_argument("--deep", action="store_true", help="read every value too")
    check.set_defaults(run=_check)


def _add_join(commands: Any) -> None:
    join = commands.add_parser("join", help="rebuild the index of a run")
    join.add_argument("folder", help="folder of the run")
    join.add_argument("--copy", action="store_true", help="make one ordinary file instead of an index")
    join.add_argument("--to", metavar="FILE", help="where the copy goes [samples.h5 in the folder]")
    join.set_defaults(run=_join)


def _config(options: argparse.Namespace) -> RunConfig:
    """The run a command line describes: the file, then --set, then the named options."""
    changes = [override(text) for text in options.set]
    named = {
        "model": options.model,
        "out": options.out,
        "samples": options.samples,
        "only": None if options.only is None else list(parse_ids(options.only)),
        "seed": options.seed,
        "solver.tol": options.tol,
        "compute.time_ranks": int(options.time_ranks) if str(options.time_ranks).isdigit() else options.time_ranks,
        "compute.device": options.device,
        "compute.model_batch": options.model_batch,
    }
    changes += [(key, value) for key, value in named.items() if value is not None]
    if options.config is None and "model" not in dict(changes):
        raise ConfigError("give a configuration (`piadm init` prints one) or --model with the name or folder of a model")
    return read(RunConfig, options.config, changes)


def _sample(options: argparse.Namespace) -> int:
    if options.plan:
        return _plan(options)
    from .progress import logger
    from .run import StopRequested, execute

    config = _config(options)
    try:
        summary = execute(config, overwrite=options.overwrite, command=" ".join(["piadm", *sys.argv[1:]]))
    except StopRequested as stop:
        return _fail(stop, STOPPED)
    for line in summary.lines(config.solver.tol):
        logger.info(line)
    if summary.not_converged:
        logger.info("%d samples did not meet the tolerance by themselves; they are marked converged = 0", summary.not_converged)
    logger.info('open with:  xarray.open_dataset("%s")', Path(config.out) / "samples.h5")
    return NOT_CONVERGED if summary.not_converged else DONE


def _plan(options: argparse.Namespace) -> int:
    from .planning import plan

    made = plan(_config(options), ranks=options.ranks, pilot=options.pilot)
    if _speaks():
        print(made)
    return DONE


def _train(options: argparse.Namespace) -> int:
    from .models.config import TrainConfig
    from .models.training import train

    folder = train(read(TrainConfig, options.config, [override(text) for text in options.set]))
    print(f"model: {folder}")
    return DONE


def _tune(options: argparse.Namespace) -> int:
    from .analysis.tuning import read_states, tune
    from .models.card import load_model

    config = _config(options)
    model = load_model(config.model)
    against = None if options.against is None else read_states(options.against, model)
    print(tune(config, model, samples=options.batch, by=options.by, against=against))
    return DONE


def _report(options: argparse.Namespace) -> int:
    from .analysis.report import report

    print(report(options.folder, rivals=options.rivals, against=options.against, card=options.card))
    return DONE


def _check(options: argparse.Namespace) -> int:
    if Path(options.path).suffix == ".toml":
        read(RunConfig, options.path)
        print(f"{options.path}: a valid configuration")
        return DONE
    from .store import check

    found = check(options.path, deep=options.deep)
    print(found)
    return DONE if found.ok else FAILED


def _join(options: argparse.Namespace) -> int:
    from .store import Store

    with Store.existing(options.folder) as store:
        print(store.join(options.copy, to=options.to))
    return DONE


def _integrators(options: argparse.Namespace) -> int:
    from .catalogue import listing

    print(listing())
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    findings = examine(options.folder)
    if _speaks():
        print("\n".join(str(finding) for finding in findings))
    return DONE if all(finding.ok for finding in findings) else FAILED


def _init(options: argparse.Namespace) -> int:
    from .templates import template

    print(template(options.kind), end="")
    return DONE


def _speaks() -> bool:
    from .comm import launcher_rank

    return launcher_size()[1] == 1 or launcher_rank() == 0


if __name__ == "__main__":
    sys.exit(main())
