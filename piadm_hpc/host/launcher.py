"""Environment variables that a launcher sets, and checks that it fits the MPI library; MPI is not loaded here."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
SETTLED = 10.0  # seconds after which the ranks of a new launch have attached to each other's shared memory


class LauncherError(RuntimeError):
    """The launcher and the MPI library do not fit each other."""


class NoLibraryError(LauncherError):
    """No MPI library can be loaded on this host, while other hosts may have one."""


def first_number(names: Sequence[str]) -> tuple[str | None, int]:
    """Find the first environment variable of `names` that holds a whole number, and the number; (None, 0) without one."""
    return next(((name, int(os.environ[name])) for name in names if os.environ.get(name, "").isdecimal()), (None, 0))


def launcher_size() -> tuple[str | None, int]:
    """The variable in which the launcher announces the number of ranks, and that number; (None, 1) without a launcher."""
    name, number = first_number(SIZES)
    return (name, number) if name else (None, 1)


def launcher_rank() -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    return first_number(RANKS)[1]


def launched() -> bool:
    """Whether a launcher started this process as one of several ranks."""
    return launcher_size()[1] > 1


def ranks_here() -> int:
    """The number of ranks on this host; all ranks when the launcher does not say."""
    name, number = first_number(LOCAL_SIZES)
    if name:
        return max(1, number)
    nodes = os.environ.get("SLURM_STEP_NUM_NODES", "")
    return -(-launcher_size()[1] // int(nodes)) if nodes.isdecimal() and int(nodes) else launcher_size()[1]


def local_environment(ranks: int) -> dict[str, str]:
    """The environment for launching `ranks` ranks on this machine, also as root and beyond the cores.

    Every rank has one thread, and large arrays in large pages.
    """
    extra = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "THP_MEM_ALLOC_ENABLE": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    if ranks > len(os.sched_getaffinity(0)):
        # MPICH spins while it waits, which starves other ranks on the same core
        extra["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
    return {**os.environ, **extra}


def under_srun() -> bool:
    """Whether srun started this process as one of several tasks."""
    return first_number(("SLURM_STEP_NUM_TASKS",))[1] > 1


def start_up_problem(library: str, environment: Mapping[str, str] = os.environ) -> str:
    """Explain why this launcher cannot start an MPI `library`, given by its version string; empty when it can.

    A library that does not understand the launcher ends the process, or takes every rank for the only one.
    """
    tasks, given = environment.get("SLURM_STEP_NUM_TASKS", ""), environment.get("SLURM_MPI_TYPE", "none")
    pmi = bool({"PMI_FD", "PMI_PORT", "PMI_RANK"} & set(environment))
    pmix = "PMIX_NAMESPACE" in environment
    name, best = library.splitlines()[0][:60].strip(), start_up_kinds(family_of(library))[0]
    by = f"srun --mpi={given}" if tasks else "the mpiexec of another MPI"
    if not (pmi or pmix) and tasks and given in ("none", "openmpi"):
        problem = f"srun started {tasks} tasks with --mpi={given}, which gives the ranks of {name} no way to find each other"
    elif name.startswith("MPICH") and pmix and not pmi and "pmix" not in library.lower():
        problem = f"{name} was started by {by}, which it does not understand"
    elif name.startswith(("Open MPI v5", "Open MPI v6")) and pmi and not pmix:
        problem = f"{name} was started by {by}, which it does not understand"
    else:
        return ""
    advice = f"; use srun --mpi={best} (`srun --mpi=list` shows what there is), or the mpiexec of this MPI in the batch script"
    return problem + advice + _hint_of_a_wheel(environment)


def start_up_settings(library: str) -> dict[str, str]:
    """Environment variables without which this MPI may hang at start-up.

    The wheel of MPICH 5 splits the long addresses of UCX into pieces that it passes to Slurm's pmi2 without a terminator:
    "value not properly terminated in client request", and the ranks hang. The addresses of OFI are short.
    """
    return {"MPIR_CVAR_CH4_NETMOD": "ofi"} if under_srun() and "pypi.org/p/mpich" in library else {}


def clear_leftovers(folder: Path = Path("/dev/shm"), processes: Path = Path("/proc")) -> list[Path]:
    """Remove the shared memory of killed MPICH ranks from this host; returns the files that were removed.

    MPICH names it after the job and the step, which are the same for a requeued job: its ranks would attach to that memory and
    end ("Out of memory") or wait for processes that no longer exist. Memory that a process has mapped, or that is new, is in use.
    """
    now, mine = time.time(), os.getuid()
    old = []
    for path in folder.glob("mpich_*"):
        with suppress(OSError):
            about = path.stat()
            if about.st_uid == mine and now - about.st_ctime > SETTLED:
                old.append(path)
    if old:
        mapped = set()
        for maps in processes.glob("[0-9]*/maps"):
            with suppress(OSError):
                mapped |= {line.rpartition("/")[2] for line in maps.read_text().splitlines() if "/mpich_" in line}
        old = [path for path in old if path.name not in mapped]
    for path in old:
        with suppress(OSError):
            path.unlink()
    return old


def family_of(library: str) -> str:
    """The family of an MPI library by its version string: `openmpi`, or `mpich` for MPICH, Intel, Cray and MVAPICH."""
    return "openmpi" if library.startswith("Open MPI") else "mpich"


def start_up_kinds(family: str) -> tuple[str, ...]:
    """The values of `srun --mpi` that start an MPI of this family, best first."""
    return ("pmix", "pmix_v5", "pmix_v4", "pmix_v3", "openmpi") if family == "openmpi" else ("pmi2", "cray_shasta")


def _hint_of_a_wheel(environment: Mapping[str, str]) -> str:
    """Advice for an MPI in the Python environment that hides the one of a loaded module."""
    modules = [name for name in environment.get("LOADEDMODULES", "").split(":") if "mpi" in name.lower()]
    if modules and not environment.get("MPI4PY_LIBMPI"):
        return f" (module {modules[-1]} is loaded: set MPI4PY_LIBMPI to its libmpi.so, or uninstall the MPI of this environment)"
    return ""


def task_of_step() -> tuple[str, int, int]:
    """The job step of this process under srun: its id, the number of this task, and of all tasks; ("", 0, 1) without srun."""
    step, task, tasks = (os.environ.get(f"SLURM_{name}", "") for name in ("STEP_ID", "PROCID", "STEP_NUM_TASKS"))
    if not (step.isdecimal() and task.isdecimal() and tasks.isdecimal()):
        return "", 0, 1
    return f"{os.environ.get('SLURM_JOB_ID', '')}.{step}", int(task), int(tasks)


def nesting_problem(places: Sequence[tuple[str, int, int]]) -> str:
    """Explain why the ranks at these `task_of_step` are only a part of what srun launched; empty when they are all of it."""
    for step in {place[0] for place in places if place[0]}:
        there, tasks = {task for name, task, _ in places if name == step}, max(n for name, _, n in places if name == step)
        if len(there) < tasks:
            return (
                f"srun started {tasks} tasks (step {step}), and this MPI world of {len(places)} has only {len(there)} of them: "
                "a launcher was started inside another one. Use srun alone, or mpiexec alone in the batch script"
            )
    return ""


def environment_mpiexec(prefix: Path) -> Path | None:
    """Find the mpiexec of the Python environment at `prefix`, or else the first on the PATH."""
    places = [prefix / "bin", *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    return next((folder / "mpiexec" for folder in places if os.access(folder / "mpiexec", os.X_OK)), None)
