"""piadm submit: a run, an array of runs, or a training as a job."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config.run import RunConfig, parse_ids
from ..config.validation import ConfigError, build, override
from .exit_codes import DONE, FAILED
from .options import add_run_options, described_run, is_training
from .status import show

if TYPE_CHECKING:
    from ..submit import JobRequest, Submission

NUMBERS: dict[str, Any] = {
    "nodes": (int, "N", "nodes"),
    "ranks_per_node": (int, "N", "MPI ranks on each; one per GPU, or one"),
    "gpus_per_node": (int, "N", "GPUs on each"),
    "cpus_per_rank": (int, "N", "cores, and threads, of every rank"),
    "hours": (float, "H", "time limit"),
    "grace": (int, "SECONDS", "how long before the limit the run stops and the job requeues itself"),
    "chain": (int, "N", "jobs submitted at once, each after the one before, for sites where jobs may not requeue themselves"),
    "parallel": (int, "N", "largest number of jobs of an array at once"),
    "name": (str, "NAME", "what the queue shows"),
    "mpi": (str, "KIND", "value of srun --mpi; auto determines it from the MPI library"),
}


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("submit", help="run or training as a job: on Slurm through submitit, or here in the background")
    add_run_options(parser)
    add_job_options(parser)
    parser.set_defaults(run=_run)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a job: its resources, where it runs, and what is done with it."""
    for name, (kind, metavar, meaning) in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=meaning)
    parser.add_argument("--cluster", choices=("auto", "slurm", "local", "debug"), help="local and debug run the same job here")
    parser.add_argument("--sbatch", action="append", default=[], metavar="NAME=VALUE", help="further option, such as account=abc")
    parser.add_argument("--setup", action="append", default=[], metavar="LINE", help="shell command to execute before the run")
    parser.add_argument("--array", metavar="KEY=VALUES", help="one job for every value: seed=0-3, or solver.tol=1e-2,1e-3")
    parser.add_argument("--print", action="store_true", help="print the batch script and submit nothing")
    parser.add_argument("--wait", action="store_true", help="wait for the jobs, then print the status of the run")


def _run(options: argparse.Namespace) -> int:
    if options.config is not None and is_training(options.config):
        return _train(options)
    return _send(spread(described_run(options), options.array), _request(options), options)


def _request(options: argparse.Namespace) -> JobRequest:
    from ..submit import JobRequest

    given = {name: value for name in (*NUMBERS, "cluster") if (value := getattr(options, name)) is not None}
    further = dict(text.partition("=")[::2] for text in options.sbatch)
    return build(JobRequest, {**given, "options": further, "setup": options.setup}, "the job")


def _send(configs: list[RunConfig], request: JobRequest, options: argparse.Namespace) -> int:
    from ..submit import batch_script, submit

    if options.print:
        print(batch_script(configs, request), end="")
        return DONE
    submission = submit(configs, request)
    _say_where(request, submission)
    print(f"{submission}\nstatus: piadm status {submission.folder.parent.parent}", flush=True)
    if not (options.wait or submission.cluster == "debug"):
        return DONE
    submission.wait()
    return show(submission.folder.parent.parent)


def _train(options: argparse.Namespace) -> int:
    from ..models.config import load_config
    from ..submit import submit_training

    if options.print or options.array:
        raise ConfigError("--print and --array are for runs; a training is submitted by itself")
    config = load_config(options.config, [override(text) for text in options.set])
    request = _request(options)
    submission = submit_training(config, request)
    _say_where(request, submission)
    print(submission, flush=True)
    if not (options.wait or submission.cluster == "debug"):
        return DONE
    return DONE if submission.wait() else FAILED


def _say_where(request: JobRequest, submission: Submission) -> None:
    """Print a note if there is no Slurm and the job therefore runs on this machine, which may be unexpected."""
    if request.cluster == "auto" and submission.cluster == "local":
        print(
            "there is no Slurm here (no sbatch and srun on the PATH): the job runs on this machine, in the background, for at "
            f"most {request.minutes} min; --print writes a batch script to carry to a cluster",
            flush=True,
        )


def spread(config: RunConfig, array: str | None) -> list[RunConfig]:
    """Make one run for each value of an array, in a folder of its own below `out`. Raises ConfigError."""
    if array is None:
        return [config]
    key, _, values = array.partition("=")
    listed: Sequence[object] = parse_ids(values) if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", values) else values.split(",")
    if not key.strip() or not values or key.strip() == "out":
        raise ConfigError(f"--array {array!r}: write it as KEY=VALUES, for example seed=0-3 or solver.tol=1e-2,1e-3")
    runs = []
    for value in listed:
        name, number = override(f"{key}={value}")
        folder = f"{name.rpartition('.')[2]}-{re.sub(r'[^A-Za-z0-9.+-]', '_', str(value))}"
        runs.append(build(RunConfig, _laid_over(config, name, number, f"{config.out}/{folder}"), f"--array {key}={value}"))
    return runs


def _laid_over(config: RunConfig, key: str, value: Any, out: str) -> dict[str, Any]:
    values = config.model_dump() | {"out": out}
    place = values
    *parents, last = key.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--array {key}: {parent} is a value, not a section")
    place[last] = value
    return values
