"""Packages whose public names are loaded when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

NONE: Mapping[str, str] = MappingProxyType({})


def loader(
    package: str, homes: Mapping[str, str], *, modules: Mapping[str, str] = NONE, aliases: Mapping[str, str] = NONE
) -> Callable[[str], Any]:
    """The `__getattr__` of a package: `homes` says in which of its modules each name lives, `modules` where a module lies.

    A name in `aliases` is called otherwise in its module. What was loaded is kept as an attribute of the package.
    """

    def load(name: str) -> Any:
        if name in modules:
            value = importlib.import_module(f".{modules[name]}", package)
        elif name in homes:
            value = getattr(importlib.import_module(f".{homes[name]}", package), aliases.get(name, name))
        else:
            raise AttributeError(f"{package} has no {name!r}; its public names are {', '.join(sorted([*homes, *modules]))}")
        setattr(sys.modules[package], name, value)
        return value

    return load
