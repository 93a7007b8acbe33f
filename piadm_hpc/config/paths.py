"""Paths in configurations: ~ and $VARIABLES stand for what the shell would make of them, unless a file has that very name."""

from __future__ import annotations

import os
import re
from glob import escape, glob
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expanded(name: str, root: Path | None = None) -> str:
    """Expand ~ and $VARIABLES in `name`, save for the folders at its beginning that are there under these very names.

    They are looked for from `root`. Raises ValueError for a variable that is not set and for a user who is not known, since a
    new folder of such a name is hardly meant.
    """
    if "\0" in name:
        raise ValueError("a path cannot hold the character NUL")
    literal = _literal(name, root or Path())
    rest = name[len(literal) :]
    found = os.path.expandvars(rest if literal else os.path.expanduser(rest))
    if missing := VARIABLE.search(found):
        raise ValueError(f"{missing.group()} in {name!r} is not set in the environment; set it, or make a folder of that name")
    if found.startswith("~") and not literal:
        raise ValueError(f"{found.partition('/')[0]} in {name!r} is no user's folder; write the path in full")
    return literal + found


def _literal(name: str, root: Path) -> str:
    """The longest beginning of `name`, up to a slash or its end, that is there; empty when there is none."""
    ends = [place for place, letter in enumerate(name) if letter == "/" and place] + [len(name)]
    return next((name[:end] for end in reversed(ends) if _there(root / name[:end])), "")


PathName = Annotated[str, AfterValidator(expanded)]
"""The name of a file or folder in a configuration, expanded where it is read."""


def matching(name: str, root: Path) -> list[Path]:
    """Find the files that `name` means from `root`, in order: the file of that very name, or those that match it as a pattern.

    Folders that are there are taken literally, so that brackets in their names are no pattern. Raises ValueError as `expanded`.
    """
    path = root / expanded(name, root)
    if _there(path):
        return [path]
    known = next(folder for folder in path.parents if folder == folder.parent or _there(folder) or not folder.name)
    pattern = str(path.relative_to(known))
    return [Path(found) for found in sorted(glob(os.path.join(escape(str(known)), pattern)))]


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be looked into
        return False
