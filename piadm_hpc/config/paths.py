"""Paths in configurations: ~ and $VARIABLES are expanded as in a shell, unless a file or folder has exactly that name."""

from __future__ import annotations

import os
import re
from glob import escape, glob
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expanded(name: str, root: Path | None = None) -> str:
    """Expand ~ and $VARIABLES in `name`, except in leading folders that exist under exactly these names below `root`.

    Raises ValueError for a variable that is not set and for an unknown user, because a new folder with such a name is hardly
    ever intended.
    """
    if "\0" in name:
        raise ValueError("a path cannot hold the character NUL")
    literal = _literal(name, root or Path())
    rest = name[len(literal) :]
    path = os.path.expandvars(rest if literal else os.path.expanduser(rest))
    if missing := VARIABLE.search(path):
        raise ValueError(f"{missing.group()} in {name!r} is not set in the environment; set it, or make a folder of that name")
    if path.startswith("~") and not literal:
        raise ValueError(f"{path.partition('/')[0]} in {name!r} is no user's folder; write the path in full")
    return literal + path


def _literal(name: str, root: Path) -> str:
    """Return the longest leading part of `name`, up to a slash or its end, that exists; empty if there is none."""
    ends = [place for place, letter in enumerate(name) if letter == "/" and place] + [len(name)]
    return next((name[:end] for end in reversed(ends) if _there(root / name[:end])), "")


PathName = Annotated[str, Field(min_length=1), AfterValidator(expanded)]
"""The path of a file or folder in a configuration, which is not empty, and is expanded when the configuration is read."""


def matching(name: str, root: Path) -> list[Path]:
    """Find the files that `name` means below `root`, sorted: the file with exactly that name, or all matches of the pattern.

    Existing folders are taken literally, so that brackets in their names are not a pattern. Raises ValueError as `expanded`
    does.
    """
    path = root / expanded(name, root)
    if _there(path):
        return [path]
    known = next(folder for folder in path.parents if folder == folder.parent or _there(folder) or not folder.name)
    pattern = str(path.relative_to(known))
    return [Path(match) for match in sorted(glob(os.path.join(escape(str(known)), pattern)))]


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long, or the folder is not readable
        return False
