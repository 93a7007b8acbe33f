"""Reading validated records from TOML: every mistake at once, each with the nearest valid name."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message has one line per mistake."""


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=BaseModel)


def read(record: type[R], path: str | Path | None, overrides: Iterable[tuple[str, Any]] = ()) -> R:
    """A record from a TOML file (or from nothing) with dotted overrides; ConfigError lists every mistake."""
    values = {} if path is None else _load(Path(path))
    for key, value in overrides:
        _set(values, key, value)
    return build(record, values, "the command line" if path is None else str(path))


def build(record: type[R], values: dict[str, Any], source: str = "configuration") -> R:
    """A record from nested values; ConfigError lists every mistake."""
    try:
        return record.model_validate(values)
    except ValidationError as error:
        lines = [_line(record, detail) for detail in error.errors()]
        raise ConfigError(
            f"{source}: {len(lines)} mistake{'s' * (len(lines) > 1)}\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def override(text: str) -> tuple[str, Any]:
    """`key.name=value` from the command line; the value as TOML where it reads as TOML, else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write it as key=value, for example solver.tol=1e-3")
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Nested values as TOML can hold them: keys that are None left out."""
    return {key: without_none(value) if isinstance(value, dict) else value for key, value in values.items() if value is not None}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a TOML file, `piadm init` prints one"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from None


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {parent} is a value, not a section")
    values[last] = value


def _line(record: type[BaseModel], detail: Any) -> str:
    where = [str(part) for part in detail["loc"]]
    key, given = ".".join(where), detail.get("input")
    if detail["type"] == "extra_forbidden":
        known = _names(record, where[:-1])
        close = difflib.get_close_matches(where[-1], known, 1, 0.5)
        advice = f"did you mean {'.'.join([*where[:-1], close[0]])}?" if close else f"known here: {', '.join(sorted(known))}"
        return f"{key}: unknown key; {advice}"
    if detail["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error" and isinstance(given, str):
        choices = [
            choice
            for choice in message.replace("'", " ").replace(",", " ").split()
            if choice not in ("Input", "should", "be", "or")
        ]
        close = difflib.get_close_matches(given, choices, 1, 0.5)
        message += f"; did you mean {close[0]!r}?" if close else ""
    shown = "" if isinstance(given, dict) else f" (given {json.dumps(given, default=str)})"
    return f"{key}: {message}{shown}" if key else message


def _names(record: type[BaseModel], where: Sequence[str]) -> list[str]:
    """Field names of the section at `where`."""
    for part in where:
        field = record.model_fields.get(part)
        inner = (
            [] if field is None else [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        )
        sections = [kind for kind in inner if issubclass(kind, BaseModel)]
        if not sections:
            return []
        record = sections[0]
    return list(record.model_fields)
