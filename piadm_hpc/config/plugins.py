"""User-defined callables, which a configuration names as "package.module:callable"."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from .validation import ConfigError

PluginName = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]


def call(key: str, name: str, *arguments: Any) -> Any:
    """Import the callable `name` and call it; ConfigError if it cannot be imported or raises an error."""
    try:
        return load(key, name)(*arguments)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key} = {name!r} failed: {type(error).__name__}: {error}") from error


def load(key: str, name: str) -> Callable[..., Any]:
    """Import the callable `name` that a configuration gives under `key`; ConfigError if it cannot be imported."""
    where, _, what = name.partition(":")
    try:
        module = importlib.import_module(where)
    except ImportError as error:
        raise ConfigError(
            f"{key} = {name!r}: {where} cannot be imported ({error}); install it, or name its folder in PYTHONPATH"
        ) from None
    member = getattr(module, what, None)
    if not callable(member):
        own = [one for one in vars(module) if callable(vars(module)[one])]
        near = difflib.get_close_matches(what, own, 1)
        raise ConfigError(f"{key} = {name!r}: {where} has no callable {what}" + (f"; did you mean {near[0]}?" if near else ""))
    function: Callable[..., Any] = member
    return function
