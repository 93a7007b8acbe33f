"""The `piadm` command line: it runs the commands, one file each in `piadm_hpc.cli`, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

# waiting threads must not spin, or they starve other ranks on the same cores; torch reads this when it loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# large arrays in large pages: torch reads this when it first allocates; with small ones a fifth of a sweep is page faults
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from .exit_codes import BAD_CONFIGURATION, EXIT_CODES, FAILED, STOPPED
from . import (
    check,
    compare,
    density,
    doctor,
    export,
    init,
    integrators,
    join,
    plan,
    reference,
    report,
    rollout,
    sample,
    status,
    submit,
    train,
    tune,
    verify,
    weigh,
)
from ..host.launcher import LauncherError, NoLibraryError, launched, launcher_rank, under_srun
from ..config.validation import ConfigError, dotted
from ..host.stop import StopRequested
from ..solvers.errors import ScoreError
from ..store.errors import StoreError
from ..submit.errors import SubmissionError

COMMANDS = (
    sample,
    rollout,
    submit,
    status,
    plan,
    train,
    reference,
    tune,
    compare,
    report,
    verify,
    weigh,
    density,
    export,
    check,
    join,
    integrators,
    doctor,
    init,
)
NAMES = tuple(command.__name__.rpartition(".")[2] for command in COMMANDS)
LINGER = 3.0

DESCRIPTION = "Diffusion samplers that are parallel in time over MPI ranks."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. A mistake of the user ends in one message, not in a traceback."""
    code = _run(arguments)
    if code and under_srun():
        # srun kills the other ranks when the first one exits with an error, and reports the signal as their exit code
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if launcher_rank() and code in (FAILED, BAD_CONFIGURATION):
            time.sleep(LINGER)  # give the first rank time to print its message
    return code


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        return _fail(error, BAD_CONFIGURATION)
    except StopRequested as stop:
        return _fail(stop, STOPPED)
    except (ValueError, LauncherError, ScoreError, StoreError, SubmissionError, OSError) as error:
        return _fail(error, BAD_CONFIGURATION if isinstance(error, ValueError) else FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; finished shards are kept, the same command continues from there", STOPPED)


def job(run: Mapping[str, Any] | str, **numbers: Any) -> int:
    """Submit a run from a job script and return the exit code.

    `run` is the path of a configuration, or a mapping with the keys of run.toml. `numbers` are options of `piadm submit`.
    Options on the script's own command line come after them and take precedence.
    """
    given = [run] if isinstance(run, str) else []
    keys = {} if isinstance(run, str) else dotted(run)
    for key, value in keys.items():
        given += ["--set", f"{key}={json.dumps(value)}"]
    for name, value in numbers.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            given += [f"--{name.replace('_', '-')}", str(item)]
    return main(["submit", *given, *sys.argv[1:]])


def _fail(error: object, code: int) -> int:
    """Print the error on the first rank alone, because all ranks raise the same one; returns the exit code."""
    if not launched() or launcher_rank() == 0 or isinstance(error, NoLibraryError):
        print(f"piadm: {error}", file=sys.stderr, flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="piadm", description=DESCRIPTION, epilog=EXIT_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
