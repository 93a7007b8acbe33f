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
    """Expand ~ and $VARIABLES in `name`, unless a file of that very name is there, looked for from `root`.

    Raises ValueError for a variable that is not set and for a user who is not known: a folder of such a name is hardly meant.
    """
    if "\0" in name:
        raise ValueError("a path cannot hold the character NUL")
    if _there((root or Path()) / name):
        return name
    found = os.path.expandvars(os.path.expanduser(name))
    if missing := VARIABLE.search(found):
        raise ValueError(
            f"{missing.group()} in {name!r} is not set in the environment; set it, or make a folder of that very name"
        )
    if found.startswith("~"):
        raise ValueError(f"{found.partition('/')[0]} in {name!r} is no user's folder; write the path in full")
    return found


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
