"""Starting MPI programs from tests: the launcher of this environment, one thread a rank, never without a time-out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MPIEXEC = str(Path(sys.prefix) / "bin" / "mpiexec")


def environment(ranks: int) -> dict[str, str]:
    """This process's environment with what ranks on one machine need."""
    extra = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        # Open MPI refuses root, and more ranks than cores, unless told otherwise
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    if ranks > len(os.sched_getaffinity(0)):
        # MPICH spins while it waits, which starves ranks that share a core
        extra["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
    return {**os.environ, **extra}


def launch(
    arguments: Sequence[str], *, ranks: int | None, timeout: float = 120, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on `ranks` ranks (None: without a launcher) and return what it printed and its exit code."""
    command = [*([] if ranks is None else [MPIEXEC, "-n", str(ranks)]), *arguments]
    return subprocess.run(
        command, env=environment(ranks or 1), cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
