"""Write docs/configuration.md, docs/cli.txt and the table of docs/integrators.md from the code: `make docs`, checked by a test.

The meaning of a key is in docs/meanings.toml; its name and default are in the records of the package.
"""

from __future__ import annotations

import contextlib
import io
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from piadm_hpc.cli.main import NAMES, main
from piadm_hpc.config.run import INDEPENDENT_KEYS, RunConfig
from piadm_hpc.integrators.catalogue import INTEGRATORS
from piadm_hpc.models.config import ConformerTrainConfig, TrainConfig

DOCS = Path(__file__).resolve().parent

HEAD = """\
# Configuration

Written by `docs/generate.py` from the records that check every configuration; do not edit.

Sections are TOML tables: `grid.steps` is the key `steps` under `[grid]`. On the command line the same key is
`--set grid.steps=64`; in Python it is `RunConfig(model=..., grid={"steps": 64})`. Unknown keys and bad values are refused, all at
once, each with the nearest valid name. `piadm init` prints commented files to start from, `piadm check run.toml` reads one.
"""

RUN_HEAD = """
## A run: `piadm sample`, `piadm plan`

Keys marked * never change a sample beyond rounding: a run may be continued with other values of these. All others must stay as
they were, or the run is refused, naming the keys that differ.
"""

TRAIN_HEAD = """
## Training: `piadm train`
"""

CONFORMERS_HEAD = """
## Training on conformers: `piadm train`, where `data.trajectories` is given
"""


def fields(record: type[BaseModel], prefix: str = "", given: BaseModel | None = None) -> Iterator[tuple[str, Any, str]]:
    """Dotted keys of a record and of its sections, with their type and default; `given` is the default section itself."""
    for name, field in record.model_fields.items():
        default = field.default if given is None else getattr(given, name)
        choices = (field.annotation, *get_args(field.annotation))
        sections = [kind for kind in choices if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not sections or len(get_args(field.annotation)) > 1:
            yield prefix + name, field.annotation, default_text(default, bool(sections))
        if sections:
            yield from fields(sections[0], f"{prefix}{name}.", default if isinstance(default, sections[0]) else None)


def default_text(value: Any, section: bool) -> str:
    if section:
        return "section"
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return ""
    if value == float("inf"):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        inner = ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value)
        return f"`[{inner}]`"
    return f"`{value}`"


def table(record: type[BaseModel], meanings: dict[str, str], marked: frozenset[str] = frozenset()) -> str:
    """A markdown table with one row per key; ValueError unless every key has a meaning here and the other way round."""
    rows = list(fields(record))
    wrong = {key for key, _, _ in rows} ^ set(meanings)
    if wrong:
        raise ValueError(
            f"docs/generate.py: {', '.join(sorted(wrong))} is either unknown or without a meaning; describe it there"
        )
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{key}`{'*' if key in marked else ''} | {default} | {meanings[key]} |" for key, _, default in rows]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """The text of docs/configuration.md."""
    meanings = tomllib.loads((DOCS / "meanings.toml").read_text(encoding="utf-8"))
    run, train = table(RunConfig, meanings["run"], INDEPENDENT_KEYS), table(TrainConfig, meanings["train"])
    known = {key for key, _, _ in fields(ConformerTrainConfig)}
    # the meaning of a key is written once, unless it means something else here
    shared = {key: meaning for key, meaning in meanings["train"].items() if key in known}
    conformers = table(ConformerTrainConfig, shared | meanings["conformers"])
    return f"{HEAD}{RUN_HEAD}\n{run}{TRAIN_HEAD}\n{train}{CONFORMERS_HEAD}\n{conformers}"


def cli() -> str:
    """The text of docs/cli.txt: what `piadm --help` and every command's --help print on a screen of 100 columns."""
    parts = []
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    try:
        for command in ("", *NAMES):
            words, printed = [*command.split(), "--help"], io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
                main(words)
            parts.append(f"$ piadm {' '.join(words)}\n{printed.getvalue()}")
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    return "\n".join(parts)


def integrators() -> str:
    """The text of docs/integrators.md with the table of the catalogue as it is now."""
    text = (DOCS / "integrators.md").read_text(encoding="utf-8")
    head, start, rest = text.partition("<!-- piadm integrators -->\n")
    end = "<!-- end -->\n"
    lines = ["| name | order | calls | random | space | options | what | source |", "|" + " --- |" * 8]
    for one in INTEGRATORS.values():
        options = ", ".join(f"`{key}`" for key in one.reads)
        cells = (f"`{one.name}`", one.order, one.calls, one.noise, one.space, options, one.about, one.source)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return head + start + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


if __name__ == "__main__":
    (DOCS / "integrators.md").write_text(integrators(), encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration(), encoding="utf-8")
    (DOCS / "cli.txt").write_text(cli(), encoding="utf-8")
