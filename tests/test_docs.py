"""Tutorial pages run, generated pages are current, links lead somewhere, and examples and names in the pages exist."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from launching import launch

from piadm_hpc.config.templates import KINDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("[0-9]*.py"))
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "jobs").glob("*.md")])


def run_page(number: str, folder: Path, *arguments: str, ranks: int | None = None) -> str:
    """Run a tutorial page and return what it prints."""
    page = next(path for path in PAGES if path.name.startswith(number))
    os.environ.setdefault("MPLBACKEND", "Agg")
    done = launch([sys.executable, str(page), *arguments], ranks=ranks, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pages_are_short_and_say_how_to_run() -> None:
    assert len(PAGES) == 7
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(text)) or ""
        assert len(text.splitlines()) < 60, page.name
        assert "What one sees" in docstring and f"docs/tutorial/{page.name}" in docstring, page.name


def test_one_chain_three_ways(tmp_path: Path) -> None:
    rows = [re.split(r"\s{2,}", line) for line in run_page("01", tmp_path).splitlines()[1:]]
    calls = [int(row[1]) for row in rows]
    assert calls[0] == 64 > calls[1] > calls[2]
    assert max(float(row[3]) for row in rows) < 1e-2


def test_as_published(tmp_path: Path) -> None:
    rows = [line.split()[-6:] for line in run_page("02", tmp_path).splitlines()[2:]]
    assert [int(row[0]) for row in rows] == [129, 80, 144]
    assert all(abs(float(row[1]) - 0.3) < 0.08 for row in rows)


def test_on_two_ranks(tmp_path: Path) -> None:
    """Two ranks share the evaluations and print the same norms as one rank."""
    alone, shared = run_page("03", tmp_path), run_page("03", tmp_path, ranks=2)
    norms = [re.findall(r"\|x_\d\| = \S+", text.splitlines()[1]) for text in (alone, shared)]
    assert norms[0] == norms[1] and len(norms[0]) == 4
    assert "1 group(s) of 2 rank(s)" in shared


def test_own_tables(tmp_path: Path) -> None:
    first, second = (line.split() for line in run_page("04", tmp_path).splitlines())
    assert first[2] == second[2] and first[-1] == second[-1] == "0.0"
    assert int(second[5]) < int(first[5]) == 50


def test_train_on_your_fields(tmp_path: Path) -> None:
    printed = run_page("05", tmp_path)
    assert "missing points: samples 16, data 16" in printed
    assert (tmp_path / "own-fields" / "run" / "samples.h5").is_file()


def test_climate_fields(tmp_path: Path) -> None:
    printed = run_page("06", tmp_path)
    means = [float(value) for value in re.findall(r"area mean (\S+) K", printed)]
    assert len(means) == 2 and all(284 < mean < 291 for mean in means)
    assert (tmp_path / "climate-fields" / "members.png").stat().st_size > 10_000


def test_observations(tmp_path: Path) -> None:
    found = re.search(r"error of the mean (\S+) K, spread (\S+) K, rounds", run_page("07", tmp_path))
    assert found is not None and all(0.1 < float(number) < 0.7 for number in found.groups())
    assert (tmp_path / "observed" / "posterior.png").stat().st_size > 10_000


@pytest.mark.parametrize(("page", "function"), [("configuration.md", "configuration"), ("integrators.md", "integrators")])
def test_generated_pages_are_current(page: str, function: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))[function]()
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == made, "run `make docs`"


def test_the_page_of_the_commands_is_current() -> None:
    """The words are compared one by one, since Python versions align the columns of help differently."""
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["cli"]()
    assert (ROOT / "docs" / "cli.txt").read_text(encoding="utf-8").split() == made.split(), "run `make docs`"


def test_links_lead_somewhere() -> None:
    lost = []
    for text in TEXTS:
        content = text.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", content):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = (text.parent / path).resolve() if path else text
            if not file.exists():
                lost.append(f"{text.name}: {target}")
            elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
                lost.append(f"{text.name}: {target} (no such heading)")
    assert not lost, "\n".join(lost)


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_python_examples_are_python_and_name_what_there_is() -> None:
    import piadm_hpc

    for text in TEXTS:
        for block in re.findall(r"```python\n(.*?)```", text.read_text(encoding="utf-8"), flags=re.DOTALL):
            ast.parse(block, f"{text.name}")
            for name in re.findall(r"\b(?:piadm|piadm_hpc)\.(\w+)", block):
                there = hasattr(piadm_hpc, name) or importlib.util.find_spec(f"piadm_hpc.{name}")
                assert there, f"{text.name}: piadm_hpc has no {name}"


def test_configurations_in_the_texts_and_templates_are_valid() -> None:
    from piadm_hpc.config.run import RunConfig
    from piadm_hpc.config.validation import build
    from piadm_hpc.models.adapter_config import AdapterConfig
    from piadm_hpc.models.config import ConformerTrainConfig, TrainConfig, load_config

    blocks = [
        block for text in TEXTS for block in re.findall(r"```toml\n(.*?)```", text.read_text(encoding="utf-8"), flags=re.DOTALL)
    ]
    for block in [*blocks, *KINDS.values()]:
        values = tomllib.loads(block)
        trained = ConformerTrainConfig if "trajectories" in values.get("data", {}) else TrainConfig
        build(trained if "data" in values else AdapterConfig if "channels" in values else RunConfig, values, block)
    for recipe in (ROOT / "datasets").glob("*.toml"):
        load_config(recipe)


def test_functions_named_in_the_method_map_exist() -> None:
    """A function in docs/methods.md, such as `solvers.sweep.PicardSolver`, is a file and a name in that file."""
    content = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+\.)+)(\w+)`", content))
    lost = []
    for module, name in named:
        path = ROOT / "piadm_hpc" / (module.rstrip(".").replace(".", "/") + ".py")
        if path.is_file() and not re.search(
            rf"^(?:class |    def |def )?{name}\b", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            lost.append(f"{module}{name}")
        elif not path.is_file() and not (ROOT / "piadm_hpc" / module.split(".")[0]).is_dir():
            lost.append(f"{module}{name}")
    assert named and not lost, ", ".join(sorted(lost))


@pytest.mark.parametrize("script", sorted([*(ROOT / "jobs").glob("*.s*"), ROOT / ".ci" / "run"]), ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr


def test_every_guarantee_names_tests_that_are_there() -> None:
    """Every promise occurs once and names a test that is more than the quick form of a benchmark."""
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    promises = [line for line in text.splitlines() if line.startswith("| ") and "::" in line]
    assert len(promises) > 60 and len({row.split(" | ")[0] for row in promises}) == len(promises)
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    for row in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)", row)
        assert [f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in files.get(file, "")] == [], row
        assert any(file != "test_benchmarks.py" for file, _ in named), row


def test_every_promise_of_the_readme_is_among_the_guarantees() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is guaranteed")[1].split("\n## ")[0]
    promises = re.findall(r"^- \*\*(.+?)\*\*", section, re.MULTILINE)
    guarantees = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert len(promises) >= 5 and [promise for promise in promises if f"| {promise} |" not in guarantees] == []
