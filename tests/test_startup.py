"""Commands that compute nothing start quickly, since they import no library for arrays and few others."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

RUN = str(Path(__file__).parent / "data" / "version-0.1.0" / "finished")
COMPUTING = ("torch", "xarray", "mpi4py", "pandas", "scipy", "submitit", "matplotlib")
ARRAYS = (*COMPUTING, "numpy", "h5py")

# runs a command where the libraries named first cannot be imported, and returns its exit code
REFUSING = """
import sys
refused = sys.argv.pop(1).split(",")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise RuntimeError(f"{name} is loaded")
sys.meta_path.insert(0, Refuse())
from piadm_hpc.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def refusing(libraries: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REFUSING, ",".join(libraries), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "libraries", "says"),
    [
        (("--help",), ARRAYS, "usage: piadm"),
        (("sample", "--help"), ARRAYS, "usage: piadm sample"),
        (("init",), ARRAYS, "[solver]"),
        (("integrators",), ARRAYS, "euler-maruyama"),
        (("status", RUN), COMPUTING, "samples drawn"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_computes_nothing_loads_no_library_for_it(arguments: tuple[str, ...], libraries: tuple[str, ...], says: str) -> None:
    done = refusing(libraries, *arguments)
    assert done.returncode == 0 and says in done.stdout, done.stderr


def test_scores_of_forecasts_need_no_network_and_load_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, piadm_hpc; piadm_hpc.forecast_scores; sys.exit('torch' in sys.modules)"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_computes_is_refused_there() -> None:
    """This shows that the check works: a command that draws samples imports torch."""
    done = refusing(COMPUTING, "sample", "--model", "ccsm-temperature", "--samples", "1")
    assert done.returncode != 0 and "torch is loaded" in done.stderr, done.stderr


def processor_time(*arguments: str) -> float:
    """Seconds of user and system time of a command, the smallest of three measurements."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "piadm_hpc", *arguments], capture_output=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.parametrize(("arguments", "target"), [(("--help",), 0.5), (("status", RUN), 0.7)], ids=["help", "status"])
def test_they_take_little_processor_time(arguments: tuple[str, ...], target: float) -> None:
    """The limit is twice the target, for slow machines; 0.2 and 0.3 s were measured on one, and 2.4 s with torch."""
    assert processor_time(*arguments) < 2 * target
