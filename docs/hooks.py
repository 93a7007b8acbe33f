"""Hooks of the documentation site (mkdocs.yml): pages whose source is not a page under docs/, and links that hold in both places.

A repository viewer shows README.md, jobs/ and the tutorial's scripts where they lie. The site shows them as pages too, so a
relative link is resolved against the repository first and then rewritten to where the site has its target.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# pages of the site that lie elsewhere in the repository
BROUGHT = {
    "index.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "jobs/README.md": "jobs/README.md",
    "datasets/README.md": "datasets/README.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the tutorial, the commands, the pages brought from elsewhere, and every repository file that a page links to."""
    pages = {name: (ROOT / source).read_text(encoding="utf-8") for name, source in BROUGHT.items()}
    pages |= {f"tutorial/{path.stem}.md": tutorial_page(path) for path in sorted((ROOT / "docs" / "tutorial").glob("[0-9]*.py"))}
    pages["cli.md"] = commands_page((ROOT / "docs" / "cli.txt").read_text(encoding="utf-8"))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for file in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(file.content_string):
            found = site_path(file.src_uri, target)
            if found and files.get_file_from_path(found) is None and (ROOT / found).is_file():
                files.append(File.generated(config, found, content=(ROOT / found).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with every relative link leading to the place where the site has its target."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        target = site_path(here, link[2])
        return link[0] if target is None else f"{link[1]}{posixpath.relpath(target, posixpath.dirname(here) or '.')}{link[3]}"

    return LINK.sub(moved, markdown)


def site_path(page: str, target: str) -> str | None:
    """Where the site has the file that `target` names, seen from the page's source in the repository; None for other links."""
    if "://" in target or target.startswith("mailto:"):
        return None
    source = BROUGHT.get(page, f"docs/{page}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    at = {source: name for name, source in BROUGHT.items()}.get(path, path.removeprefix("docs/"))
    if at == "cli.txt":
        return "cli.md"
    return at.removesuffix(".py") + ".md" if at.startswith("tutorial/") and at.endswith(".py") else at


def tutorial_page(script: Path) -> str:
    """A tutorial script as a page: its docstring in words, then the code."""
    text = script.read_text(encoding="utf-8")
    words = ast.get_docstring(ast.parse(text)) or ""
    title, _, rest = words.partition("\n")
    code = text.split('"""', 2)[2].strip()
    return f"# {title.rstrip('.')}\n{rest}\n\n## The script\n\n```python\n{code}\n```\n"


def commands_page(text: str) -> str:
    """docs/cli.txt as a page with a heading for every command."""
    parts = re.split(r"^\$ (piadm .*?)\s*--help\n", text, flags=re.MULTILINE)[1:]
    named = zip(parts[::2], parts[1::2], strict=True)
    body = "".join(f"\n## {name.strip()}\n\n```text\n{printed.strip()}\n```\n" for name, printed in named)
    return f"# Commands\n\nEvery command answers `--help`; this page is what they print.\n{body}"
