"""The documentation site: it builds without a warning, lists every page, and its API page has every public name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import piadm_hpc

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DOORS = ("Start", "Use", "Understand", "Evidence")
WIDEST = 13  # columns of numbers that fit a page
SMALL = 300_000  # bytes of all pictures under docs/images


def settings() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8")))


def listed(navigation: Any) -> Iterator[str]:
    """Paths of the pages in a navigation."""
    if isinstance(navigation, str):
        yield navigation
    else:
        for entry in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from listed(entry)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly and without a network."""
    folder = tmp_path_factory.mktemp("site") / "site"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0 and not done.stderr.strip(), done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_found_by_the_search(site: Path) -> None:
    pages = list(listed(settings()["nav"]))
    built = [site / re.sub(r"README\.md$", "index.md", page).replace(".md", ".html") for page in pages]
    assert [path for path in built if not path.is_file()] == []
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {path.relative_to(site).as_posix() for path in built} <= found


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r'<(?:script|img|iframe)[^>]+src="?(https?:[^" >]+)|<link[^>]+stylesheet[^>]+href="?(https?:[^" >]+)')
    assert [(page.name, hit) for page in site.rglob("*.html") for hit in loads.findall(page.read_text(encoding="utf-8"))] == []


def test_the_doors_hold_every_page() -> None:
    navigation = settings()["nav"]
    assert tuple(name for entry in navigation[1:] for name in entry) == DOORS
    pages = list(listed(navigation))
    assert len(pages) == len(set(pages))
    own = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    tutorial = {f"tutorial/{path.stem}.md" for path in (DOCS / "tutorial").glob("[0-9]*.py")}
    assert own | tutorial <= set(pages)


def test_the_api_page_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, flags=re.MULTILINE | re.DOTALL))
    assert sorted(sections) == sorted(piadm_hpc.__all__)
    for name, section in sections.items():
        assert f"::: piadm_hpc.{name}\n" in section, name
        assert re.findall(r"^- \*\*(\w+):\*\*", section, flags=re.MULTILINE) == ["Shapes", "Units", "Raises", "Source"], name


def test_the_built_api_page_shows_signatures_and_docstrings(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in piadm_hpc.__all__:
        assert f'id="piadm_hpc.{name}"' in text, name
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text))
    for docstring in (piadm_hpc.Chain.__doc__, piadm_hpc.wrap.__doc__, piadm_hpc.open.__doc__):
        assert docstring and " ".join(docstring.split("\n")[0].split()[:6]).rstrip(".") in words, docstring


def test_pages_of_use_begin_with_a_rule_and_lead_to_the_evidence() -> None:
    evidence = {Path(page).name for page in listed(next(entry["Evidence"] for entry in settings()["nav"] if "Evidence" in entry))}
    for name in ("choosing", "cluster", "output", "data", "molecules", "bring-your-network"):
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        assert text.split("\n\n")[1].startswith("**"), name
        assert set(re.findall(r"\]\(([\w-]+\.md)", text)) & evidence, name


def test_tables_and_pictures_fit() -> None:
    wide = []
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        for line in page.read_text(encoding="utf-8").splitlines():
            if re.match(r"^\|[-| :]+\|$", line) and line.count("|") - 1 > WIDEST:
                wide.append(f"{page.name}: {line.count('|') - 1} columns")
    assert wide == []
    assert sum(path.stat().st_size for path in (DOCS / "images").iterdir()) < SMALL
