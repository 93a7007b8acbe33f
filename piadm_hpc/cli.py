"""The command line: one command a file in `piadm_hpc.commands`, and the exit codes of what goes wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# threads that spin while they wait starve other ranks on the same cores; must be set before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .comm import LauncherError, launched, launcher_rank
from .commands import BAD_CONFIGURATION, EXIT_CODES, FAILED, STOPPED
from .commands import check, doctor, export, init, integrators, join, plan, reference, report, sample, train, tune, verify
from .records import ConfigError

COMMANDS = (sample, plan, train, reference, tune, report, verify, export, check, join, integrators, doctor, init)

DESCRIPTION = "Diffusion samplers that are parallel in time over MPI ranks."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Mistakes of the user end in one message, not in a traceback."""
    from .run import StopRequested
    from .solving import ScoreError
    from .store import StoreError

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


def _fail(error: object, code: int) -> int:
    """One message from the first rank; the others hold the same error and stay silent."""
    if not launched() or launcher_rank() == 0 or isinstance(error, LauncherError):
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
