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
    """Build the `__getattr__` of a package: `homes` gives the module of each name, `modules` the place of each module.

    `aliases` maps names to their names in their module, where these differ. Loaded objects become attributes of the package.
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
