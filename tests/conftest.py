"""Settings for all tests, and the Slurm that some of them need."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from hypothesis import settings

# hypothesis sets no deadline: on a busy machine one would fail, and pytest-timeout ends what hangs
settings.register_profile("piadm", deadline=None)
settings.load_profile("piadm")
# diffusers and physicsnemo import torchvision, whose CUDA build cannot be imported beside a CPU build of torch
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
importlib.import_module("torchvision_repair").install()

REQUIRED = "PIADM_REQUIRE_SLURM"
WITHOUT = "no Slurm here"


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm_cluster.Cluster]:
    """Start a real Slurm with four virtual nodes, in a folder with a short path, since sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="piadm-slurm-", ignore_cleanup_errors=True) as folder:
        with slurm_cluster.running(Path(folder) / "c", nodes=4, cpus=4) as running:
            yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a Slurm where there is none, unless the environment says that they must run."""
    missing = slurm_cluster.missing_commands()
    if not missing or os.environ.get(REQUIRED):
        return
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=f"{WITHOUT}: {', '.join(missing)} not found"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the skipped tests in the last lines, where people look."""
    # with xdist, workers skip and the controller learns of it from their reports alone
    skipped = [report.nodeid for report in terminalreporter.getreports("skipped") if WITHOUT in str(report.longrepr)]
    if skipped:
        terminalreporter.section("not run: tests on a real Slurm")
        terminalreporter.write_line("\n".join(skipped))
        terminalreporter.write_line(f"to run them: apt-get install --no-install-recommends {slurm_cluster.PACKAGES}")
        terminalreporter.write_line(f"{REQUIRED}=1 makes their absence an error")
