"""Launch MPI programs from tests, with the launcher of this environment, one thread per rank, and always with a time-out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from piadm_hpc.host.launcher import local_environment

MPIEXEC = str(Path(sys.prefix) / "bin" / "mpiexec")


def launch(
    arguments: Sequence[str], *, ranks: int | None, timeout: float = 120, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on `ranks` ranks (None: without a launcher) and return its exit code and what it printed."""
    command = [*([] if ranks is None else [MPIEXEC, "-n", str(ranks)]), *arguments]
    return subprocess.run(
        command, env=local_environment(ranks or 1), cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
