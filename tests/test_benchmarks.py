"""Every benchmark runs at a tiny size, and a missed aim ends in a non-zero exit code."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from launching import launch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_runs_at_a_tiny_size(script: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = launch([sys.executable, str(BENCHMARKS / script), "--quick", "--json", str(out)], ranks=None, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert record["aims"] and all(rows for rows in record["tables"].values())


def test_every_benchmark_stands_on_a_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (BENCHMARKS.parent / "docs").glob("*.md"))
    assert len(SCRIPTS) >= 8
    assert [script for script in SCRIPTS if f"python benchmarks/{script}" not in pages] == []


def test_a_missed_aim_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    common = importlib.import_module("common")
    report = common.Report("example")
    report.add("Numbers", ("name", "value"), [["a", 1.5]])
    report.aims.append(common.at_most("a", 1.5, 2.0))
    assert report.finish() == 0
    report.aims.append(common.at_most("a", float("nan"), 2.0))
    report.aims.append(common.between("a", 1.5, 2.0, 3.0))
    assert report.finish() == 1
    printed = capsys.readouterr().out
    assert "| a    | 1.5   |" in printed and printed.count("MISSED") == 2
