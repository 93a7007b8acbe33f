"""Shared by all benchmarks: markdown tables, measurements with limits, the machine's name, and launching ranks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torchvision_repair
from torch import Tensor

from piadm_hpc.host.launcher import local_environment
from piadm_hpc.solvers import solve as solver
from piadm_hpc.solvers.evaluate import Score
from piadm_hpc.solvers.options import Options
from piadm_hpc.solvers.scheme import Scheme
from piadm_hpc.solvers.solution import Solution

Cell = str | float | int
TIMEOUT = 900
torchvision_repair.install()


@dataclass(frozen=True)
class Aim:
    """A measured number and the limit that it has to meet."""

    what: str
    measured: float
    limit: str
    met: bool

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'}  {self.what}: {self.measured:.4g} (aim: {self.limit})"


def at_most(what: str, measured: float, limit: float) -> Aim:
    """The aim `measured <= limit`; NaN misses it."""
    return Aim(what, measured, f"at most {limit:g}", measured <= limit)


def at_least(what: str, measured: float, limit: float) -> Aim:
    """The aim `measured >= limit`; NaN misses it."""
    return Aim(what, measured, f"at least {limit:g}", measured >= limit)


def between(what: str, measured: float, low: float, high: float) -> Aim:
    """The aim `low <= measured <= high`; NaN misses it."""
    return Aim(what, measured, f"{low:g} to {high:g}", low <= measured <= high)


@dataclass
class Report:
    """Tables and aims of one benchmark; `finish` prints them and gives the exit code."""

    name: str
    columns: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, list[list[Cell]]] = field(default_factory=dict)
    aims: list[Aim] = field(default_factory=list)

    def add(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self.columns[title] = list(columns)
        self.tables[title] = [list(row) for row in rows]

    def finish(self, to: str | None = None) -> int:
        """Print everything, write the JSON file if asked, and return 0 when every aim is met, else 1."""
        print(f"{self.name}: {machine()}")
        for title, rows in self.tables.items():
            print(f"\n{title}\n")
            print(markdown(self.columns[title], rows))
        print()
        for aim in self.aims:
            print(aim)
        if to is not None:
            Path(to).write_text(json.dumps(self.record(), indent=1) + "\n")
        return 0 if all(aim.met for aim in self.aims) else 1

    def record(self) -> dict[str, Any]:
        tables = {
            title: [dict(zip(self.columns[title], row, strict=True)) for row in rows] for title, rows in self.tables.items()
        }
        return {"benchmark": self.name, "machine": machine(), "tables": tables, "aims": [vars(aim) for aim in self.aims]}


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A markdown table, columns padded so that it reads as plain text too."""
    texts = [list(columns), *[[cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in texts]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> str:
    """Processor, cores and library versions in one line."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Python {platform.python_version()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def solve(scheme: Scheme, score: Score, first: Tensor, **settings: Any) -> Solution:
    """`piadm_hpc.solve` with the solver's options among the keywords."""
    options = {one.name: settings.pop(one.name) for one in fields(Options) if one.name in settings}
    return solver.solve(scheme, score, first, Options(**options), **settings)


def parser(description: str) -> argparse.ArgumentParser:
    """The options common to all benchmarks. With `--worker` a benchmark runs as one rank of a launch."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument(
        "--quick", action="store_true", help="a tiny size, to check that it runs; limits that require the full size are skipped"
    )
    options.add_argument("--json", metavar="FILE", help="also write tables and aims to this file")
    options.add_argument("--worker", metavar="FILE", help=argparse.SUPPRESS)
    return options


def launch(script: str, ranks: int | None, setting: dict[str, Any], mpiexec: str | None = None, python: str | None = None) -> Any:
    """Run `script --worker` with a setting on `ranks` ranks and return its result; None runs one process without a launcher.

    Every rank has one thread. Raises RuntimeError with the output of the ranks when they fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        question = Path(folder) / "question.json"
        question.write_text(json.dumps(setting))
        command = [str(Path(script).resolve()), "--worker", str(question)]
        if ranks is None:
            command = [python or sys.executable, *command]
        else:
            # run by mpi4py, so that a rank that fails ends the others too
            command = [mpiexec or find_mpiexec(), "-n", str(ranks), python or sys.executable, "-m", "mpi4py", *command]
        done = subprocess.run(
            command, env=local_environment(ranks or 1), capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return json.loads(_answer(question).read_text())


def question(path: str) -> dict[str, Any]:
    """The setting that this worker was started with."""
    setting: dict[str, Any] = json.loads(Path(path).read_text())
    return setting


def answer(path: str, result: Any) -> None:
    """Return a worker's result to `launch`; called on one rank."""
    _answer(Path(path)).write_text(json.dumps(result))


def _answer(path: Path) -> Path:
    return path.with_name("answer.json")


def find_mpiexec() -> str:
    """The launcher beside this interpreter, or else on the path. Raises RuntimeError when there is none."""
    beside = Path(sys.executable).parent / "mpiexec"
    path = str(beside) if beside.exists() else shutil.which("mpiexec")
    if path is None:
        raise RuntimeError("no mpiexec: install an MPI (pip install mpich) or load the site's module")
    return path


def by_shell(power: Tensor) -> Tensor:
    """Mean power per rounded wavenumber, from that of the frequencies of a two-dimensional FFT [side, side]."""
    waves = torch.fft.fftfreq(len(power), 1 / len(power), dtype=torch.float64)
    shells = torch.hypot(waves[:, None], waves[None]).round().long().flatten()
    total = power.new_zeros(int(shells.max()) + 1).index_add(0, shells, power.flatten())
    return total / torch.bincount(shells)


def median(values: Sequence[float]) -> float:
    return float(torch.tensor(list(values), dtype=torch.float64).quantile(0.5))
