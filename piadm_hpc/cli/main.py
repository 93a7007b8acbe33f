"""The command line: one command a file in `piadm_hpc.cli`, and the exit codes of what goes wrong."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

# threads that spin while they wait starve other ranks on the same cores; must be set before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .exit_codes import BAD_CONFIGURATION, EXIT_CODES, FAILED, STOPPED
from . import (
    check,
    compare,
    doctor,
    export,
    init,
    integrators,
    join,
    plan,
    reference,
    report,
    sample,
    status,
    submit,
    train,
    tune,
    verify,
)
from ..host.launcher import LauncherError, NoLibraryError, launched, launcher_rank, under_srun
from ..config.validation import ConfigError, dotted
from ..host.stop import StopRequested
from ..solvers.errors import ScoreError
from ..store.errors import StoreError

COMMANDS = (
    sample,
    submit,
    status,
    plan,
    train,
    reference,
    tune,
    compare,
    report,
    verify,
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
    """Run a command; returns the exit code. Mistakes of the user end in one message, not in a traceback."""
    code = _run(arguments)
    if code and under_srun():
        # the first to leave with such a code ends the others, whose own would then be that of the signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if launcher_rank() and code in (FAILED, BAD_CONFIGURATION):
            time.sleep(LINGER)  # let the first rank speak
    return code


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        return _fail(error, BAD_CONFIGURATION)
    except StopRequested as stop:
        return _fail(stop, STOPPED)
    except (ValueError, LauncherError, ScoreError, StoreError, OSError) as error:
        return _fail(error, BAD_CONFIGURATION if isinstance(error, ValueError) else FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; finished shards are kept, the same command goes on from there", STOPPED)


def job(run: Mapping[str, Any] | str, **numbers: Any) -> int:
    """For scripts that are numbers alone: submit `run`, keys as in run.toml or the path of a file, as a job with `numbers`.

    `numbers` are the options of `piadm submit`; what stands on the script's own command line comes after them and wins.
    Returns the exit code.
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
    """One message from the first rank; the others hold the same error and stay silent."""
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
