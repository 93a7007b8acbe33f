"""Comparison of configurations: whether they draw the same samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from ..config.legacy import upgraded_run
from ..config.validation import dotted, parse_toml

RUN_FILE = "run.toml"
UNSET = "(not set)"


def to_toml(config: Mapping[str, Any]) -> str:
    """Write a configuration as TOML; keys that are None are left out, since TOML cannot express None."""
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
    """Compare two configurations in TOML: one line for each key that differs and is not covered by `independent`.

    A dotted name in `independent` covers the keys below it. Raises ValueError when a text is not TOML.
    """
    return _differing(parse_toml(there), parse_toml(here), independent)


def differences_of_json(there: str, here: str, independent: frozenset[str]) -> list[str]:
    """Compare two configurations in JSON as `differences` does; an empty text agrees with everything.

    A text that is not a configuration is a difference by itself.
    """
    if not there or not here or there == here:
        return []
    try:
        return _differing(json.loads(there), json.loads(here), independent)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ["its configuration cannot be read"]


def as_json(config: Mapping[str, Any]) -> str:
    """A configuration as the JSON that every file of a run has in its attribute `piadm_config`."""
    return json.dumps(config, sort_keys=True, default=str)


def plain(value: Any) -> Any:
    """Convert values that JSON does not know to lists, numbers or text: the `default` of json.dumps."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def run_config(folder: Path) -> str:
    """The configuration in a folder's run.toml as JSON; empty when it cannot be read."""
    try:
        return as_json(parse_toml((folder / RUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""


def _differing(there: Mapping[str, Any], here: Mapping[str, Any], independent: frozenset[str]) -> list[str]:
    old, new = dotted(upgraded_run(there)), dotted(upgraded_run(here))
    keys = sorted(key for key in old.keys() | new.keys() if not _covered(key, independent))
    pairs = [(key, old.get(key, UNSET), new.get(key, UNSET)) for key in keys]
    # compared as text where they are not equal, so that nan agrees with nan
    return [f"{key}: {a!r} there, {b!r} here" for key, a, b in pairs if a != b and repr(a) != repr(b)]


def without_keys(config: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Flatten a nested configuration to dotted names, without those in `names` and the keys below them."""
    return {key: value for key, value in dotted(config).items() if not _covered(key, names)}


def _covered(key: str, names: frozenset[str]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))
