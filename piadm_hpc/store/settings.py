"""Whether two configurations draw the same samples."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from ..config.legacy import upgraded_run
from ..config.validation import dotted

RUN_FILE = "run.toml"
UNSET = "(not set)"


def to_toml(config: Mapping[str, Any]) -> str:
    """The configuration as TOML; what is None is left out, since TOML has no word for it."""
    return tomli_w.dumps(_plain(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value if item is not None]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def differences(there: str, here: str, independent: frozenset[str]) -> list[str]:
    """One line per key whose value differs between two TOML texts, save for those in `independent` and what lies below them."""
    old, new = dotted(upgraded_run(tomllib.loads(there))), dotted(tomllib.loads(here))
    keys = sorted(key for key in old.keys() | new.keys() if not _covered(key, independent))
    pairs = [(key, old.get(key, UNSET), new.get(key, UNSET)) for key in keys]
    # compared as text where they are not equal, so that nan agrees with nan
    return [f"{key}: {a!r} there, {b!r} here" for key, a, b in pairs if a != b and repr(a) != repr(b)]


def without_keys(config: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """A nested configuration by dotted names, without those in `names` and what lies below them."""
    return {key: value for key, value in dotted(config).items() if not _covered(key, names)}


def _covered(key: str, names: frozenset[str]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))
