"""Validated records from TOML files: all mistakes are reported at once, each with the nearest valid name."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

MAX_SHOWN = 60

# accepted values by the kind of mistake; the braces are filled with its bound
NEEDS = {
    "int_": "a whole number",
    "float_": "a number",
    "finite_number": "a finite number",
    "bool_": "true or false",
    "string_type": "text in quotes",
    "string_too_short": "text of at least {:g} character",
    "tuple_type": "a list in brackets",
    "too_short": "a list of at least {1:g} entries",
    "too_long": "a list of at most {1:g} entries",
    "model_type": "a section of its own, with keys below it",
    "dict_type": "a section of its own, with keys below it",
    "greater_than_equal": "at least {:g}",
    "greater_than": "more than {:g}",
    "less_than_equal": "at most {:g}",
    "less_than": "less than {:g}",
}


class ConfigError(ValueError):
    """The configuration cannot be used; the message has one line per mistake."""


class Record(BaseModel):
    """A frozen record that refuses unknown keys, and booleans in place of numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("cannot be true or false")
        return value


R = TypeVar("R", bound=BaseModel)


def read(record: type[R], path: str | Path | None, overrides: Iterable[tuple[str, Any]] = ()) -> R:
    """Read a record from a TOML file, if any, and apply dotted overrides; ConfigError lists all mistakes."""
    values = {} if path is None else _load(Path(path))
    sources = [] if path is None else [str(path)]
    for key, value in overrides:
        _set(values, key, value)
        sources = [*sources[: path is not None], "the command line"]
    return build(record, values, " with ".join(sources) or "configuration")


def build(record: type[R], values: dict[str, Any], source: str = "configuration") -> R:
    """Build a record from nested values; ConfigError lists all mistakes."""
    try:
        return record.model_validate(values)
    except ValidationError as error:
        lines = _sentences(record, error.errors())
        listed = lines[0] if len(lines) == 1 else f"{len(lines)} mistakes" + "".join(f"\n  {line}" for line in lines)
        raise ConfigError(f"{source}: {listed}") from None


def override(text: str) -> tuple[str, Any]:
    """Split `key.name=value` from the command line; the value is parsed as TOML, or taken as text if it is not TOML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write it as key=value, for example solver.tol=1e-3")
    try:
        return key.strip(), parse_toml(f"value = {value.strip()}")["value"]
    except ValueError:
        return key.strip(), value.strip()


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out keys whose value is None, which TOML cannot express."""
    return {key: without_none(value) if isinstance(value, dict) else value for key, value in values.items() if value is not None}


def dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; ValueError for text that is not TOML, and for text that is nested too deeply."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _load(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a TOML file, `piadm init` prints one"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from None


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {parent} is a value, not a section")
    values[last] = value


@dataclass(frozen=True)
class _Mistake:
    """A mistake at a dotted key.

    `need` says what would be accepted. The alternatives of a union give one mistake each, and are reported together.
    """

    key: str
    text: str = ""
    need: str = ""
    given: Any = None


def _sentences(record: type[BaseModel], details: Iterable[Any]) -> list[str]:
    """Write one sentence per key, in the order of the record."""
    by_key: dict[str, list[_Mistake]] = {}
    for detail in details:
        mistake = _mistake(record, detail)
        by_key.setdefault(mistake.key, []).append(mistake)
    # mistakes within a section are enough; not being the union's other alternative is no further mistake
    sections = [
        key
        for key, mistakes in by_key.items()
        if isinstance(mistakes[0].given, dict) and any(other.startswith(f"{key}.") for other in by_key)
    ]
    return [_sentence(mistakes) for key, mistakes in by_key.items() if key not in sections]


def _sentence(mistakes: list[_Mistake]) -> str:
    first = mistakes[0]
    text = first.text or f"must be {' or '.join(dict.fromkeys(mistake.need for mistake in mistakes))}"
    shown = json.dumps(first.given, default=str, ensure_ascii=not str(first.given).isprintable())
    if not isinstance(first.given, dict):
        text += f" (given {shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + ' ...'})"
    return f"{first.key}: {text}" if first.key else text


def _mistake(record: type[BaseModel], detail: Any) -> _Mistake:
    where, section = _place(record, detail["loc"])
    key, given, kind, limits = ".".join(where), detail.get("input"), detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _Mistake(key, f"unknown key; {_advice(record, section, where)}", given={})
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        where, section = _place(record, detail["loc"][:-1])
        entries = get_args(section.model_fields[where[-1]].annotation) if section else ()
        return _Mistake(".".join(where), need=f"a list of {len(entries)} entries", given=given)
    if kind == "missing":
        return _Mistake(key, "missing; it has no default", given={})
    if kind == "value_error":
        return _Mistake(key, detail["msg"].removeprefix("Value error, "), given=given)
    if kind == "string_pattern_mismatch":
        return _Mistake(key, need=f"text that matches {limits['pattern']}", given=given)
    if kind == "literal_error":
        close = difflib.get_close_matches(str(given), re.findall("'(.*?)'", limits["expected"]), 1)
        return _Mistake(key, need=limits["expected"] + (f"; did you mean {close[0]!r}?" if close else ""), given=given)
    bounds = [words.format(*limits.values()) for start, words in NEEDS.items() if kind.startswith(start)]
    return _Mistake(key, need=bounds[0] if bounds else detail["msg"].removeprefix("Input should be "), given=given)


def _place(record: type[BaseModel], location: Iterable[Any]) -> tuple[list[str], type[BaseModel] | None]:
    """Find the key at an error's location, without the names of a union's alternatives, and the section that contains it."""
    key: list[str] = []
    parts, kind, section = list(location), cast(Any, record), None
    while parts:
        part = parts.pop(0)
        key.append(str(part))
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        field = None if section is None else section.model_fields.get(str(part))
        kind = None if field is None else field.annotation
        choices = _choices(kind)
        if parts and len(choices) > 1:
            tag = parts.pop(0)
            choices = [choice for choice in choices if getattr(choice, "__name__", "") == tag]
        kind = choices[0] if choices else kind
    return key, section


def _choices(annotation: Any) -> list[Any]:
    """List the alternatives of a union except None; the list is empty for any other annotation."""
    return [kind for kind in get_args(annotation) if kind is not NoneType] if get_origin(annotation) in (Union, UnionType) else []


def _advice(record: type[BaseModel], section: type[BaseModel] | None, where: Sequence[str]) -> str:
    """Suggest the same name in another section, else the nearest name in this section, else list all names of this section."""
    known = [] if section is None else list(section.model_fields)
    elsewhere = [name for name in _leaves(record) if name.rpartition(".")[2] == where[-1]]
    close = [".".join([*where[:-1], name]) for name in difflib.get_close_matches(where[-1], known, 1)]
    if elsewhere or close:
        return f"did you mean {' or '.join(elsewhere or close)}?"
    return f"known here: {', '.join(sorted(known))}"


def _leaves(record: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys of a record and its sections."""
    for name, field in record.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *_choices(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _leaves(kind, f"{prefix}{name}.")
